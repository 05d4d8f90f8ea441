"""What the registry was told, and when: which version each alias could mean at each moment.

A change takes effect at some moment between its sending and its acknowledgement, so both states are possible then.
Times are seconds since the start of the storm.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from multigraft_loadtest.storm.marked import Kind, Mark

PRODUCTION = "production"
OTHER_PROCESS_SECONDS = 1.0
"""A change made through one server process may take so long to reach the others."""

Weights = Mapping[int, float]


@dataclass(slots=True)
class State:
    """What an alias meant: from the sending of the change that made it so, for certain from its acknowledgement
    on, until the sending of the next change, and no longer than the acknowledgement of that.
    """

    weights: Weights
    sent_s: float
    certain_s: float
    next_sent_s: float = math.inf
    next_certain_s: float = math.inf
    next_by: int | None = None
    """The server process through which the next change was made."""

    def overlaps(self, start_s: float, end_s: float, process: int) -> bool:
        """Whether a request that was bound between these times by this process may have met this state."""
        late_s = 0.0 if self.next_by in (None, process) else OTHER_PROCESS_SECONDS
        return self.sent_s <= end_s and start_s <= self.next_certain_s + late_s


@dataclass(slots=True)
class AliasBook:
    """An alias: all its states in order, and those that a rollback leads back through."""

    states: list[State] = field(default_factory=list)
    trail: list[Weights] = field(default_factory=list)
    revision: int = 0

    @property
    def weights(self) -> Weights:
        """What it means now."""
        return self.states[-1].weights

    def changed(self, weights: Weights, sent_s: float, done_s: float, process: int) -> None:
        """A change to these weights was acknowledged; one to what it means already is none."""
        if not self.states or self.weights != weights:
            self.trail.append(weights)
            self._enter(weights, sent_s, done_s, process)

    def rolled_back(self, sent_s: float, done_s: float, process: int) -> None:
        self.trail.pop()
        self._enter(self.trail[-1], sent_s, done_s, process)

    def possible(self, start_s: float, end_s: float, process: int) -> set[int]:
        """The versions that it may have meant to a request bound between these times by this process."""
        states = [state for state in self.states if state.overlaps(start_s, end_s, process)]
        return {version for state in states for version in state.weights}

    def certain(self, start_s: float, end_s: float) -> State | None:
        """The one state that every process knew of from the first time to the last."""
        for state in self.states:
            if state.certain_s + OTHER_PROCESS_SECONDS <= start_s and end_s <= state.next_sent_s:
                return state
        return None

    def _enter(self, weights: Weights, sent_s: float, done_s: float, process: int) -> None:
        if self.states:
            last = self.states[-1]
            last.next_sent_s, last.next_certain_s, last.next_by = sent_s, done_s, process
        self.states.append(State(weights, sent_s, done_s))


@dataclass(slots=True)
class VersionBook:
    """A version. Its retirement is asked for at `retiring_s` and acknowledged at `retired_s`."""

    number: int
    digest: str
    mark: Mark
    retiring_s: float = math.inf
    retired_s: float = math.inf


@dataclass(slots=True)
class TaskBook:
    """A task. Who changes it holds the lock from sending to acknowledgement."""

    name: str
    kind: Kind
    versions: dict[int, VersionBook] = field(default_factory=dict)
    aliases: dict[str, AliasBook] = field(default_factory=dict)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def live(self) -> list[int]:
        """The versions that nobody has asked to retire."""
        return [number for number, version in self.versions.items() if version.retiring_s == math.inf]

    @property
    def aliased(self) -> set[int]:
        """The versions to which an alias points now."""
        return {version for alias in self.aliases.values() for version in alias.weights}

    def alias(self, name: str) -> AliasBook:
        return self.aliases.setdefault(name, AliasBook())

    def by_digest(self, digest: str | None) -> VersionBook | None:
        return next((version for version in self.versions.values() if version.digest == digest), None)

    def possible(self, selector: str, start_s: float, end_s: float, process: int) -> set[int]:
        """The versions that `name@selector`, or the bare name, may have meant between these times."""
        if selector.isdecimal():
            return {int(selector)}
        alias = self.aliases.get(selector or PRODUCTION)
        return alias.possible(start_s, end_s, process) if alias else set()


Ledger = dict[str, TaskBook]
"""All tasks by name."""
