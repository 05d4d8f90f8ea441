"""Low-rank products of all slots at one linear module, stacked: y += x A B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from multigraft_adapters.bases import LinearShape
from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.kernels.many import ManyTokens
from multigraft_server.engine.methods.prepared import PreparedDelta, PreparedPair
from multigraft_server.engine.plan import Group

USUAL_RANK = 16
"""Columns that the banks start with, per slot; they grow when adapters need more."""

MASKED_WORK = 32768
"""Tokens x columns up to which one masked product over all groups beats a product per group (measured on a
2-core CPU at hidden sizes 384 and 576: a loop pays three launches per group and layer)."""


@dataclass(frozen=True, slots=True)
class ColumnGroup:
    """The tokens start..stop of one slot, and its columns in the banks."""

    start: int
    stop: int
    columns: range


@dataclass(frozen=True, slots=True)
class ColumnStep:
    """How banks of columns work on a step's tokens.

    `first` is the first token that has columns. With `mask` (tokens from `first`, columns), all groups are
    computed in one product over `columns`, and `mask` keeps each token to its own adapter. Without it, each
    group is computed on its own. Where there are `kernels`, they compute all groups
    at once.
    """

    first: int
    groups: tuple[ColumnGroup, ...]
    columns: range
    mask: Tensor | None
    kernels: ManyTokens | None = None
    table: Tensor | None = None  # the groups, as the kernels read them

    @property
    def widest(self) -> int:
        """The most columns of a group."""
        return max(len(group.columns) for group in self.groups)


class LowRankBank:
    """One module's A and B of every slot: `a` (columns, in), `b` (columns, out).

    A slot's columns are those of the ColumnSpace; columns that no adapter fills here are zero.
    """

    def __init__(
        self, in_features: int, out_features: int, columns: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.a = torch.zeros(columns, in_features, device=device, dtype=dtype)
        self.b = torch.zeros(columns, out_features, device=device, dtype=dtype)

    @property
    def num_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def grow(self, columns: int) -> bool:
        """Make room for `columns` columns; contents stay. Returns whether they have been moved for it."""
        missing = columns - self.a.shape[0]
        if missing > 0:
            self.a = torch.cat([self.a, self.a.new_zeros(missing, self.a.shape[1])])
            self.b = torch.cat([self.b, self.b.new_zeros(missing, self.b.shape[1])])
        return missing > 0

    def write(self, columns: range, pair: PreparedPair | None) -> None:
        """Fill a slot's columns; those beyond the pair's rank, or all without a pair, become zero."""
        place = slice(columns.start, columns.stop)
        self.a[place].zero_()
        self.b[place].zero_()
        if pair is not None:
            own = slice(columns.start, columns.start + pair.rank)
            self.a[own].copy_(pair.a)
            self.b[own].copy_(pair.b)

    def add_to(self, y: Tensor, x: Tensor, step: ColumnStep) -> None:
        """Add each token's own product to `y` (tokens, out) in place, from `x` (tokens, in)."""
        if step.kernels is not None and step.table is not None:
            step.kernels.add_groups(y, x, self.a, self.b, step.table)
        elif step.mask is not None:
            self._add_masked(y, x, step, step.mask)
        else:
            self.add_by_group(y, x, step)

    def _add_masked(self, y: Tensor, x: Tensor, step: ColumnStep, mask: Tensor) -> None:
        columns = slice(step.columns.start, step.columns.stop)
        last = step.first + mask.shape[0]
        hidden = (x[step.first : last] @ self.a[columns].t()).mul_(mask)
        y[step.first : last].addmm_(hidden, self.b[columns])

    def add_by_group(self, y: Tensor, x: Tensor, step: ColumnStep) -> None:
        """The slow twin of the masked product: one pair of products per group."""
        for group in step.groups:
            columns = slice(group.columns.start, group.columns.stop)
            hidden = x[group.start : group.stop] @ self.a[columns].t()
            y[group.start : group.stop].addmm_(hidden, self.b[columns])


class LowRankPlace(Protocol):
    """A module that reads its bank; None until the first adapter with a product here is placed."""

    low_rank: LowRankBank | None

    @property
    def shape(self) -> LinearShape: ...


class LowRankBanks:
    """The banks of some linear modules. They have no room for adapters until one is placed, then for `columns`.

    `generation` grows when banks are made, or moved to another place of memory.
    """

    def __init__(
        self,
        places: Mapping[str, LowRankPlace],
        columns: int,
        device: torch.device,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        self._places = places
        self._kernels = kernels
        self._device = device
        self._dtype = dtype
        self._space = ColumnSpace(columns)
        self.generation = 0

    @property
    def num_bytes(self) -> int:
        return sum(place.low_rank.num_bytes for place in self._places.values() if place.low_rank is not None)

    def write(self, slot: int, delta: PreparedDelta) -> None:
        """Put a delta's products into a slot that is clear."""
        pairs = {path: pair for path, pair in delta.low_rank.items() if path in self._places}
        if not pairs:
            return
        columns = self._space.allocate(slot, max(pair.rank for pair in pairs.values()))
        for path, place in self._places.items():
            if path in pairs and place.low_rank is None:
                place.low_rank = self._new_bank(place.shape)
                self.generation += 1
            if place.low_rank is not None:
                self.generation += place.low_rank.grow(self._space.capacity)
                place.low_rank.write(columns, pairs.get(path))

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        self._space.free(slot)

    def plan(self, groups: Sequence[Group]) -> ColumnStep | None:
        """How these groups are computed; None when no slot of theirs has a product."""
        return plan_columns(groups, self._space, self._device, self._dtype, self._kernels)

    def check_integrity(self) -> None:
        """Raise IntegrityError when the columns of two slots overlap."""
        self._space.check_integrity()

    def _new_bank(self, shape: LinearShape) -> LowRankBank:
        columns = self._space.capacity
        return LowRankBank(shape.in_features, shape.out_features, columns, self._device, self._dtype)


def plan_columns(
    groups: Sequence[Group],
    space: ColumnSpace,
    device: torch.device,
    dtype: torch.dtype,
    kernels: Kernels | None = None,
) -> ColumnStep | None:
    """Choose how the banks of a space compute these groups; None when none of them has columns in it."""
    own = tuple(
        ColumnGroup(group.start, group.stop, columns) for group in groups if (columns := space.columns(group.slot))
    )
    if not own:
        return None
    first, last = own[0].start, own[-1].stop
    columns = range(min(g.columns.start for g in own), max(g.columns.stop for g in own))
    if kernels is not None:
        table = torch.tensor([(g.start, g.stop, g.columns.start, g.columns.stop) for g in own], dtype=torch.int32)
        return ColumnStep(first, own, columns, None, kernels.many, table)
    one_product = len(own) > 1 and (last - first) * len(columns) <= MASKED_WORK
    mask = _mask(own, first, last, columns, device, dtype) if one_product else None
    return ColumnStep(first, own, columns, mask)


def _mask(
    groups: Sequence[ColumnGroup],
    first: int,
    last: int,
    columns: range,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    mask = torch.zeros(last - first, len(columns), dtype=dtype)
    for group in groups:
        own = slice(group.columns.start - columns.start, group.columns.stop - columns.start)
        mask[group.start - first : group.stop - first, own] = 1.0
    return mask.to(device)
