"""Where adapters are: budgets, loads ahead of requests, failures with backoff, pins, and what is let go of."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import torch

from multigraft_adapters.bases import Base
from multigraft_adapters.errors import AdapterLoadError, DrainingError, MultigraftError
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.requests import EngineSnapshot, PoolingParams, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from tests.engine.conftest import LoadTiny
from tests.engine.harness import Outcome, make_request, random_adapter, run_all

TOKENS = [11, 12, 13, 14]
POOLED = PoolingParams("head")
SHORT = SamplingParams(max_tokens=3, temperature=0.0, ignore_eos=True)
ENDLESS = SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
NAMES = [f"adapter-{index}" for index in range(6)]


class Shelf:
    """A store that can be slow, or broken, for some adapters."""

    def __init__(self, base: Base, names: list[str] = NAMES, rank: int = 4) -> None:
        self.adapters = {name: random_adapter(base.spec, name, rank, seed) for seed, name in enumerate(names)}
        self.broken: set[str] = set()
        self.slow: dict[str, threading.Event] = {}
        self.loads: Counter[str] = Counter()

    def fetch(self, digest: str) -> VerifiedAdapter:
        self.loads[digest] += 1
        if digest in self.slow:
            assert self.slow[digest].wait(30)
        if digest in self.broken:
            raise OSError("the disk is gone")
        return self.adapters[digest]

    @contextmanager
    def serving(self, base: Base, **settings: float) -> Iterator[EngineLoop]:
        loop = build_engine(base, EngineSettings(**settings), self.fetch)  # type: ignore[arg-type]
        loop.start()
        try:
            yield loop
        finally:
            loop.stop()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def vectors(loop: EngineLoop, names: list[str]) -> list[torch.Tensor]:
    return [outcome.values for outcome in run_all(loop, [(name, TOKENS, POOLED) for name in names])]


def fetched(loop: EngineLoop, digest: str) -> MultigraftError | None:
    told: SimpleQueue[MultigraftError | None] = SimpleQueue()
    loop.fetch_ahead(digest, told.put)
    return told.get(timeout=30)


def settled(loop: EngineLoop, name: str) -> EngineSnapshot:
    """The engine's state after all that has been asked; `name` is in host memory."""
    assert fetched(loop, name) is None  # asked once, the step before is over; twice, its state is told
    assert fetched(loop, name) is None
    return loop.snapshot()


def ask(loop: EngineLoop, digest: str, params: SamplingParams | PoolingParams = POOLED) -> Outcome:
    outcome = Outcome()
    loop.submit(make_request(outcome, TOKENS, params, digest=digest))
    return outcome


