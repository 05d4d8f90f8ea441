"""The answers of a step's pooling rows: heads on pooled states or on every token's, whatever their sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from multigraft_adapters.heads import Head
from multigraft_adapters.manifest import Pooling
from multigraft_server.engine.plan import Group, Row
from multigraft_server.engine.pooling import PooledPart, pool

HeadOf = Callable[[int], Head]
BasePooler = Callable[[Tensor, Sequence[Group]], Tensor]


@dataclass(frozen=True, slots=True)
class PoolingRow:
    """A pooling row with the places start..stop of its tokens in the step."""

    row: Row
    start: int
    stop: int

    @property
    def output(self) -> Literal["head", "embedding", "tokens"]:
        assert self.row.pooling is not None  # generating rows are not answered here
        return self.row.pooling.output

    def pooling(self, head_of: HeadOf) -> Pooling | None:
        """Which of its states is read; None for all of them."""
        if self.output == "head":
            return head_of(self.row.slot).spec.pooling
        return "mean" if self.output == "embedding" else None


def pooling_answers(
    hidden: Tensor, rows: Sequence[PoolingRow], head_of: HeadOf, base_pooler: BasePooler
) -> Iterator[tuple[Row, Tensor]]:
    """Each row with its values in fp32: logits (labels,) or a vector (hidden,), or such for each of its tokens.

    `hidden` is (tokens, hidden), `rows` are sorted by slot, `head_of` gives a slot's head. A head computes the
    adjacent rows of its slot at once.
    """
    poolings = [one.pooling(head_of) for one in rows]
    states = _states(hidden, rows, poolings, base_pooler)
    for (slot, output), indices in groupby(range(len(rows)), key=lambda i: (rows[i].row.slot, rows[i].output)):
        group = list(indices)
        together = torch.cat([states[index] for index in group])
        computed = head_of(slot).forward(together) if output == "head" else _plain(together, output)
        sizes = [len(states[index]) for index in group]
        for index, values in zip(group, torch.split(computed, sizes), strict=True):
            yield rows[index].row, values if poolings[index] is None else values[0]


def _states(
    hidden: Tensor, rows: Sequence[PoolingRow], poolings: Sequence[Pooling | None], base_pooler: BasePooler
) -> list[Tensor]:
    """What each row's head reads, in fp32: its pooled state (1, hidden), or its tokens' (tokens, hidden)."""
    parts = [
        PooledPart(one.start, one.stop, one.row.slot, pooling)
        for one, pooling in zip(rows, poolings, strict=True)
        if pooling is not None
    ]
    pooled = iter(pool(hidden, parts, base_pooler))
    return [
        _own_tokens(hidden, one).to(torch.float32) if pooling is None else next(pooled)[None]
        for one, pooling in zip(rows, poolings, strict=True)
    ]


def _own_tokens(hidden: Tensor, one: PoolingRow) -> Tensor:
    """The states of the input's tokens, without those of virtual ones."""
    return hidden[one.start + one.row.num_virtual_states : one.stop]


def _plain(states: Tensor, output: str) -> Tensor:
    """What a row without a head of its own answers: unit length for an embedding, token states as they are."""
    return torch.nn.functional.normalize(states, dim=-1) if output == "embedding" else states
