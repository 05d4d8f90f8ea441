"""How much may wait before a request."""

from __future__ import annotations

import pytest

from multigraft_adapters.errors import OverloadedError
from multigraft_server.engine.queue_bound import QueueBound
from multigraft_server.engine.requests import PoolingParams, Request, SamplingParams
from multigraft_server.engine.settings import EngineSettings

BOUND = EngineSettings(max_step_tokens=100, max_running_rows=8, max_waiting_steps=2, max_waiting_rounds=0.5)
POOLED, WRITTEN = PoolingParams("head"), SamplingParams(max_tokens=50)


def request(task: str, tokens: int, params: PoolingParams | SamplingParams = POOLED) -> Request:
    return Request("id", task, "digest", (0,) * tokens, params, lambda event: None, 0.0)


def refuses(bound: QueueBound, task: str, *, generates: bool = False) -> bool:
    try:
        bound.check(task, generates)
    except OverloadedError:
        return True
    return False


def test_inputs_wait_for_tokens_and_answers_for_rows() -> None:
    bound = QueueBound(BOUND)
    bound.enter(request("a", 199))
    for _ in range(11):  # a full set runs, and half of one may wait
        bound.enter(request("a", 1000, WRITTEN))
    assert not refuses(bound, "a") and not refuses(bound, "a", generates=True)
    bound.enter(request("a", 1))
    bound.enter(request("a", 1, WRITTEN))
    assert refuses(bound, "a") and refuses(bound, "a", generates=True)
    bound.leave(request("a", 1))
    assert not refuses(bound, "a") and refuses(bound, "a", generates=True)


def test_a_flood_of_one_task_does_not_keep_others_out_and_many_tasks_share_the_room() -> None:
    bound = QueueBound(BOUND)
    bound.enter(request("hot", 10_000))
    assert refuses(bound, "hot") and not refuses(bound, "cold")
    bound.enter(request("cold", 99))
    assert not refuses(bound, "cold")
    bound.enter(request("cold", 1))
    assert refuses(bound, "cold")  # its own 100, and as much of the hot task's
    assert not refuses(bound, "other")


def test_what_has_left_leaves_nothing_and_without_bounds_nothing_is_refused() -> None:
    bound, free = QueueBound(BOUND), QueueBound(EngineSettings())
    for one in (bound, free):
        one.enter(request("a", 10_000))
    assert refuses(bound, "a") and not refuses(free, "a")
    bound.leave(request("a", 10_000))
    assert not refuses(bound, "a")


@pytest.mark.parametrize("turns", [0.001, 1])
def test_however_small_the_bound_one_request_is_always_taken(turns: float) -> None:
    bound = QueueBound(EngineSettings(max_waiting_steps=turns, max_waiting_rounds=turns))
    assert not refuses(bound, "a") and not refuses(bound, "a", generates=True)