def test_answers_are_the_same_however_often_adapters_leave_and_come_back(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    with shelf.serving(load_tiny("llama"), slots=6) as loop:
        expected = vectors(loop, NAMES)
        own = settled(loop, NAMES[0]).bytes["host"] // len(NAMES)
    shelf.loads.clear()
    with shelf.serving(load_tiny("llama"), slots=2, host_bytes=2 * own) as loop:
        for _ in range(3):
            for answers in (vectors(loop, NAMES), vectors(loop, NAMES[::-1])[::-1]):
                for answer, alone in zip(answers, expected, strict=True):
                    torch.testing.assert_close(answer, alone)
        wait_until(lambda: loop.snapshot().bytes["host"] <= 2 * own)
        assert len(settled(loop, loop.snapshot().host_digests[-1]).slots) == 2
    assert sum(shelf.loads.values()) > len(NAMES)


def test_more_tasks_than_slots_and_bytes_all_end(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    with shelf.serving(base, slots=3, host_bytes=2048, device_bytes=40_000, load_threads=2) as loop:
        asked = [(name, TOKENS, params) for name in NAMES * 4 for params in (SHORT, POOLED)]
        assert all(outcome.events for outcome in run_all(loop, asked))
        assert loop.snapshot().slot_bytes <= 40_000


def test_an_adapter_larger_than_the_device_s_budget_fails_its_own_requests(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base, NAMES[:1])
    shelf.adapters["large"] = random_adapter(base.spec, "large", 64, 9)
    with shelf.serving(base, device_bytes=40_000) as loop:
        assert "needs" in str(ask(loop, "large").error)
        assert len(ask(loop, NAMES[0]).values)


def test_slow_loads_hold_up_neither_resident_tasks_nor_other_loads(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    shelf.slow = {name: threading.Event() for name in NAMES[:3]}
    with shelf.serving(base, load_threads=4) as loop:
        stuck = [ask(loop, name) for name in NAMES[:3]]
        assert all(len(ask(loop, name).values) for name in NAMES[3:])
        assert not any(outcome.done.is_set() for outcome in stuck)
        wait_until(lambda: set(loop.snapshot().loading) == set(NAMES[:3]))
        for event in shelf.slow.values():
            event.set()
        assert all(len(outcome.values) for outcome in stuck)


def test_a_load_that_nobody_waits_for_any_more_is_not_begun(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    shelf.slow = {NAMES[0]: threading.Event()}
    with shelf.serving(base, load_threads=1) as loop:
        first, second, third = (ask(loop, name) for name in NAMES[:3])
        wait_until(lambda: NAMES[2] in loop.snapshot().loading)
        gone = Outcome()
        request = make_request(gone, TOKENS, POOLED, digest=NAMES[3])
        loop.submit(request)
        loop.cancel(request.id, DrainingError("not today"))
        assert isinstance(gone.error, DrainingError)
        shelf.slow[NAMES[0]].set()
        assert all(len(outcome.values) for outcome in (first, second, third))
        assert shelf.loads[NAMES[3]] == 0


def test_a_failed_load_is_remembered_for_longer_each_time_and_then_tried_again(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    shelf.broken.add(NAMES[0])
    with shelf.serving(base, retry_load_s=0.2, max_retry_load_s=60.0) as loop:
        for attempt in (1, 2):
            assert "the disk is gone" in str(ask(loop, NAMES[0]).error)
            again = ask(loop, NAMES[0]).error
            assert isinstance(again, AdapterLoadError) and f"attempt {attempt}; it is tried again" in again.message
            assert shelf.loads[NAMES[0]] == attempt
            wait_until(lambda: loop.snapshot().failed_loads.keys() == {NAMES[0]})
            time.sleep(0.2 * attempt + 0.05)
        shelf.broken.clear()
        assert len(ask(loop, NAMES[0]).values)
        wait_until(lambda: not loop.snapshot().failed_loads)


def test_what_is_fetched_ahead_is_there_when_the_first_request_comes(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    shelf.broken.add(NAMES[1])
    with shelf.serving(base) as loop:
        assert fetched(loop, NAMES[0]) is None
        assert fetched(loop, NAMES[0]) is None
        assert settled(loop, NAMES[0]).host_digests == (NAMES[0],)
        assert len(ask(loop, NAMES[0]).values)
        assert shelf.loads[NAMES[0]] == 1
        assert isinstance(fetched(loop, NAMES[1]), AdapterLoadError)
        assert isinstance(fetched(loop, NAMES[1]), AdapterLoadError)
        assert shelf.loads[NAMES[1]] == 1
    assert fetched(loop, NAMES[0]) is not None


def test_what_is_fetched_ahead_pushes_nothing_out_that_is_in_use(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    with shelf.serving(base) as loop:
        vectors(loop, NAMES[:1])
        own = settled(loop, NAMES[0]).bytes["host"]
    shelf.loads.clear()
    with shelf.serving(load_tiny("llama"), host_bytes=3 * own) as loop:
        vectors(loop, NAMES[:2])
        assert [fetched(loop, name) for name in NAMES[2:]] == [None] * 4
        assert set(settled(loop, NAMES[0]).host_digests) == {*NAMES[:2], NAMES[-1]}
        vectors(loop, NAMES[:2])
        assert shelf.loads[NAMES[0]] == shelf.loads[NAMES[1]] == 1


def test_a_pinned_adapter_stays_in_its_slot_and_one_slot_is_left_for_the_others(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    with shelf.serving(base, slots=3, host_bytes=1024) as loop:
        loop.keep(frozenset(NAMES[:4]))
        wait_until(lambda: len(loop.snapshot().slots) == 2)
        pinned = set(loop.snapshot().slots.values())
        assert pinned < set(NAMES[:4])
        for _ in range(2):
            vectors(loop, NAMES)
            assert pinned <= set(settled(loop, NAMES[0]).slots.values())
        assert all(shelf.loads[name] == 1 for name in NAMES[:4])
        wait_until(lambda: set(loop.snapshot().host_digests) == set(NAMES[:4]))
        loop.keep(frozenset())
        vectors(loop, NAMES)
        wait_until(lambda: loop.snapshot().bytes["host"] <= 1024)


def test_pins_never_keep_a_request_from_running(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    with shelf.serving(base, slots=1, device_bytes=30_000, host_bytes=1024) as loop:
        loop.keep(frozenset(NAMES[:2]))
        assert len(vectors(loop, NAMES)) == len(NAMES)


def test_a_pinned_adapter_that_fails_is_tried_again_without_a_request(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    shelf.broken.add(NAMES[0])
    with shelf.serving(base, retry_load_s=0.05, max_retry_load_s=0.1) as loop:
        loop.keep(frozenset(NAMES[:1]))
        wait_until(lambda: shelf.loads[NAMES[0]] >= 2)
        shelf.broken.clear()
        wait_until(lambda: NAMES[0] in loop.snapshot().slots.values())


def test_what_is_let_go_of_leaves_host_and_device_when_its_last_request_ends(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    with shelf.serving(base) as loop:
        vectors(loop, NAMES[1:2])
        before = settled(loop, NAMES[1])
        stream = ask(loop, NAMES[0], ENDLESS)
        wait_until(lambda: loop.snapshot().running == 1)
        loop.let_go([NAMES[0]])
        wait_until(lambda: bool(stream.events))
        assert NAMES[0] in loop.snapshot().slots.values()
        assert len(stream.tokens) == ENDLESS.max_tokens
        wait_until(lambda: NAMES[0] not in loop.snapshot().slots.values())
        after = loop.snapshot()
        assert (after.bytes["host"], after.slot_bytes) == (before.bytes["host"], before.slot_bytes)
        assert NAMES[0] not in loop.snapshot().host_digests


def test_what_is_asked_for_again_is_not_let_go_of(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    shelf.slow = {NAMES[0]: threading.Event()}
    with shelf.serving(base) as loop:
        first = ask(loop, NAMES[0])
        loop.let_go([NAMES[0]])
        second = ask(loop, NAMES[0])
        shelf.slow[NAMES[0]].set()
        assert len(first.values) and len(second.values)
        assert NAMES[0] in settled(loop, NAMES[0]).host_digests


def test_a_store_that_hangs_does_not_keep_the_engine_from_stopping(load_tiny: LoadTiny) -> None:
    base = load_tiny("llama")
    shelf = Shelf(base)
    shelf.slow = {NAMES[0]: threading.Event()}
    with shelf.serving(base) as loop:
        stuck = ask(loop, NAMES[0])
    assert isinstance(stuck.error, DrainingError)
    shelf.slow[NAMES[0]].set()
