"""Random walks over registry, leases and the engine's tiers, held against a model of who is served by what."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multigraft_adapters.bases import Base, load_base
from multigraft_adapters.errors import (
    AdapterLoadError,
    ConflictError,
    MultigraftError,
    NotFoundError,
    VersionRetiredError,
)
from multigraft_adapters.registry import Registry, Version
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.requests import Failed, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from multigraft_server.leases import Lease, Leases
from multigraft_server.residency import Residency
from tests.engine.harness import Outcome, make_request, random_adapter, run_all, running_engine
from tests.tiny import make_tiny_base

TASKS = st.sampled_from(["topic", "style"])
CONTENTS = [f"content-{index}" for index in range(6)]
CONTENT = st.sampled_from(CONTENTS)
NUMBERS = st.integers(1, 4)
PROMPT = (11, 12, 13)
ANSWER = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)
RETIRE_SECONDS = 5.0


@cache
def folder() -> Path:
    """Of a tiny base that all walks share."""
    return make_tiny_base(Path(tempfile.mkdtemp(prefix="multigraft-life-")) / "llama", "llama")


def base() -> Base:
    return load_base(str(folder()), folder().parent, device="cpu", dtype="float32")


@cache
def adapters() -> dict[str, VerifiedAdapter]:
    spec = base().spec
    return {content: random_adapter(spec, content, 4, seed) for seed, content in enumerate(CONTENTS)}


@cache
def expected() -> dict[str, list[int]]:
    """What each content answers, alone on an engine where everything is resident."""
    with running_engine(base(), adapters()) as loop:
        answers = {content: run_all(loop, [(content, PROMPT, ANSWER)])[0].tokens for content in CONTENTS}
    assert len(set(map(tuple, answers.values()))) == len(CONTENTS), "an answer must tell who computed it"
    return answers


@dataclass
class Asked:
    """A request under way: bound to one content from its admission on."""

    version: Version
    lease: Lease
    outcome: Outcome = field(default_factory=Outcome)
    may_fail: bool = False
    was_revoked: bool = False


@dataclass
class ModelTask:
    """`contents` by number - 1; `history` of production, as rollback walks it."""

    contents: list[str] = field(default_factory=list)
    retired: set[int] = field(default_factory=set)
    history: list[int] = field(default_factory=list)


class Life(RuleBasedStateMachine):
    """Two slots and host memory for three adapters, for up to six."""

    def __init__(self) -> None:
        super().__init__()
        expected()
        self.folder = tempfile.mkdtemp()
        self.registry = Registry.open(Path(self.folder), "tiny")
        self.leases = Leases()
        self.broken: set[str] = set()
        self.now = 0.0
        limits = EngineSettings(slots=2, host_bytes=3 * 16384, load_threads=2, retry_load_s=0.0)
        self.loop = build_engine(base(), limits, self.fetch)
        self.loop.start()
        self.residency = Residency(
            self.registry, self.loop, self.leases, retire_seconds=RETIRE_SECONDS, clock=lambda: self.now
        )
        self.residency.tend()
        self.asked: list[Asked] = []
        self.model = {task: ModelTask() for task in ("topic", "style")}
        for task, contents in (("topic", CONTENTS[:4]), ("style", CONTENTS[2:])):
            for content in contents:
                self.upload(task, content, is_promoted=True)

    def fetch(self, digest: str) -> VerifiedAdapter:
        if digest in self.broken:
            raise OSError("the store is broken here")
        return adapters()[digest]

    def teardown(self) -> None:
        try:
            while self.asked:
                self.check(self.asked.pop())
            assert self.leases.total == 0
            for task, model in self.model.items():
                self.registry.remove_alias(task, "production")
                for number in range(1, len(model.contents) + 1):
                    self.registry.retire(task, number)
            self.residency.tend()
            wait_until(self.is_empty)
        finally:
            self.loop.stop()
            self.registry.close()
            shutil.rmtree(self.folder)

    @rule(task=TASKS, content=CONTENT, is_promoted=st.booleans())
    def upload_again(self, task: str, content: str, is_promoted: bool) -> None:
        self.upload(task, content, is_promoted=is_promoted)

    def upload(self, task: str, content: str, *, is_promoted: bool) -> None:
        alias = "production" if is_promoted else None
        version, _ = self.registry.add_version(task, adapters()[content], alias=alias)
        model = self.model[task]
        if content not in model.contents:
            model.contents.append(content)
        assert version.number == model.contents.index(content) + 1
        model.retired.discard(version.number)
        if is_promoted and model.history[-1:] != [version.number]:
            model.history.append(version.number)

    @rule(task=TASKS, number=NUMBERS)
    def promote(self, task: str, number: int) -> None:
        model = self.model[task]
        if number > len(model.contents) or number in model.retired:
            with pytest.raises(MultigraftError):
                self.registry.set_alias(task, "production", number)
            return
        self.registry.set_alias(task, "production", number)
        if model.history[-1:] != [number]:
            model.history.append(number)

    @rule(task=TASKS)
    def roll_back(self, task: str) -> None:
        history = self.model[task].history
        if len(history) < 2 or history[-2] in self.model[task].retired:
            with pytest.raises(MultigraftError):
                self.registry.rollback(task)
            return
        history.pop()
        assert self.registry.rollback(task).version == history[-1]

    @rule(task=TASKS, number=NUMBERS)
    def retire(self, task: str, number: int) -> None:
        model = self.model[task]
        if number > len(model.contents):
            return
        if model.history[-1:] == [number]:
            with pytest.raises(ConflictError):
                self.registry.retire(task, number)
            return
        self.registry.retire(task, number)
        model.retired.add(number)

    @rule(task=TASKS, wanted=st.booleans())
    def pin(self, task: str, wanted: bool) -> None:
        self.registry.pin(task, wanted)

    @rule(content=CONTENT)
    def break_or_mend(self, content: str) -> None:
        self.broken ^= {content}
        for asked in self.asked:
            asked.may_fail |= asked.version.digest == content

    @rule()
    def tend(self) -> None:
        self.residency.tend()

    @rule()
    def pass_the_deadline(self) -> None:
        """All that drains now, and is not over by itself, ends."""
        self.residency.tend()
        self.now += RETIRE_SECONDS + 0.1
        self.residency.tend()

    @rule(task=TASKS, number=NUMBERS)
    def ask_for_a_version(self, task: str, number: int) -> None:
        model = self.model[task]
        if number > len(model.contents) or number in model.retired:
            with pytest.raises(NotFoundError):
                self.registry.resolve(f"{task}@{number}")
        else:
            self.ask(f"{task}@{number}", model.contents[number - 1])

    @rule(tasks=st.lists(TASKS, min_size=1, max_size=4), picks=st.lists(NUMBERS, min_size=4, max_size=4))
    def ask_for_many(self, tasks: list[str], picks: list[int]) -> None:
        """More than there are slots, some by their bare names."""
        for task, pick in zip(tasks, picks, strict=False):
            model = self.model[task]
            served = [number for number in range(1, len(model.contents) + 1) if number not in model.retired]
            named = served[pick % len(served)]
            self.ask(f"{task}@{named}", model.contents[named - 1])
            self.ask(task, model.contents[model.history[-1] - 1])

    def ask(self, ref: str, content: str) -> None:
        version = self.registry.resolve(ref)
        assert version.digest == content
        asked = Asked(version, self.leases.acquire(version.task, version.number), may_fail=content in self.broken)
        request = make_request(asked.outcome, PROMPT, ANSWER, digest=content)

        def revoke(error: MultigraftError) -> None:
            asked.was_revoked = True
            self.loop.cancel(request.id, error)

        asked.lease.on_revoke = revoke
        self.asked.append(asked)
        self.loop.submit(request)

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        self.check(self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1))))

    def check(self, asked: Asked) -> None:
        """It ended on the version that it began with, or for a reason."""
        last = asked.outcome.last
        if isinstance(last, Failed):
            is_revoked = isinstance(last.error, VersionRetiredError) and asked.was_revoked
            assert is_revoked or (isinstance(last.error, AdapterLoadError) and asked.may_fail), last.error
        else:
            assert asked.outcome.tokens == expected()[asked.version.digest]
        asked.lease.release()

    @invariant()
    def the_engine_lives_and_the_leases_add_up(self) -> None:
        assert self.loop.alive
        self.leases.check_integrity()
        assert self.leases.total == len(self.asked)
        for asked in self.asked:
            assert self.leases.count(*asked.lease.key) >= 1

    def is_empty(self) -> bool:
        assert self.loop.alive
        state = self.loop.snapshot()
        return not (state.slots or state.host_digests or state.slot_bytes or state.bytes["host"])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=12, stateful_step_count=40, deadline=None)
