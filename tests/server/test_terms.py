"""What callers ask of the scheduling, over HTTP: priorities and deadlines."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from multigraft_server.engine.settings import EngineSettings
from tests.server.conftest import Serve
from tests.server.running import Served

PROMPT = "hello"
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "style", "messages": [{"role": "user", "content": PROMPT}]},
    "/v1/completions": {"model": "style", "prompt": PROMPT},
    "/v1/embeddings": {"model": "vector", "input": PROMPT},
    "/v1/tasks/topic/predict": {"inputs": PROMPT},
    "/v1/predict": {"inputs": PROMPT, "tasks": ["topic", "style"]},
}
LONG = {"model": "tiny-llama", "prompt": PROMPT, "max_tokens": 200, "ignore_eos": True}


def slow_engine(serve: Serve, rows: int = 1) -> Served:
    return serve(pause_seconds=0.02, engine=EngineSettings(max_running_rows=rows, age_bound_s=60.0))


@pytest.mark.parametrize("path", BODIES)
def test_every_route_takes_a_priority_and_a_timeout(path: str, decoder: Served) -> None:
    response = decoder.post(path, BODIES[path] | {"priority": -3}, headers={"x-request-timeout": "30"})
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("priority", ["high", 1.5, 2**31])
def test_a_priority_is_a_whole_number(path: str, priority: Any, decoder: Served) -> None:
    error = decoder.post(path, BODIES[path] | {"priority": priority})
    assert error.status_code == 400
    assert (error.json()["error"]["param"], error.json()["error"]["code"]) == ("priority", "invalid_request")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("timeout", ["0", "-1", "soon", "inf", "nan"])
def test_a_timeout_is_a_positive_number(path: str, timeout: str, decoder: Served) -> None:
    error = decoder.post(path, BODIES[path], headers={"x-request-timeout": timeout})
    assert error.status_code == 400
    assert error.json()["error"]["param"] == "x-request-timeout"


def test_an_entry_of_a_mixed_request_has_its_own_priority(decoder: Served) -> None:
    entries = [{"task": "topic", "inputs": PROMPT, "priority": number} for number in (-1, 5)]
    results = decoder.post("/v1/predict", {"requests": entries}).json()["results"]
    assert [result["output"][0][0]["label"] for result in results]
    assert decoder.post("/v1/predict", {"requests": [entries[0] | {"priority": "x"}]}).status_code == 400


def test_an_answer_over_its_deadline_is_a_504_and_its_row_is_freed(serve: Serve) -> None:
    served = slow_engine(serve)
    response = served.post("/v1/completions", LONG, headers={"x-request-timeout": "0.2"})
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "deadline_exceeded"
    assert served.counted(task="tiny-llama", outcome="deadline") == 1
    served.rest()
    state = served.http.get("/v1/engine").json()
    assert (state["running"], state["kv_tokens"]["used"]) == (0, 0)


def test_a_stream_over_its_deadline_ends_with_the_error(serve: Serve) -> None:
    served = slow_engine(serve)
    text = served.post("/v1/completions", LONG | {"stream": True}, headers={"x-request-timeout": "0.3"}).text
    assert '"deadline_exceeded"' in text.splitlines()[-2] + text.splitlines()[-1]


def test_what_expires_while_it_waits_is_never_computed(serve: Serve) -> None:
    served = slow_engine(serve)
    running = threading.Thread(target=served.post, args=("/v1/completions", LONG | {"max_tokens": 60}))
    running.start()
    wait_for(lambda: served.parts.engine.snapshot().running == 1)
    before = served.counted("multigraft_tokens_total", kind="prompt")
    response = served.post("/v1/completions", LONG, headers={"x-request-timeout": "0.2"})
    assert response.status_code == 504
    assert served.counted("multigraft_tokens_total", kind="prompt") == before
    running.join()


def test_the_servers_own_timeout_holds_where_it_is_earlier(serve: Serve) -> None:
    served = serve(pause_seconds=0.02, request_timeout_seconds=0.2)
    started = time.monotonic()
    response = served.post("/v1/completions", LONG, headers={"x-request-timeout": "3600"})
    assert response.status_code == 504
    assert time.monotonic() - started < 3


def test_a_more_urgent_request_goes_before_those_that_wait(serve: Serve) -> None:
    served = slow_engine(serve)
    ended: list[str] = []

    def ask(name: str, priority: int) -> None:
        served.post("/v1/completions", LONG | {"max_tokens": 12, "priority": priority})
        ended.append(name)

    threads = [threading.Thread(target=ask, args=("first", 0))]
    threads[0].start()
    wait_for(lambda: served.parts.engine.snapshot().running == 1)
    for number, (name, priority) in enumerate([("late", 5), ("default", 0), ("urgent", -5)], start=1):
        threads.append(threading.Thread(target=ask, args=(name, priority)))
        threads[-1].start()
        wait_for_waiting(served, number)
    for thread in threads:
        thread.join()
    assert ended == ["first", "urgent", "default", "late"]


def wait_for_waiting(served: Served, number: int) -> None:
    wait_for(lambda: served.parts.engine.snapshot().waiting >= number)


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)
