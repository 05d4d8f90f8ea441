"""Which task is merged in this process: off, by the policy, or the one that an operator names."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from multigraft_adapters.errors import ConflictError, MergeRefusedError, MultigraftError, NotFoundError
from multigraft_adapters.registry import PRODUCTION, Registry, Task
from multigraft_server.answers import Engine
from multigraft_server.engine.merge_policy import Decision, PolicySettings, PolicyState, decide
from multigraft_server.merge_watch import MergeWatch

logger = logging.getLogger(__name__)

ModeName = Literal["off", "auto", "pin"]
POLICY, SETTINGS = "policy", "settings"
"""Who the registry's events name for what the policy, and what `--merge pin:TASK`, does."""

REFUSED_SECONDS = 60.0
"""How long an adapter that could not be merged is not tried again."""

FORCE_SECONDS = 120.0
"""How long a caller waits for a merge."""


@dataclass(frozen=True, slots=True)
class Mode:
    """`off`, `auto`, or `pin` with the task; `actor` is who said so."""

    name: ModeName
    task: str | None = None
    actor: str = SETTINGS

    @classmethod
    def of(cls, text: str) -> Mode:
        """Of a setting: off, auto or pin:TASK."""
        if text.startswith("pin:"):
            return cls("pin", text.removeprefix("pin:"))
        return cls("auto" if text == "auto" else "off")


@dataclass(frozen=True, slots=True)
class Switch:
    """A change of what is wanted: when (seconds of the clock), from which adapter to which, of which task, why."""

    at: float
    before: str | None
    after: str | None
    task: str | None
    reason: str


@dataclass(slots=True)
class _Asked:
    """What the engine was asked for last: an adapter of a task, and what its task's production version was then;
    `told` once it has answered, `error` when it could not."""

    digest: str | None = None
    task: str | None = None
    production: str | None = None
    told: bool = True
    error: MultigraftError | None = None
    retry_at: float = 0.0


