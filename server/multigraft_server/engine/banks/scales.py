"""Scales and shifts by slot, of a module's input or of its output: v -> v * scale + shift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.kernels.many import ManyTokens
from multigraft_server.engine.methods.prepared import Affine, PreparedDelta
from multigraft_server.engine.plan import Group

UNCHANGED = 0
"""The row that changes nothing; tokens of the base and of other methods between two groups have it."""

GATHERED_TOKENS = 24
"""Tokens per group up to which gathering each token's row beats a product per group (measured on a 2-core CPU
at 576 and 1536 features: a loop pays a launch per group, a gather pays for the copy of the rows)."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """The tokens start..stop of one slot, and its row in the banks."""

    start: int
    stop: int
    row: int


@dataclass(frozen=True, slots=True)
class ScaleStep:
    """How the banks work on a step's tokens first..last: by the row of each token, or without `rows` by group.
    Where there are `kernels`, they compute all groups at once."""

    first: int
    last: int
    groups: tuple[RowGroup, ...]
    rows: Tensor | None  # (last - first,)
    kernels: ManyTokens | None = None
    table: Tensor | None = None  # the groups, as the kernels read them


class ScaleBank:
    """One module's scales (rows, n) in fp32, and shifts where an adapter has one."""

    def __init__(self, features: int, rows: int, device: torch.device) -> None:
        self.scale = torch.ones(rows, features, device=device)
        self.shift: Tensor | None = None
        self.rows: set[int] = set()  # that an adapter's map is in

    @property
    def num_bytes(self) -> int:
        return self.scale.nbytes + (0 if self.shift is None else self.shift.nbytes)

    def grow(self, rows: int) -> bool:
        """Make room for `rows` rows; contents stay. Returns whether they have been moved for it."""
        missing = rows - self.scale.shape[0]
        if missing > 0:
            self.scale = torch.cat([self.scale, self.scale.new_ones(missing, self.scale.shape[1])])
            if self.shift is not None:
                self.shift = torch.cat([self.shift, self.shift.new_zeros(missing, self.shift.shape[1])])
        return missing > 0

    def write(self, row: int, affine: Affine | None) -> bool:
        """Fill a row; without an affine map it changes nothing. Returns whether room for shifts has been made."""
        scale, shift = (None, None) if affine is None else (affine.scale, affine.shift)
        first = shift is not None and self.shift is None
        if first:
            self.shift = torch.zeros_like(self.scale)
        self.scale[row] = 1.0 if scale is None else scale
        if self.shift is not None:
            self.shift[row] = 0.0 if shift is None else shift
        self.rows = self.rows - {row} if affine is None else self.rows | {row}
        return first

    def apply(self, values: Tensor, step: ScaleStep) -> None:
        """Change each token's `values` (tokens, n) in place."""
        if step.kernels is not None and step.table is not None and values.dtype == torch.bfloat16:
            step.kernels.scale_groups(values, self.scale, self.shift, step.table)
            return
        if step.rows is None:
            self.apply_by_group(values, step)
            return
        own = values[step.first : step.last]
        own.mul_(self.scale.index_select(0, step.rows))
        if self.shift is not None:
            own.add_(self.shift.index_select(0, step.rows))

    def apply_by_group(self, values: Tensor, step: ScaleStep) -> None:
        """The slow twin of the gathered product: one product per group."""
        for group in step.groups:
            own = values[group.start : group.stop].mul_(self.scale[group.row])
            if self.shift is not None:
                own.add_(self.shift[group.row])


class ScaleBanks:
    """The banks of one operation. `part` reads its maps off a prepared delta, by module path.

    `generation` grows when banks are made, or moved to another place of memory.
    """

    def __init__(
        self,
        part: Callable[[PreparedDelta], Mapping[str, Affine]],
        places: Mapping[str, ScalePlace],
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        self._kernels = kernels
        self._part = part
        self._places = places
        self._device = device
        self._space = ColumnSpace(1)
        self._space.allocate(UNCHANGED, 1)
        self.generation = 0

    @property
    def num_bytes(self) -> int:
        return sum(place.bank.num_bytes for place in self._places.values() if place.bank is not None)

    def write(self, slot: int, delta: PreparedDelta) -> None:
        """Put a delta's maps into a slot that is clear."""
        maps = {path: one for path, one in self._part(delta).items() if path in self._places}
        if not maps:
            return
        row = self._space.allocate(slot, 1).start
        for path, place in self._places.items():
            if path in maps and place.bank is None:
                place.bank = ScaleBank(place.features, self._space.capacity, self._device)
                self.generation += 1
            if place.bank is not None:
                self.generation += place.bank.grow(self._space.capacity)
                self.generation += place.bank.write(row, maps.get(path))

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        self._space.free(slot)

    def plan(self, groups: Sequence[Group]) -> ScaleStep | None:
        """How these groups are computed; None when no slot of theirs has a map."""
        own = tuple(
            RowGroup(group.start, group.stop, row.start)
            for group in groups
            if group.slot != UNCHANGED and (row := self._space.columns(group.slot))
        )
        return plan_rows(own, self._device, self._kernels) if own else None

    def check_integrity(self) -> None:
        """Raise IntegrityError when two slots share a row."""
        self._space.check_integrity()


class ScalePlace:
    """A module's place for a bank; None until the first adapter with a map here is placed."""

    __slots__ = ("bank", "features")

    def __init__(self, features: int) -> None:
        self.features = features
        self.bank: ScaleBank | None = None


def plan_rows(groups: tuple[RowGroup, ...], device: torch.device, kernels: Kernels | None = None) -> ScaleStep:
    """Choose between one gathered product and a product per group, where there are no kernels."""
    first, last = groups[0].start, groups[-1].stop
    if kernels is not None:
        table = torch.tensor([(group.start, group.stop, group.row) for group in groups])
        return ScaleStep(first, last, groups, None, kernels.many, table)
    if len(groups) == 1 or last - first > GATHERED_TOKENS * len(groups):
        return ScaleStep(first, last, groups, None)
    rows = torch.full((last - first,), UNCHANGED)
    for group in groups:
        rows[group.start - first : group.stop - first] = group.row
    return ScaleStep(first, last, groups, rows.to(device))
