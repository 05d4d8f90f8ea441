"""The engine's life through its loop: ends, errors, cancellation, bounds."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from multigraft_adapters.errors import (
    AdapterLoadError,
    DeadlineError,
    DrainingError,
    OverloadedError,
    RequestCancelledError,
    StepFailedError,
)
from multigraft_adapters.methods import LoraDelta
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.requests import Finished, PoolingParams, SamplingParams, Token
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, make_request, random_adapter, run_all, run_together, running_engine

PROMPT = list(range(20, 40))
ENDLESS = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
SHORT = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)


def wait_until(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def test_a_finished_request_tells_when_it_ran_and_in_what_company(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    adapters = {name: random_adapter(base.spec, name, 4, seed) for seed, name in enumerate("ab")}
    with running_engine(base, adapters) as loop:
        outcomes = run_all(loop, [(digest, PROMPT, ENDLESS) for digest in ("a", "b", "base")])
    last = outcomes[0].last
    assert isinstance(last, Finished)
    assert last.reason == "length"
    assert last.timing.arrival <= last.timing.started <= last.timing.finished
    assert last.timing.step_adapters == 3


def test_requests_submitted_together_share_a_step(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    names = "abcdef"
    adapters = {name: random_adapter(base.spec, name, 4, seed) for seed, name in enumerate(names)}
    with running_engine(base, adapters) as loop:
        run_all(loop, [(name, PROMPT, SHORT) for name in names])
        for _ in range(20):
            outcomes = [Outcome() for _ in names]
            with loop.together():
                for name, outcome in zip(names, outcomes, strict=True):
                    loop.submit(make_request(outcome, PROMPT, PoolingParams("head"), digest=name))
            for outcome in outcomes:
                assert isinstance(outcome.last, Finished)
                assert outcome.last.timing.step_adapters == len(names)


def test_a_cancelled_request_frees_its_row_within_a_step(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}) as loop:
        outcome = Outcome()
        request = make_request(outcome, PROMPT, ENDLESS)
        loop.submit(request)
        wait_until(lambda: outcome.events)
        loop.cancel(request.id)
        assert isinstance(outcome.error, RequestCancelledError)
        assert sum(isinstance(event, Token) for event in outcome.events) < ENDLESS.max_tokens
        wait_until(lambda: loop.snapshot().running == 0)
        assert loop.snapshot().kv_tokens_used == 0
        loop.cancel(request.id)
        assert run_all(loop, [("base", PROMPT, SHORT)])[0].tokens


def test_an_adapter_that_cannot_be_loaded_fails_its_own_requests_only(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}, EngineSettings(retry_load_s=60.0)) as loop:
        good, bad, again = Outcome(), Outcome(), Outcome()
        loop.submit(make_request(good, PROMPT, SHORT))
        loop.submit(make_request(bad, PROMPT, SHORT, digest="broken"))
        assert isinstance(bad.error, AdapterLoadError)
        loop.submit(make_request(again, PROMPT, SHORT, digest="broken"))
        assert isinstance(again.error, AdapterLoadError)
        assert good.tokens


def test_one_load_serves_all_who_wait_for_it(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    adapter = random_adapter(base.spec, "slow", 4, 1)
    loads: list[str] = []
    release = threading.Event()

    def fetch(digest: str) -> VerifiedAdapter:
        loads.append(digest)
        assert release.wait(30)
        return adapter

    loop = build_engine(base, EngineSettings(), fetch)
    loop.start()
    try:
        waiting = [Outcome() for _ in range(5)]
        for outcome in waiting:
            loop.submit(make_request(outcome, PROMPT, SHORT, digest="slow"))
        beside = run_all(loop, [("base", PROMPT, SHORT)])[0]
        assert beside.tokens, "a load must not hold up others"
        assert not any(outcome.done.is_set() for outcome in waiting)
        release.set()
        assert all(outcome.tokens for outcome in waiting)
        assert loads == ["slow"]
    finally:
        loop.stop()


def test_a_failing_step_ends_its_rows_and_the_engine_goes_on(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    with running_engine(base, {"fine": random_adapter(base.spec, "fine", 4, 2)}) as loop:
        outcome = Outcome()
        loop.submit(make_request(outcome, [10**6], SHORT, digest="fine"))  # beyond the vocabulary
        assert isinstance(outcome.error, StepFailedError)
        assert "fine" not in loop.snapshot().slots.values()
        assert run_all(loop, [("fine", PROMPT, SHORT)])[0].tokens
        assert loop.alive


def test_an_adapter_that_cannot_be_written_into_a_slot_fails_its_own_rows_only(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    broken = random_adapter(base.spec, "broken", 4, 1)
    assert isinstance(broken.delta, LoraDelta)
    path = next(iter(broken.delta.pairs))
    pair = broken.delta.pairs[path]
    misshapen = {**broken.delta.pairs, path: type(pair)(torch.zeros(4, 5), pair.b, 1.0)}
    hostile = VerifiedAdapter(
        digest="broken",
        manifest=broken.manifest,
        files={},
        delta=type(broken.delta)(misshapen),
        head=broken.head,
    )
    fine = random_adapter(base.spec, "fine", 4, 2)
    with running_engine(base, {"broken": hostile, "fine": fine}, EngineSettings(slots=2)) as loop:
        alone = run_all(loop, [("fine", PROMPT, SHORT)])[0].tokens
        for is_pinned in (False, True):
            loop.keep(frozenset({"broken"} if is_pinned else ()))
            outcomes = run_together(
                loop,
                [
                    lambda outcome: make_request(outcome, PROMPT, SHORT, digest="broken"),
                    lambda outcome: make_request(outcome, PROMPT, SHORT, digest="fine"),
                    lambda outcome: make_request(outcome, PROMPT, SHORT, digest="broken"),
                ],
            )
            assert isinstance(outcomes[0].error, StepFailedError) and isinstance(
                outcomes[2].error, StepFailedError
            )
            assert outcomes[1].tokens == alone
        assert "broken" not in loop.snapshot().slots.values()
        assert loop.alive


def test_a_deadline_ends_a_request_with_an_error(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}) as loop:
        outcome = Outcome()
        loop.submit(make_request(outcome, PROMPT, ENDLESS, deadline=time.monotonic() + 0.03))
        assert isinstance(outcome.error, DeadlineError)


def test_a_full_queue_refuses_and_nothing_accepted_is_lost(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}, EngineSettings(max_waiting_requests=3)) as loop:
        outcomes = [Outcome() for _ in range(3)]
        for outcome in outcomes:
            loop.submit(make_request(outcome, PROMPT, ENDLESS))
        with pytest.raises(OverloadedError):
            loop.submit(make_request(Outcome(), PROMPT, ENDLESS))
        assert all(len(outcome.tokens) == ENDLESS.max_tokens for outcome in outcomes)
        assert run_all(loop, [("base", PROMPT, SHORT)])[0].tokens


def test_a_flood_of_one_task_leaves_the_others_room_in_the_queue(load_tiny: LoadTiny) -> None:
    base, most = load_tiny("llama"), 30
    adapters = {name: random_adapter(base.spec, name, 4, seed) for seed, name in enumerate("ab")}
    with running_engine(base, adapters, EngineSettings(max_waiting_requests=most)) as loop:
        flood: list[Outcome] = []
        with pytest.raises(OverloadedError, match="no room for 'a'"):
            for _ in range(most):
                loop.submit(make_request(outcome := Outcome(), PROMPT, ENDLESS, digest="a"))
                flood.append(outcome)
        assert 0.8 * most < len(flood) < most
        others = run_all(loop, [("b", PROMPT, SHORT), ("base", PROMPT, SHORT)])
        assert all(len(outcome.tokens) == SHORT.max_tokens for outcome in others)
        assert all(len(outcome.tokens) == ENDLESS.max_tokens for outcome in flood)
        assert run_all(loop, [("a", PROMPT, SHORT)])[0].tokens


def test_stopping_ends_open_requests_and_refuses_new_ones(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}) as loop:
        outcome = Outcome()
        loop.submit(make_request(outcome, PROMPT, ENDLESS))
        wait_until(lambda: outcome.events)
        loop.stop()
        assert isinstance(outcome.error, DrainingError)
        assert not loop.alive
        with pytest.raises(DrainingError):
            loop.submit(make_request(Outcome(), PROMPT, SHORT))


def test_a_broken_sink_harms_nobody_else(load_tiny: LoadTiny) -> None:
    with running_engine(load_tiny("llama"), {}) as loop:

        class Broken(Outcome):
            def sink(self, event: object) -> None:
                raise ValueError("the caller's side is broken")

        loop.submit(make_request(Broken(), PROMPT, SHORT))
        assert run_all(loop, [("base", PROMPT, SHORT)])[0].tokens
        wait_until(lambda: loop.snapshot().running == 0)


def test_bf16_answers_in_a_crowd_agree_with_those_alone(
    load_tiny: LoadTiny, record_property: pytest.TestReport
) -> None:
    """bf16 products round differently in batches of another shape: vectors agree to a few bf16 steps (2^-8)."""
    base = load_tiny("bert", dtype="bfloat16")
    adapters = {name: random_adapter(base.spec, name, 4, seed) for seed, name in enumerate("abc")}
    prompts = [list(range(20 + i, 40 + 2 * i)) for i in range(12)]
    with running_engine(base, adapters) as loop:
        wanted = [("abc"[i % 3], prompt, PoolingParams("head")) for i, prompt in enumerate(prompts)]
        crowd = run_all(loop, wanted)
        alone = [run_all(loop, [entry])[0] for entry in wanted]
    for one, many in zip(alone, crowd, strict=True):
        torch.testing.assert_close(many.values, one.values, atol=2e-2, rtol=0)