class Merging:
    """`tend` is called every now and then by one thread, the rest from anywhere."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        mode: str,
        *,
        policy: PolicySettings | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._clock = clock
        self._policy = policy or PolicySettings()
        self._lock = threading.Lock()
        self._started_as = Mode.of(mode)
        self._state = PolicyState()
        self._asked = _Asked()
        self._refused: dict[str, float] = {}  # until when
        self._counter: int | None = None
        self._pinned: str | None = None
        self.mode = self._started_as
        self.decision: Decision | None = None
        self.last_switch: Switch | None = None
        self.watch = MergeWatch(self._policy.window_s)

    @property
    def is_off(self) -> bool:
        """Whether this process never merges."""
        return self._started_as.name == "off"

    @property
    def merged_task(self) -> str | None:
        """The task whose adapter is merged now."""
        merge = self._engine.snapshot().merge
        return self._asked.task if merge.state == "merged" and merge.digest == self._asked.digest else None

    def now(self) -> float:
        """The clock that switches are told by."""
        return self._clock()

    def tend(self) -> None:
        """Look at the steps since the last call, and have the engine merge what is to be merged."""
        if self.is_off:
            return
        with self._lock:
            self._look()
            wanted, task, reason = self._wanted()
            if wanted != self._asked.digest or (self._asked.error and self._clock() >= self._asked.retry_at):
                self._ask(wanted, task, reason)

    def set_mode(self, mode: Mode) -> None:
        """Go over to a mode. Raises MergeRefusedError where this process never merges, TaskNotFoundError."""
        self._refuse_if_off()
        if mode.task is not None:
            self._registry.task(mode.task)
        with self._lock:
            self.mode, self._counter = mode, None
            self._asked.retry_at = self._clock()
        self.tend()

    async def force(self, task: str, actor: str) -> str:
        """Merge a task until further notice, and wait until it is; its digest.

        Raises MergeRefusedError with the reason when it cannot be merged, and leaves the mode as it was then.
        """
        self._refuse_if_off()
        found = await asyncio.to_thread(self._registry.task, task)
        if _production(found) is None:
            raise ConflictError(f"{task!r} has no production version to merge")
        before = self.mode
        await asyncio.to_thread(self.set_mode, Mode("pin", task, actor))
        try:
            async with asyncio.timeout(FORCE_SECONDS):
                while not (self._asked.told and self._asked.task == task):
                    if self.mode.task != task:
                        raise MergeRefusedError("another merge, or none, was asked for meanwhile")
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise MergeRefusedError(f"{task!r} is not merged yet after {FORCE_SECONDS:g} s") from None
        error, digest = self._asked.error, self._asked.digest
        if error is not None or digest is None:
            await asyncio.to_thread(self.set_mode, before)
            raise MergeRefusedError(f"{task!r} cannot be merged: {error.message if error else 'it has gone'}")
        return digest

    def end(self, task: str, actor: str) -> bool:
        """End the merge of a task, forced or the policy's, and go back to what this process was started with, if
        that is not to merge this one; whether there was one."""
        self._refuse_if_off()
        self._registry.task(task)
        if task not in (self._asked.task, self.mode.task):
            return False
        started_as = self._started_as
        mode = Mode("auto") if started_as.name == "auto" else Mode("off")
        with self._lock:
            self.mode, self._state = mode, replace(self._state, merged=None, switched_at=self._clock())
            self._ask(None, None, "ended", actor)
        return True

    def _refuse_if_off(self) -> None:
        if self.is_off:
            raise MergeRefusedError("merging is off in this process: start it with --merge auto or pin:TASK")

    def _look(self) -> None:
        """Take in what has happened: in the engine, in the registry, and to the policy's mind."""
        now, merge = self._clock(), self._engine.snapshot().merge
        self._refused = {digest: until for digest, until in self._refused.items() if now < until}
        self._take_answer(merge.state, now)
        self._follow()
        steps = self._engine.take_steps()
        self.watch.look(steps, merge, now)
        self.decision, state = decide(
            self._state, steps, self.watch.costs, now, settings=self._policy, refused=self._refused.keys()
        )
        if self.mode.name == "auto" and self._asked.told:
            self._state = state
        else:  # it looks on, and has nothing to say now
            self._state = replace(state, merged=self._state.merged, caution=self._state.caution)

    def _take_answer(self, engine_state: str, now: float) -> None:
        """What the engine made of what it was asked for last."""
        asked, merged = self._asked, self._state.merged
        if asked.told and asked.digest is not None:
            if asked.error is not None:
                self._refused[asked.digest] = now + REFUSED_SECONDS
                merged = None
            elif engine_state == "idle":  # the engine has ended it, since its adapter leaves
                self._asked = replace(asked, digest=None)
            if self.mode.name != "auto" and asked.error is None:
                merged = asked.digest
        elif self.mode.name != "auto":
            merged = asked.digest
        self._state = replace(self._state, merged=merged)

    def _follow(self) -> None:
        """Where the production version of the merged or pinned task has changed, go over to the new one."""
        counter = self._registry.change_counter()
        if counter != self._counter:
            self._counter = counter
            name = self.mode.task if self.mode.name == "pin" else self._asked.task
            self._pinned = self._production_of(name) if name else None
            old, new = self._asked.production, self._pinned
            if self.mode.name == "auto" and old and new and old != new and self._state.merged == old:
                self._state = self._state.followed(old, new)
        if self._asked.digest is None and self._state.merged == self._asked.production and self._asked.told:
            # What was merged has left, and nothing has taken its place.
            self._state = replace(self._state, merged=None)

    def _production_of(self, name: str) -> str | None:
        try:
            return _production(self._registry.task(name))
        except NotFoundError:
            return None

    def _wanted(self) -> tuple[str | None, str | None, str]:
        """The adapter that is to be merged now, its task, and why."""
        if self.mode.name == "pin":
            return self._pinned, self.mode.task, "pinned"
        if self.mode.name == "off" or self._state.merged is None:
            return None, None, "off" if self.mode.name == "off" or not self.decision else self.decision.reason
        digest = self._state.merged
        if digest == self._asked.digest:
            return digest, self._asked.task, "still worth it"
        return digest, self._task_of(digest), "worth it"

    def _task_of(self, digest: str) -> str | None:
        """The task that an adapter is a version of; one that has it in production, if there is one."""
        tasks = self._registry.tasks()
        found = [task for task in tasks if any(version.digest == digest for version in task.versions)]
        best = next((task for task in found if _production(task) == digest), found[0] if found else None)
        return None if best is None else best.name

    def _ask(self, digest: str | None, task: str | None, reason: str, actor: str | None = None) -> None:
        before, now = self._asked, self._clock()
        production = self._production_of(task) if task else None
        asked = self._asked = _Asked(digest, task, production, told=False, retry_at=now + REFUSED_SECONDS)
        if digest != before.digest:
            self.last_switch = Switch(now, before.digest, digest, task or before.task, reason)

        def done(error: MultigraftError | None) -> None:
            asked.error, asked.told = error, True

        self._engine.merge(digest, done)
        if digest != before.digest:
            by = POLICY if self.mode.name == "auto" else self.mode.actor
            self._note(task or before.task, digest, reason, actor or by)

    def _note(self, task: str | None, digest: str | None, reason: str, actor: str) -> None:
        """Leave an event of it in the registry, if that can be used; a merge does not wait for one."""
        if task is None:
            return
        detail = {"digest": digest, "reason": reason}
        try:
            self._registry.note(task, "merge" if digest else "end_merge", detail, actor=actor)
        except MultigraftError as error:
            logger.warning("no event was left of a merge: %s", error.message)


def _production(task: Task) -> str | None:
    """The adapter that the task's production alias points at; of a split, the heaviest."""
    number = next((alias.version for alias in task.aliases if alias.name == PRODUCTION), None)
    return next((version.digest for version in task.versions if version.number == number), None)
