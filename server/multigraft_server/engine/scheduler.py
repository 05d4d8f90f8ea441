"""Which rows run in the next step. Pure Python: no torch, no clock of its own."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from multigraft_server.engine.fairness import TokenCounters
from multigraft_server.engine.kv_table import KVTable
from multigraft_server.engine.plan import Placement, PlannedRow, Row, StepPlan
from multigraft_server.engine.prefix_table import BLOCK_TOKENS, Chain, PrefixTable, is_worth_waiting
from multigraft_server.engine.requests import FinishReason, Request, SamplingParams
from multigraft_server.engine.slots import SlotTable
from multigraft_server.engine.waiting import WaitingRequests

MAX_PLACED_BYTES = 16 * 1024 * 1024
"""Bytes of adapters that are written into slots before a step in which answers go on, beside the first such
adapter: these answers wait for it. Two of rank 16 on a base of 135 million parameters, in some 10 ms."""
VIRTUAL_ID = 0
"""Stands among a row's token ids for a token that has none."""


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The size of one step, and how long a request may wait before nothing goes before it.

    `max_mixed_tokens` bounds the prompt tokens of a step in which answers go on. `max_step_adapters` bounds its
    distinct adapters, of which the base is one; None: as many as there are slots, and the base.
    """

    max_step_tokens: int
    max_step_rows: int
    max_running_rows: int
    age_bound_s: float
    max_mixed_tokens: int | None = None
    max_step_adapters: int | None = None


@dataclass(slots=True)
class _Step:
    """A step while it is planned: the rows with their numbers of tokens, and what is left of its budgets."""

    rows: int
    generating: int
    prompt_tokens: int
    counts: dict[str, int] = field(default_factory=dict)  # by request
    admitted: list[Row] = field(default_factory=list)
    placements: list[Placement] = field(default_factory=list)
    has_prompts: bool = False
    goes_on: bool = False
    """Whether answers go on in it."""
    placed_bytes: int = 0

    def takes(self, generates: bool) -> bool:
        """Whether a waiting request of this kind may be admitted."""
        return self.rows > 0 and self.prompt_tokens > 0 and (self.generating > 0 or not generates)

    def add_prompt(self, row: Row, count: int) -> None:
        """Give a row `count` more tokens of the step."""
        self.rows -= row.request.id not in self.counts
        self.counts[row.request.id] = self.counts.get(row.request.id, 0) + count
        self.prompt_tokens = max(0, self.prompt_tokens - count)
        self.has_prompts = True


class Scheduler:
    """Owns the waiting and the running sets.

    A step takes one token of every row that generates. Of the tokens left, rows whose prompts are not complete
    get what they need, but half at most while there are requests that could be admitted; then waiting ones are
    admitted, in their order, while tokens, rows, KV room, slots and adapters last. One that does not fit is
    passed over, unless it is over the age bound: then no further generating row is admitted, so that what ends
    frees room for it.
    """

    def __init__(
        self,
        limits: StepLimits,
        slots: SlotTable,
        kv: KVTable,
        eos_token_ids: frozenset[int] = frozenset(),
        prefixes: PrefixTable | None = None,
    ) -> None:
        self.limits = limits
        self.slots = slots
        self.kv = kv
        self.prefixes = prefixes
        self._eos = eos_token_ids
        self._counters = TokenCounters()
        self._waiting = WaitingRequests(self._counters, limits.age_bound_s)
        self._running: dict[str, Row] = {}
        self._adapters: Counter[str] = Counter()  # running rows by digest
        self._num_generating = 0
        self._owes_pooling = False

    @property
    def waiting(self) -> list[Request]:
        """All waiting requests."""
        return list(self._waiting)

    @property
    def running(self) -> list[Row]:
        """All running rows, in order of admission."""
        return list(self._running.values())

    def waiting_by_task(self) -> dict[str, int]:
        """How many requests wait for each task; cheap, however many there are."""
        return self._waiting.by_task()

    def add(self, request: Request) -> None:
        """Queue a request whose adapter is in host memory."""
        self._counters.enter(request.task)
        self._waiting.add(request)

    def plan(self, now: float) -> StepPlan:
        """The next step. Admitted requests are running from here on and hold their slot and KV row."""
        expired, expired_rows = self._expire(now)
        self._waiting.age(now)
        step = self._new_step()
        prefilling = [row for row in self._running.values() if row.num_pending > 1]
        self._continue_prompts(prefilling, step)
        self._admit_waiting(now, step)
        self._use_up(prefilling, step)
        planned = [PlannedRow(row := self._running[id], row.num_computed, step.counts[id]) for id in step.counts]
        planned.sort(key=lambda part: part.row.slot)
        self._note_width(planned)
        return StepPlan(
            rows=tuple(planned),
            admitted=tuple(step.admitted),
            placements=tuple(step.placements),
            expired=tuple(expired),
            expired_rows=tuple(expired_rows),
        )

    def advance(self, planned: PlannedRow) -> None:
        """Count a row's part of the step as computed."""
        planned.row.num_computed += planned.count
        if planned.is_decode:
            self._counters.charge(planned.row.request.task, generated=1)

    def append(self, row: Row, token_id: int) -> FinishReason | None:
        """Add a sampled token to a row; says whether it ends the row."""
        row.tokens.append(token_id)
        params = row.request.params
        assert isinstance(params, SamplingParams)  # only generating rows are sampled
        if token_id in params.stop_token_ids or (not params.ignore_eos and token_id in self._eos):
            return "stop"
        return "length" if row.num_generated >= params.max_tokens else None

    def saves(self, row: Row, *, has_ended: bool = False) -> Iterator[list[tuple[int, int]]]:
        """What of a row's computed tokens the prefix cache is to save, as `PrefixTable.saves` tells it: of its
        prompt, and of its answer when that is complete."""
        if self.prefixes is None or row.chain is None:
            return iter(())
        if has_ended:
            self.prefixes.extend(row.chain, row.tokens[: row.num_computed])
        return self.prefixes.saves(row.chain, row.num_computed)

    def finish(self, row: Row) -> None:
        """Take a row out of the running set and give back what it held."""
        request = row.request
        if self.prefixes is not None and row.chain is not None:
            self.prefixes.close(row.chain)
        del self._running[request.id]
        self.slots.release(request.digest)
        self._adapters[request.digest] -= 1
        if not self._adapters[request.digest]:
            del self._adapters[request.digest]
        if row.kv is not None:
            self.kv.free(row.kv)
            self._num_generating -= 1
        self._counters.leave(request.task)

    def remove(self, request_id: str) -> Request | None:
        """Take a request out, waiting or running; None when it is not here any more."""
        if request_id in self._running:
            row = self._running[request_id]
            self.finish(row)
            return row.request
        request = self._waiting.get(request_id)
        if request is not None:
            self._waiting.take(request)
            self._counters.leave(request.task)
        return request

    def check_integrity(self) -> None:
        """Raise IntegrityError unless the books of slots, KV rows and prefixes add up."""
        self.slots.check_integrity()
        self.kv.check_integrity()
        if self.prefixes is not None:
            self.prefixes.check_integrity(row.chain for row in self._running.values() if row.chain is not None)

    def _new_step(self) -> _Step:
        """A step that takes one token of each row that generates, with what that leaves of the budgets."""
        limits = self.limits
        counts = {id: 1 for id, row in self._running.items() if row.num_pending == 1}
        prompt_tokens = limits.max_step_tokens - len(counts)
        if counts and limits.max_mixed_tokens is not None:
            prompt_tokens = min(prompt_tokens, limits.max_mixed_tokens)
        return _Step(
            rows=limits.max_step_rows - len(counts),
            generating=limits.max_running_rows - self._num_generating,
            prompt_tokens=prompt_tokens,
            counts=counts,
            goes_on=bool(counts),
        )

    def _continue_prompts(self, rows: list[Row], step: _Step) -> None:
        """The next chunks of prompts, those first that were admitted first."""
        could_admit = self._waiting.num_pooling or (self._waiting.num_generating and step.generating > 0)
        tokens = step.prompt_tokens - step.prompt_tokens // 2 if could_admit else step.prompt_tokens
        if self._owes_pooling:
            tokens = 0
        for row in rows:
            count = min(row.num_pending, tokens)
            if count > 0:
                step.add_prompt(row, count)
                tokens -= count

    def _use_up(self, rows: list[Row], step: _Step) -> None:
        """Give prompts that are not complete the tokens that nobody else took."""
        for row in rows:
            count = min(row.num_pending - step.counts.get(row.request.id, 0), step.prompt_tokens)
            if count > 0 and (step.rows > 0 or row.request.id in step.counts):
                step.add_prompt(row, count)

    def _admit_waiting(self, now: float, step: _Step) -> None:
        owed, self._owes_pooling = self._owes_pooling, False
        has_admitted = False
        for request in self._waiting.in_turn(step.takes):
            generates = isinstance(request.params, SamplingParams)
            if not self._may_place(request, step):
                continue
            if not self._has_room(request):
                # What a generating row holds, it holds for long; the others give it back with the step.
                step.generating = 0 if self._waiting.is_aged(request) else step.generating
            elif generates or self._fits_whole(request, step):
                has_admitted |= self._admit(request, now, step)
            else:
                # It lacks tokens that prompts took: they pause for one step, but never for two in a row.
                self._owes_pooling |= not has_admitted and not owed

    def _may_place(self, request: Request, step: _Step) -> bool:
        """Whether the answers that go on can wait for its adapter to be written too, where it must be."""
        if not step.placed_bytes or not step.goes_on or self.slots.slot_of(request.digest) is not None:
            return True
        return step.placed_bytes + request.adapter_bytes <= MAX_PLACED_BYTES

    def _has_room(self, request: Request) -> bool:
        """Whether there are a slot, room for its adapter, and KV room for a request."""
        most_adapters = self.limits.max_step_adapters or self.slots.num_slots + 1
        if request.digest not in self._adapters and len(self._adapters) >= most_adapters:
            return False
        if not self.slots.can_hold(request.digest, request.adapter_bytes):
            return False
        return not isinstance(request.params, SamplingParams) or self.kv.can_allocate(_total_tokens(request))

    def _fits_whole(self, request: Request, step: _Step) -> bool:
        """A row that does not generate is computed in one step; one that is longer than a step comes without
        other prompts."""
        return not step.has_prompts or _uncached_tokens(request) <= step.prompt_tokens

    def _admit(self, request: Request, now: float, step: _Step) -> bool:
        """Begin a request, unless it does better to wait for a prefix that another row computes."""
        tokens = (VIRTUAL_ID,) * request.virtual.count + request.token_ids
        chain = None
        if self.prefixes is not None and isinstance(request.params, SamplingParams):
            space = self.prefixes.space(request.digest, request.cache_salt)
            found = self.prefixes.find(space, tokens)
            if is_worth_waiting(found, len(tokens)) and not self._waiting.is_aged(request):
                return False
            chain = self.prefixes.open(space, tokens, found)
        self._waiting.take(request)
        row = self._new_row(request, tokens, chain, now, step)
        step.admitted.append(row)
        self._running[request.id] = row
        self._adapters[request.digest] += 1
        self._counters.charge(request.task, prompt=row.num_pending)
        if row.kv is None:
            step.add_prompt(row, row.num_pending)
        else:
            self._num_generating += 1
            step.generating -= 1
            step.add_prompt(row, min(row.num_pending, step.prompt_tokens))
        return True

    def _new_row(
        self,
        request: Request,
        tokens: tuple[int, ...],
        chain: Chain | None,
        now: float,
        step: _Step,
    ) -> Row:
        hold = self.slots.hold(request.digest, request.adapter_bytes)
        if hold.is_new:
            step.placements.append(Placement(hold.slot, request.digest, hold.evicted))
            step.placed_bytes += request.adapter_bytes
        generates = isinstance(request.params, SamplingParams)
        kv = self.kv.allocate(_total_tokens(request)) if generates else None
        seed = request.params.seed if isinstance(request.params, SamplingParams) else None
        row = Row(request, hold.slot, kv, list(tokens), started=now, random=random.Random(seed), chain=chain)
        given = request.virtual.count if request.virtual.cached else 0
        # The last token is computed in any case: its state is what the first answer token comes from.
        most = (len(tokens) - 1) // BLOCK_TOKENS
        restored = min(chain.num_passed, most) * BLOCK_TOKENS if chain else 0
        row.num_restored = restored if restored > given else 0
        row.num_computed = max(given, row.num_restored)
        return row

    def _expire(self, now: float) -> tuple[list[Request], list[Row]]:
        late = self._waiting.take_late(now)
        for request in late:
            self._counters.leave(request.task)
        late_rows = [row for row in self._running.values() if _is_late(row.request, now)]
        for row in late_rows:
            self.finish(row)
        return late, late_rows

    def _note_width(self, planned: list[PlannedRow]) -> None:
        adapters = len({part.row.slot for part in planned})
        for part in planned:
            part.row.widest_adapters = max(part.row.widest_adapters, adapters)
            part.row.widest_rows = max(part.row.widest_rows, len(planned))


def _total_tokens(request: Request) -> int:
    """The KV room of a generating row."""
    assert isinstance(request.params, SamplingParams)  # the others keep nothing
    return request.virtual.count + len(request.token_ids) + request.params.max_tokens


def _uncached_tokens(request: Request) -> int:
    return len(request.token_ids) + (0 if request.virtual.cached else request.virtual.count)


def _is_late(request: Request, now: float) -> bool:
    return request.deadline is not None and now > request.deadline
