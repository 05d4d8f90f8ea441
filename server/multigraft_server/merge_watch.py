"""What merging costs and saves on this machine, by the steps that have run."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from statistics import median

from multigraft_server.engine.merge_costs import MergeCosts, PassSeconds, StepSeen
from multigraft_server.engine.requests import MergeSnapshot

FIRST_SWITCH_S = 0.1
"""What a switch is taken to cost before one has been measured."""

LEAST_STEPS = 4
"""A switch beside fewer steps says nothing of what it takes from them."""

SHARE_OF_NEW = 0.3


class MergeWatch:
    """Fed with the steps since the last time and the engine's state after them."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._before = MergeSnapshot()
        self._merged: deque[tuple[float, float, float]] = deque()  # when, seconds, what they take unmerged
        self._extra_s = 0.0
        self._beside = 0
        self.costs = MergeCosts(PassSeconds(()), PassSeconds(()), FIRST_SWITCH_S)
        self.longest_pause_s: float | None = None
        """The longest time by which a step ended later than it should have while a switch was under way: what the
        rows that went on had waited before it, and what it took beyond what such a step takes."""
        self.pause_steps: float | None = None
        """The same by the median step of that time."""

    @property
    def measured_gain(self) -> float | None:
        """The share of the steps' time that the merge has saved, of the last seconds; None when nothing is merged
        or nothing ran."""
        unmerged = sum(one for _, _, one in self._merged)
        return 1 - sum(took for _, took, _ in self._merged) / unmerged if unmerged > 0 else None

    def look(self, steps: Sequence[StepSeen], state: MergeSnapshot, now: float) -> None:
        """Take in what has happened since the last look."""
        before, self._before = self._before, state
        self.costs = _costs_of(state, self.costs.switch_s)
        switched = before.switches != state.switches
        if switched or "building" in (before.state, state.state):
            self._switching(steps, is_over=switched)
        if state.state != "merged" or switched:
            self._merged.clear()
        elif steps:
            took = sum(step.seconds for step in steps)
            self._merged.append(
                (now, took, sum(self.costs.original_s(sum(step.tokens.values())) for step in steps))
            )
        while self._merged and now - self._merged[0][0] >= self._window_s:
            self._merged.popleft()

    def _switching(self, steps: Sequence[StepSeen], *, is_over: bool) -> None:
        late = [max(0.0, step.seconds - self.costs.original_s(sum(step.tokens.values()))) for step in steps]
        self._extra_s += sum(late)
        self._beside += len(steps)
        pauses = [one + step.waited_s for one, step in zip(late, steps, strict=True)]
        if pauses and max(pauses) > (self.longest_pause_s or 0.0):
            self.longest_pause_s = max(pauses)
            self.pause_steps = max(pauses) / median(step.seconds for step in steps)
        if is_over:
            if self._beside >= LEAST_STEPS:
                switch_s = self.costs.switch_s + SHARE_OF_NEW * (self._extra_s - self.costs.switch_s)
                self.costs = MergeCosts(self.costs.original, self.costs.merged, switch_s)
            self._extra_s, self._beside = 0.0, 0


def _costs_of(state: MergeSnapshot, switch_s: float) -> MergeCosts:
    """Merged passes of sizes that are far from all measured ones are taken to cost what the bare base's did at the
    start."""
    times = state.pass_seconds
    measured = times.get("merged", {})
    low, high = min(measured, default=0) / 2, 2 * max(measured, default=0)
    expected = {size: took for size, took in times.get("base", {}).items() if not low <= size <= high}
    original = PassSeconds.of(times.get("original", {}))
    return MergeCosts(original, PassSeconds.of({**expected, **measured}), switch_s)
