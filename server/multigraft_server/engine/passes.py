"""Which weights the rows of a step run on while an adapter is merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from multigraft_server.engine.pass_costs import PassCosts
from multigraft_server.engine.plan import Group, PlannedRow
from multigraft_server.engine.requests import MergeSnapshot
from multigraft_server.engine.runner import Runner
from multigraft_server.engine.second_copy import MergedWeights
from multigraft_server.engine.work import FIRST_RUNS, FIRST_SIZES, WorkLog, base_rows


@dataclass(frozen=True, slots=True)
class Hot:
    """The merged weights, and the slot that has their adapter; rows of no other slot run on them."""

    weights: MergedWeights
    slot: int

    def of(self, groups: Sequence[Group]) -> MergedWeights | None:
        """The merged weights where all these groups are of their adapter."""
        return self.weights if groups and all(group.slot == self.slot for group in groups) else None


class Passes:
    """Runs a step's rows in one pass or two, and notes what that took."""

    def __init__(self, runner: Runner, clock: Callable[[], float], work: WorkLog | None = None) -> None:
        self._runner = runner
        self._clock = clock
        self.work = work
        self.costs = PassCosts()
        self.steps: Counter[str] = Counter()
        """While an adapter was merged, by how they were computed."""
        self.hot: Hot | None = None

    def run(self, rows: Sequence[PlannedRow]) -> Tensor:
        """The hidden states of the rows' tokens (tokens, hidden), in their order."""
        started = self._clock()
        hidden = self._run(rows)
        if self.work is not None:
            self.work.note(rows, started, self._clock())
        return hidden

    def measure_base(self, most_tokens: int) -> None:
        """Time passes of the bare base of several sizes, each by the quickest run after the first one."""
        for tokens in (size for size in FIRST_SIZES if size <= most_tokens):
            rows, times = base_rows(tokens), [self._clock()]
            for _ in range(FIRST_RUNS):
                self._runner.run(rows)
                times.append(self._clock())
            self.costs.base.note(tokens, min(later - earlier for earlier, later in pairwise(times[1:])))

    def _run(self, rows: Sequence[PlannedRow]) -> Tensor:
        if self.hot is None:
            return self._timed(rows, None)
        hot = [part for part in rows if part.row.slot == self.hot.slot]
        tokens = sum(part.count for part in hot)
        mode = self.costs.choose(tokens, sum(part.count for part in rows) - tokens)
        self.steps[mode] += 1
        if mode == "split":
            return self._split(rows, hot, self.hot.weights)
        return self._timed(rows, self.hot.weights if mode == "merged" else None)

    def told(self, merge: MergeSnapshot) -> MergeSnapshot:
        """The same with how steps were computed and what passes took."""
        times = {"original": self.costs.original, "merged": self.costs.merged, "base": self.costs.base}
        seconds = {name: one.by_tokens() for name, one in times.items()}
        return replace(merge, steps=dict(self.steps), pass_seconds=seconds)

    def logits(self, states: Tensor, groups: Sequence[Group]) -> Tensor:
        """As `Runner.logits`; on merged weights where all rows are of the merged adapter."""
        return self._runner.logits(states, groups, self._merged(groups))

    def base_pooler(self, first: Tensor, groups: Sequence[Group]) -> Tensor:
        """As `Runner.base_pooler`; likewise."""
        return self._runner.base_pooler(first, groups, self._merged(groups))

    def _merged(self, groups: Sequence[Group]) -> MergedWeights | None:
        return None if self.hot is None else self.hot.of(groups)

    def _split(self, rows: Sequence[PlannedRow], hot: Sequence[PlannedRow], weights: MergedWeights) -> Tensor:
        """Rows are sorted by slot, so that those of one adapter are adjacent."""
        first = rows.index(hot[0])
        others = [*rows[:first], *rows[first + len(hot) :]]
        before = sum(part.count for part in rows[:first])
        own, rest = self._timed(hot, weights), self._timed(others, None)
        return torch.cat([rest[:before], own, rest[before:]])

    def _timed(self, rows: Sequence[PlannedRow], weights: MergedWeights | None) -> Tensor:
        started = self._clock()
        hidden = self._runner.run(rows, weights)
        times = self.costs.original if weights is None else self.costs.merged
        times.note(sum(part.count for part in rows), self._clock() - started)
        return hidden
