"""Which rows run in the next step. Pure Python: no torch, no clock of its own."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass

from multigraft_server.engine.fairness import TokenCounters
from multigraft_server.engine.kv_table import KVTable
from multigraft_server.engine.plan import Placement, PlannedRow, Row, StepPlan
from multigraft_server.engine.requests import FinishReason, Request, SamplingParams
from multigraft_server.engine.slots import SlotTable

VIRTUAL_ID = 0
"""Stands among a row's token ids for a token that has none."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The size of one step, and how long a request may wait before it goes first."""

    max_step_tokens: int
    max_step_rows: int
    max_running_rows: int
    age_bound_s: float


@dataclass(slots=True)
class _Budget:
    tokens: int
    rows: int


class Scheduler:
    """Owns the waiting and the running sets.

    Running rows go first (one token each, or the next chunk of their prompt); then waiting requests are
    admitted while tokens, rows, KV room and slots last: those older than the age bound in order of arrival,
    then the least served task's. A request over the age bound that does not fit stops all younger ones, so
    that what ends frees room for it.
    """

    def __init__(
        self, limits: StepLimits, slots: SlotTable, kv: KVTable, eos_token_ids: frozenset[int] = frozenset()
    ) -> None:
        self.limits = limits
        self.slots = slots
        self.kv = kv
        self._eos = eos_token_ids
        self._waiting: dict[str, deque[Request]] = {}
        self._running: dict[str, Row] = {}
        self._counters = TokenCounters()

    @property
    def waiting(self) -> list[Request]:
        """All waiting requests, task by task."""
        return [request for queue in self._waiting.values() for request in queue]

    @property
    def running(self) -> list[Row]:
        """All running rows, in order of admission."""
        return list(self._running.values())

    def add(self, request: Request) -> None:
        """Queue a request whose adapter is in host memory."""
        if request.task not in self._waiting:
            active = {*self._waiting, *(row.request.task for row in self._running.values())}
            self._counters.lift(request.task, active)
            self._waiting[request.task] = deque()
        self._waiting[request.task].append(request)

    def plan(self, now: float) -> StepPlan:
        """The next step. Admitted requests are running from here on and hold their slot and KV row."""
        expired, expired_rows = self._expire(now)
        budget = _Budget(self.limits.max_step_tokens, self.limits.max_step_rows)
        planned = self._continue_running(budget)
        placements: list[Placement] = []
        self._admit_waiting(now, budget, planned, placements)
        planned.sort(key=lambda part: part.row.slot)
        self._note_width(planned)
        return StepPlan(tuple(planned), tuple(placements), tuple(expired), tuple(expired_rows))

    def advance(self, planned: PlannedRow) -> None:
        """Count a row's part of the step as computed."""
        planned.row.num_computed += planned.count
        if planned.is_decode:
            self._counters.charge(planned.row.request.task, generated=1)
        else:
            self._counters.charge(planned.row.request.task, prompt=planned.count)

    def append(self, row: Row, token_id: int) -> FinishReason | None:
        """Add a sampled token to a row; says whether it ends the row."""
        row.tokens.append(token_id)
        params = row.request.params
        assert isinstance(params, SamplingParams)  # only generating rows are sampled
        if token_id in params.stop_token_ids or (not params.ignore_eos and token_id in self._eos):
            return "stop"
        return "length" if row.num_generated >= params.max_tokens else None

    def finish(self, row: Row) -> None:
        """Take a row out of the running set and give back what it held."""
        del self._running[row.request.id]
        self.slots.release(row.request.digest)
        if row.kv is not None:
            self.kv.free(row.kv)

    def remove(self, request_id: str) -> Request | None:
        """Take a request out, waiting or running; None when it is not here any more."""
        if request_id in self._running:
            row = self._running[request_id]
            self.finish(row)
            return row.request
        for request in self.waiting:
            if request.id == request_id:
                self._unqueue(request)
                return request
        return None

    def check_integrity(self) -> None:
        """Raise IntegrityError unless slots and KV rows are held by exactly the running rows."""
        self.slots.check_integrity()
        self.kv.check_integrity()

    def _continue_running(self, budget: _Budget) -> list[PlannedRow]:
        decoding_first = sorted(self._running.values(), key=lambda row: row.num_pending > 1)
        planned = []
        for row in decoding_first:
            count = min(row.num_pending, budget.tokens)
            if count > 0 and budget.rows > 0:
                planned.append(self._part(row, count, budget))
        return planned

    def _admit_waiting(
        self, now: float, budget: _Budget, planned: list[PlannedRow], placements: list[Placement]
    ) -> None:
        blocked: set[str] = set()
        while (request := self._next_waiting(now, blocked)) is not None:
            if self._fits(request, budget, alone=not planned):
                row = self._admit(request, now, placements)
                planned.append(self._part(row, self._first_chunk(row, budget), budget))
            elif self._is_aged(request, now):
                return
            else:
                blocked.add(request.task)

    def _next_waiting(self, now: float, blocked: set[str]) -> Request | None:
        heads = [queue[0] for task, queue in self._waiting.items() if task not in blocked]
        if not heads:
            return None
        oldest = min(heads, key=lambda request: request.arrival)
        if self._is_aged(oldest, now):
            return oldest
        task = self._counters.least_served(request.task for request in heads)
        return self._waiting[task][0]

    def _is_aged(self, request: Request, now: float) -> bool:
        return now - request.arrival > self.limits.age_bound_s

    def _fits(self, request: Request, budget: _Budget, *, alone: bool) -> bool:
        if budget.rows < 1 or budget.tokens < 1 or not self.slots.can_hold(request.digest):
            return False
        if isinstance(request.params, SamplingParams):
            generating = sum(row.kv is not None for row in self._running.values())
            return generating < self.limits.max_running_rows and self.kv.can_allocate(self._total(request))
        # A pooling row runs whole; one that is longer than a step gets a step of its own.
        computed = 0 if request.virtual.cached else request.virtual.count
        return alone or computed + len(request.token_ids) <= budget.tokens

    def _admit(self, request: Request, now: float, placements: list[Placement]) -> Row:
        self._unqueue(request)
        slot, evicted, is_new = self.slots.hold(request.digest)
        if is_new:
            placements.append(Placement(slot, request.digest, evicted))
        generates = isinstance(request.params, SamplingParams)
        kv = self.kv.allocate(self._total(request)) if generates else None
        seed = request.params.seed if isinstance(request.params, SamplingParams) else None
        tokens = [VIRTUAL_ID] * request.virtual.count + list(request.token_ids)
        row = Row(request, slot, kv, tokens, started=now, random=random.Random(seed))
        row.num_computed = request.virtual.count if request.virtual.cached else 0
        self._running[request.id] = row
        return row

    def _first_chunk(self, row: Row, budget: _Budget) -> int:
        return row.num_pending if row.kv is None else min(row.num_pending, budget.tokens)

    def _part(self, row: Row, count: int, budget: _Budget) -> PlannedRow:
        budget.tokens -= count
        budget.rows -= 1
        return PlannedRow(row, row.num_computed, count)

    def _total(self, request: Request) -> int:
        assert isinstance(request.params, SamplingParams)  # pooling rows keep nothing
        return request.virtual.count + len(request.token_ids) + request.params.max_tokens

    def _unqueue(self, request: Request) -> None:
        queue = self._waiting[request.task]
        queue.remove(request)
        if not queue:
            del self._waiting[request.task]

    def _expire(self, now: float) -> tuple[list[Request], list[Row]]:
        late = [request for request in self.waiting if _is_late(request, now)]
        late_rows = [row for row in self._running.values() if _is_late(row.request, now)]
        for request in late:
            self._unqueue(request)
        for row in late_rows:
            self.finish(row)
        return late, late_rows

    def _note_width(self, planned: list[PlannedRow]) -> None:
        adapters = len({part.row.slot for part in planned})
        for part in planned:
            part.row.widest_adapters = max(part.row.widest_adapters, adapters)
            part.row.widest_rows = max(part.row.widest_rows, len(planned))


def _is_late(request: Request, now: float) -> bool:
    return request.deadline is not None and now > request.deadline
