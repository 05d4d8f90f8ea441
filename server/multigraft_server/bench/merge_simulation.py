"""A trace replayed against a table of costs: what never merging, always merging and the policy make of it.

A server of the simplest kind: up to so many rows at once, first come, first served; a step computes the prompts
that begin and one token of every other row. Which rows run when depends on the trace and the clock alone.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from multigraft_server.bench.merge_traces import Arrival
from multigraft_server.engine.merge_costs import MergeCosts, StepSeen
from multigraft_server.engine.merge_policy import PolicySettings, PolicyState, decide

Mode = Literal["never", "always", "auto"]
MODES: tuple[Mode, ...] = ("never", "always", "auto")
TICK_S = 0.25
"""How often the policy is asked."""


@dataclass(slots=True)
class _Row:
    arrival: Arrival
    left: int
    is_new: bool = True


@dataclass(slots=True)
class Simulated:
    """What came of a trace. `busy_s` is the time in steps and switches, `order` the tasks as they were answered,
    `latencies` the seconds of each answer by task."""

    mode: Mode
    busy_s: float = 0.0
    tokens: int = 0
    switches: int = 0
    merged_s: float = 0.0
    order: list[str] = field(default_factory=list)
    latencies: dict[str, list[float]] = field(default_factory=dict)

    @property
    def tokens_per_s(self) -> float:
        """Of the time in which there was something to do."""
        return self.tokens / self.busy_s if self.busy_s else 0.0


@dataclass(slots=True)
class _Server:
    costs: MergeCosts
    settings: PolicySettings
    told: Simulated
    now: float = 0.0
    merged: str | None = None
    state: PolicyState = PolicyState()
    seen: list[StepSeen] = field(default_factory=list)
    asked_at: float = 0.0

    def step(self, rows: Sequence[_Row]) -> None:
        tokens: Counter[str] = Counter()
        for row in rows:
            tokens[row.arrival.task] += row.arrival.prompt_tokens if row.is_new else 1
        own = tokens[self.merged] if self.merged else 0
        seconds = self.costs.step_s(own, tokens.total() - own)
        self.now += seconds
        self.told.busy_s += seconds
        self.told.merged_s += seconds if self.merged else 0.0
        self.told.tokens += tokens.total()
        if self.told.mode == "auto":
            began = Counter(row.arrival.task for row in rows if row.is_new)
            self.seen.append(StepSeen(tokens, began, seconds))
            self._ask()

    def _ask(self) -> None:
        if self.now - self.asked_at < TICK_S:
            return
        decision, self.state = decide(self.state, self.seen, self.costs, self.now, settings=self.settings)
        self.seen, self.asked_at = [], self.now
        if decision.merged != self.merged:
            self.merged = decision.merged
            self.told.switches += 1
            self.now += self.costs.switch_s
            self.told.busy_s += self.costs.switch_s


def simulate(
    trace: Sequence[Arrival],
    costs: MergeCosts,
    mode: Mode,
    *,
    rows: int = 16,
    settings: PolicySettings | None = None,
) -> Simulated:
    """Replay a trace, which is ordered by time. `always` has the task of the most tokens merged from the start."""
    told = Simulated(mode)
    server = _Server(costs, settings or PolicySettings(), told)
    if mode == "always":
        weights: Counter[str] = Counter()
        for arrival in trace:
            weights[arrival.task] += arrival.prompt_tokens + arrival.answer_tokens
        server.merged = max(weights, key=lambda task: weights[task], default=None)
    waiting, running = deque(trace), list[_Row]()
    while waiting or running:
        if not running:
            server.now = max(server.now, waiting[0].at_s)
        while waiting and len(running) < rows and waiting[0].at_s <= server.now:
            arrival = waiting.popleft()
            running.append(_Row(arrival, max(1, arrival.answer_tokens)))
        server.step(running)
        running = [row for row in running if not _has_ended(row, server)]
    return told


def _has_ended(row: _Row, server: _Server) -> bool:
    row.is_new = False
    row.left -= 1
    if row.left == 0:
        server.told.order.append(row.arrival.task)
        server.told.latencies.setdefault(row.arrival.task, []).append(server.now - row.arrival.at_s)
    return row.left == 0
