"""What crosses from the scheduler to the engine: the rows that live, and what a step does with them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from multigraft_server.engine.kv_table import KVRow
from multigraft_server.engine.prefix_table import Chain
from multigraft_server.engine.requests import PoolingParams, Request, SamplingParams, Timing


@dataclass(slots=True, eq=False)
class Row:
    """A running sequence: its tokens so far (virtual, prompt, then generated) and how many of them are computed.

    The ids of virtual tokens stand for their places only.

    `slot` is held from admission to the end. `kv` is the row's place in the KV cache; pooling rows have none,
    since they run whole in one step. `chain` is what it has in the prefix cache, from which its first
    `num_restored` tokens come. `random` is seeded by the request.
    """

    request: Request
    slot: int
    kv: KVRow | None
    tokens: list[int]
    started: float
    random: random.Random
    chain: Chain | None = None
    num_restored: int = 0
    num_computed: int = 0
    widest_adapters: int = 1
    widest_rows: int = 1

    def timing(self, finished: float, head: float | None) -> Timing:
        """When it ran, once it has ended; `head` as in `Timing`."""
        request = self.request
        return Timing(
            request.arrival,
            self.started,
            finished,
            self.widest_adapters,
            self.widest_rows,
            request.loaded,
            head,
        )

    @property
    def num_virtual(self) -> int:
        return self.request.virtual.count

    @property
    def num_prompt(self) -> int:
        return self.num_virtual + len(self.request.token_ids)

    @property
    def num_virtual_states(self) -> int:
        """How many of its first hidden states are of virtual tokens."""
        return 0 if self.request.virtual.cached else self.num_virtual

    @property
    def num_cached(self) -> int:
        """How many of the request's own tokens come from the prefix cache."""
        return max(0, self.num_restored - self.num_virtual)

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        return len(self.tokens) - self.num_computed

    @property
    def sampling(self) -> SamplingParams | None:
        params = self.request.params
        return params if isinstance(params, SamplingParams) else None

    @property
    def pooling(self) -> PoolingParams | None:
        params = self.request.params
        return params if isinstance(params, PoolingParams) else None


@dataclass(frozen=True, slots=True)
class PlannedRow:
    """A row's part of one step: `count` tokens from position `start`."""

    row: Row
    start: int
    count: int

    @property
    def is_decode(self) -> bool:
        return self.count == 1 and self.start >= self.row.num_prompt

    @property
    def ends_pending(self) -> bool:
        """Whether the step reaches the row's last token, so that it yields an answer or a next token."""
        return self.start + self.count == len(self.row.tokens)


@dataclass(frozen=True, slots=True)
class Group:
    """Adjacent tokens (or pooled rows) start..stop of one slot."""

    slot: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Placement:
    """A slot that must be written before the step runs; `evicted` are the slots that were emptied for it, with
    what was in them."""

    slot: int
    digest: str
    evicted: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. `rows` are sorted by slot, so that the rows of one adapter are adjacent and the base is first;
    those of `admitted` are in their first step."""

    rows: tuple[PlannedRow, ...]
    admitted: tuple[Row, ...] = ()
    placements: tuple[Placement, ...] = ()
    expired: tuple[Request, ...] = ()
    expired_rows: tuple[Row, ...] = field(default=())

    def spans(self, chosen: Callable[[PlannedRow], bool]) -> list[tuple[PlannedRow, int, int]]:
        """The chosen rows with their tokens' start and stop in the step."""
        spans, place = [], 0
        for part in self.rows:
            if chosen(part):
                spans.append((part, place, place + part.count))
            place += part.count
        return spans

    @property
    def num_tokens(self) -> int:
        return sum(planned.count for planned in self.rows)

    @property
    def num_adapters(self) -> int:
        """Distinct adapters in the step; the base counts as one."""
        return len({planned.row.slot for planned in self.rows})

    @property
    def phase(self) -> str:
        decoding = [planned.is_decode for planned in self.rows]
        return "decode" if all(decoding) else "mixed" if any(decoding) else "prefill"
