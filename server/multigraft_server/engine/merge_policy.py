"""Which adapter to merge: a pure function of what was seen, of what steps cost and of the time.

An adapter is worth merging by its *gain*: the share of the steps' time that its merge would have saved, computed
step by step from how the last seconds' steps were mixed (see `merge_costs`). Two thresholds keep the decision
steady: a merge begins above `enter`, where a switch pays for itself within the window, and ends below `stay`. A
merge that ended before it had paid for itself makes the next one harder (`caution` doubles), one that did, easier:
what dLoRA does to its thresholds (Wu et al., OSDI 2024), by time saved rather than by queues.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace
from typing import Literal

from multigraft_server.engine.merge_costs import MergeCosts, Standing, StepSeen, Weighed, Weighing
from multigraft_server.engine.requests import BASE_DIGEST

Reason = Literal["nothing to gain", "too early", "too little seen", "idle", "worth it", "still worth it", "faded"]


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """`window_s` is what the policy looks back on; `least_enter` and `least_stay` are the smallest gains at which
    a merge begins and goes on; `least_between_s` is the shortest time between two switches."""

    window_s: float = 5.0
    least_enter: float = 0.02
    least_stay: float = 0.005
    least_between_s: float = 2.0
    least_steps: int = 8

    PAYS = 2.0
    """So many times must a merge save within the window what the switch takes."""

    REST = 10.0
    """A switch takes at most one part in so many of the time."""

    MOST_CAUTION = 16.0


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The gains from which a merge begins and down to which it goes on, and the time between two switches."""

    enter: float
    stay: float
    between_s: float

    @classmethod
    def of(cls, costs: MergeCosts, settings: PolicySettings, caution: float = 1.0) -> Thresholds:
        """By what a switch costs on this machine, and by how the merges before went."""
        enter = max(settings.least_enter, settings.PAYS * costs.switch_s / settings.window_s)
        stay = max(settings.least_stay, enter / 4)
        enter *= caution
        return cls(enter, stay, max(settings.least_between_s, settings.REST * costs.switch_s))


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What the policy remembers: the window, what is merged, when that was last switched, and how many seconds
    were saved since; and how cautious it has become."""

    window: tuple[tuple[float, Weighing], ...] = ()
    merged: str | None = None
    switched_at: float | None = None
    saved_s: float = 0.0
    caution: float = 1.0

    def followed(self, old: str, new: str) -> PolicyState:
        """The same with what was seen of an adapter counted for the one that has taken its place."""
        window = tuple((at, one.renamed(old, new)) for at, one in self.window)
        return replace(self, window=window, merged=new if self.merged == old else self.merged)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be merged from now on: a digest or nothing. `standing` is that of the merged adapter, or else of
    the best one, `best`, where there is one."""

    merged: str | None
    reason: Reason
    best: str | None
    standing: Standing
    thresholds: Thresholds


def decide(
    state: PolicyState,
    seen: Iterable[StepSeen],
    costs: MergeCosts,
    now: float,
    *,
    settings: PolicySettings | None = None,
    refused: Set[str] = frozenset(),
) -> tuple[Decision, PolicyState]:
    """What to merge, after the steps `seen` since the last call; `now` is in seconds of any steady clock.

    `refused` are adapters that cannot be merged. Without new steps the answer to the same question is the same.
    It is asked every now and then and has no say in which rows run: the scheduler never learns what is merged.
    """
    settings = settings or PolicySettings()
    fresh = Weighing.of(seen, costs)
    window = [(at, one) for at, one in state.window if now - at < settings.window_s]
    if fresh.steps:
        window.append((now, fresh))
    saved = fresh.adapters.get(state.merged or "", Weighed()).saved_s
    state = replace(state, window=tuple(window), saved_s=state.saved_s + saved)
    thresholds = Thresholds.of(costs, settings, state.caution)
    total = sum((one for _, one in window), Weighing())
    standings = {
        digest: total.standing(digest) for digest in sorted(total.adapters.keys() - refused - {BASE_DIGEST})
    }
    best = max(standings, key=lambda digest: standings[digest].gain, default=None)
    merged, reason = _choose(state, standings, best, total.steps, thresholds, now, settings)
    if merged != state.merged:
        caution = _caution(state, costs, settings)
        state = replace(state, merged=merged, switched_at=now, saved_s=0.0, caution=caution)
    told = standings.get(merged or best or "", Standing())
    return Decision(merged, reason, best, told, thresholds), state


def _caution(state: PolicyState, costs: MergeCosts, settings: PolicySettings) -> float:
    """How cautious the merge that ends now leaves the policy; it stays as it is when none ends."""
    if state.merged is None:
        return state.caution
    if state.saved_s < settings.PAYS * costs.switch_s:
        return min(settings.MOST_CAUTION, 2 * state.caution)
    return max(1.0, state.caution / 2)


def _choose(
    state: PolicyState,
    standings: dict[str, Standing],
    best: str | None,
    steps: int,
    thresholds: Thresholds,
    now: float,
    settings: PolicySettings,
) -> tuple[str | None, Reason]:
    """What is merged from now on, and why."""
    if steps == 0:
        return state.merged, "idle"
    if state.switched_at is not None and now - state.switched_at < thresholds.between_s:
        return state.merged, "too early"
    if steps < settings.least_steps:
        return state.merged, "too little seen"
    gain = standings[best].gain if best is not None else 0.0
    present = standings[state.merged].gain if state.merged in standings else 0.0
    if best != state.merged and gain >= thresholds.enter and gain - present >= thresholds.enter:
        return best, "worth it"
    if state.merged is None:
        return None, "nothing to gain"
    return (state.merged, "still worth it") if present >= thresholds.stay else (None, "faded")
