"""Stacked LoRA tensors of all slots at one linear module, and the products over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from multigraft_adapters.methods.lora import LoraPair
from multigraft_server.engine.context import LoraStep


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """A pair in the bank's layout and dtype, its scaling folded into `b`: a (r, in), b (r, out)."""

    a: Tensor
    b: Tensor


def prepare_pair(pair: LoraPair, dtype: torch.dtype) -> PreparedPair:
    """Cast once, off the step's path. The scaling is applied in fp32, before the cast."""
    b = (pair.b.to(torch.float32) * pair.scaling).to(dtype)
    return PreparedPair(pair.a.to(dtype).contiguous(), b.t().contiguous())


class LoraBank:
    """One module's A and B of every slot: `a` (columns, in), `b` (columns, out).

    A slot's columns are those of the engine's RankSpace; columns that no adapter fills here are zero.
    """

    def __init__(
        self, in_features: int, out_features: int, columns: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.a = torch.zeros(columns, in_features, device=device, dtype=dtype)
        self.b = torch.zeros(columns, out_features, device=device, dtype=dtype)

    @property
    def num_bytes(self) -> int:
        return self.a.nbytes + self.b.nbytes

    def grow(self, columns: int) -> None:
        """Make room for `columns` columns; contents stay."""
        missing = columns - self.a.shape[0]
        if missing > 0:
            self.a = torch.cat([self.a, self.a.new_zeros(missing, self.a.shape[1])])
            self.b = torch.cat([self.b, self.b.new_zeros(missing, self.b.shape[1])])

    def write(self, columns: range, pair: PreparedPair | None) -> None:
        """Fill a slot's columns; those beyond the pair's rank, or all without a pair, become zero."""
        place = slice(columns.start, columns.stop)
        self.a[place].zero_()
        self.b[place].zero_()
        if pair is not None:
            own = slice(columns.start, columns.start + pair.a.shape[0])
            self.a[own].copy_(pair.a)
            self.b[own].copy_(pair.b)

    def add_to(self, y: Tensor, x: Tensor, step: LoraStep) -> None:
        """Add each token's own delta to `y` (tokens, out) in place, from `x` (tokens, in)."""
        if step.mask is not None:
            self._add_masked(y, x, step, step.mask)
        else:
            self.add_by_group(y, x, step)

    def _add_masked(self, y: Tensor, x: Tensor, step: LoraStep, mask: Tensor) -> None:
        columns = slice(step.columns.start, step.columns.stop)
        last = step.first + mask.shape[0]
        hidden = (x[step.first : last] @ self.a[columns].t()).mul_(mask)
        y[step.first : last].addmm_(hidden, self.b[columns])

    def add_by_group(self, y: Tensor, x: Tensor, step: LoraStep) -> None:
        """The slow twin of the masked product: one pair of products per group."""
        for group in step.groups:
            columns = slice(group.columns.start, group.columns.stop)
            hidden = x[group.start : group.stop] @ self.a[columns].t()
            y[group.start : group.stop].addmm_(hidden, self.b[columns])
