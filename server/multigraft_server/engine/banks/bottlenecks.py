"""Bottlenecks of all slots at one place, stacked: y += up(activation(down(x))).

The column after a slot's own is 1 for its tokens, and its row of `up` is the bias of up: one product adds both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from multigraft_adapters.methods.bottleneck import ACTIVATIONS
from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.banks.low_rank import ColumnStep, plan_columns
from multigraft_server.engine.kernels import Kernels
from multigraft_server.engine.methods.prepared import PreparedBottleneck, PreparedDelta
from multigraft_server.engine.plan import Group


@dataclass(frozen=True, slots=True)
class BottleneckStep:
    """How the banks of one activation work on a step's tokens; `ones` (tokens, columns) is where a column is 1."""

    activation: str
    columns: ColumnStep
    ones: Tensor | None


class BottleneckBank:
    """One place's tensors of every slot with one activation: `down` (columns, n), `bias` (columns,), `up`
    (columns, n)."""

    def __init__(self, features: int, columns: int, device: torch.device, dtype: torch.dtype) -> None:
        self.down = torch.zeros(columns, features, device=device, dtype=dtype)
        self.up = torch.zeros(columns, features, device=device, dtype=dtype)
        self.bias = torch.zeros(columns, device=device, dtype=dtype)

    @property
    def num_bytes(self) -> int:
        return self.down.nbytes + self.up.nbytes + self.bias.nbytes

    def grow(self, columns: int) -> bool:
        """Make room for `columns` columns; contents stay. Returns whether they have been moved for it."""
        missing = columns - self.down.shape[0]
        if missing > 0:
            self.down = torch.cat([self.down, self.down.new_zeros(missing, self.down.shape[1])])
            self.up = torch.cat([self.up, self.up.new_zeros(missing, self.up.shape[1])])
            self.bias = torch.cat([self.bias, self.bias.new_zeros(missing)])
        return missing > 0

    def write(self, columns: range, part: PreparedBottleneck | None) -> None:
        """Fill a slot's columns; those that the adapter does not need here, or all without one, become zero."""
        place = slice(columns.start, columns.stop)
        for tensor in (self.down, self.up, self.bias):
            tensor[place].zero_()
        if part is not None:
            own = slice(columns.start, columns.start + part.size)
            self.down[own].copy_(part.down)
            self.bias[own].copy_(part.down_bias)
            self.up[own].copy_(part.up)
            self.up[columns.stop - 1].copy_(part.up_bias)

    def add_to(self, y: Tensor, x: Tensor, step: BottleneckStep) -> None:
        """Add each token's own bottleneck of `x` (tokens, n) to `y` (tokens, n) in place; they may be the same."""
        kernels, table = step.columns.kernels, step.columns.table
        if kernels is not None and table is not None:
            kernels.add_groups(y, x, self.down, self.up, table, bias=self.bias, activation=step.activation)
        elif step.columns.mask is not None and step.ones is not None:
            self._add_masked(y, x, step, step.columns.mask, step.ones)
        else:
            self.add_by_group(y, x, step)

    def _add_masked(self, y: Tensor, x: Tensor, step: BottleneckStep, mask: Tensor, ones: Tensor) -> None:
        columns = slice(step.columns.columns.start, step.columns.columns.stop)
        first, last = step.columns.first, step.columns.first + mask.shape[0]
        hidden = torch.addmm(self.bias[columns], x[first:last], self.down[columns].t())
        hidden = torch.addcmul(ones, ACTIVATIONS[step.activation](hidden), mask)
        y[first:last].addmm_(hidden, self.up[columns])

    def add_by_group(self, y: Tensor, x: Tensor, step: BottleneckStep) -> None:
        """The slow twin of the masked product: one pair of products per group."""
        for group in step.columns.groups:
            columns, tokens = slice(group.columns.start, group.columns.stop), slice(group.start, group.stop)
            hidden = torch.addmm(self.bias[columns], x[tokens], self.down[columns].t())
            hidden = ACTIVATIONS[step.activation](hidden)
            hidden[:, -1] = 1.0
            y[tokens].addmm_(hidden, self.up[columns])


@dataclass(slots=True)
class BottleneckPlace:
    """A place for banks, by activation; each is made when the first adapter that needs it is placed."""

    features: int
    banks: dict[str, BottleneckBank] = field(default_factory=dict)

    def add_to(self, y: Tensor, x: Tensor, steps: Sequence[BottleneckStep]) -> None:
        """Add each token's own bottleneck of `x` to `y`, both (tokens, n)."""
        for step in steps:
            bank = self.banks.get(step.activation)
            if bank is not None:
                bank.add_to(y, x, step)


class BottleneckBanks:
    """The banks of one kind of place. `part` reads its bottlenecks off a prepared delta, by path.

    `generation` grows when banks are made, or moved to another place of memory.
    """

    def __init__(
        self,
        part: Callable[[PreparedDelta], Mapping[str, PreparedBottleneck]],
        places: Mapping[str, BottleneckPlace],
        device: torch.device,
        dtype: torch.dtype,
        kernels: Kernels | None = None,
    ) -> None:
        self._kernels = kernels
        self._part = part
        self._places = places
        self._device = device
        self._dtype = dtype
        self._spaces = {activation: ColumnSpace(0) for activation in ACTIVATIONS}
        self.generation = 0

    @property
    def num_bytes(self) -> int:
        return sum(bank.num_bytes for place in self._places.values() for bank in place.banks.values())

    def write(self, slot: int, delta: PreparedDelta) -> None:
        """Put a delta's bottlenecks, which have one activation, into a slot that is clear."""
        parts = self._part(delta)
        if not parts:
            return
        activation = next(iter(parts.values())).activation
        space = self._spaces[activation]
        columns = space.allocate(slot, max(part.size for part in parts.values()) + 1)
        for path, place in self._places.items():
            if path in parts and activation not in place.banks:
                place.banks[activation] = BottleneckBank(place.features, space.capacity, self._device, self._dtype)
                self.generation += 1
            bank = place.banks.get(activation)
            if bank is not None:
                self.generation += bank.grow(space.capacity)
                bank.write(columns, parts.get(path))

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        for space in self._spaces.values():
            space.free(slot)

    def plan(self, groups: Sequence[Group]) -> tuple[BottleneckStep, ...]:
        """How these groups are computed, by activation; nothing when no slot of theirs has a bottleneck."""
        steps = []
        for activation, space in self._spaces.items():
            columns = plan_columns(groups, space, self._device, self._dtype, self._kernels)
            if columns is not None:
                steps.append(BottleneckStep(activation, columns, _ones(columns)))
        return tuple(steps)

    def check_integrity(self) -> None:
        """Raise IntegrityError when the columns of two slots overlap."""
        for space in self._spaces.values():
            space.check_integrity()


def _ones(step: ColumnStep) -> Tensor | None:
    """1 in each token's last column, that of the bias of up."""
    if step.mask is None:
        return None
    ones = torch.zeros(step.mask.shape, dtype=step.mask.dtype)
    for group in step.groups:
        ones[group.start - step.first : group.stop - step.first, group.columns.stop - 1 - step.columns.start] = 1.0
    return ones.to(step.mask.device)
