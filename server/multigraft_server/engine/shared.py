"""Linear modules that read the same input, computed by one product of their stacked weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from multigraft_server.engine.packing import PackedLinear

SAME_INPUT = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_lin", "k_lin", "v_lin"),
    ("gate_proj", "up_proj"),
)
"""The names of modules of one parent that transformers' models call one after another with the same tensor."""


class SharedProduct:
    """What one packed product of an input gives its members.

    The member that is called first computes all; the others take theirs when they are called with the same tensor.
    A member that is called with another one has all computed anew, so that nobody gets what is not its own.
    """

    def __init__(self, linear: PackedLinear, sizes: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.linear = linear
        self._x: Tensor | None = None
        self._left: dict[int, Tensor] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of the stacked weights and biases."""
        bias = self.linear.bias
        return self.linear.num_bytes + (0 if bias is None else bias.nbytes)

    @classmethod
    def of(cls, members: Sequence[PackedLinear]) -> SharedProduct:
        """One product in the place of the members'."""
        return cls(PackedLinear.stacked(members), [member.weight.shape[0] for member in members])

    def take(self, member: int, x: Tensor) -> Tensor:
        """The member's own part (..., out) of the product of `x` (..., in)."""
        if self._x is not x or member not in self._left:
            self._x = x
            self._left = dict(enumerate(torch.split(self.linear(x), self.sizes, dim=-1)))
        own = self._left.pop(member)
        if not self._left:
            self._x = None
        return own

    def weight(self, member: int) -> Tensor:
        """A member's weight (out, in), copied."""
        return torch.split(self.linear.weight, self.sizes)[member]

    def bias(self, member: int) -> Tensor | None:
        """A member's bias (out,)."""
        bias = self.linear.bias
        return None if bias is None else torch.split(bias, self.sizes)[member]


class SharedLinear(nn.Module):
    """One member of a shared product, in the place of a linear module."""

    def __init__(self, product: SharedProduct, member: int) -> None:
        super().__init__()
        self._product = product
        self.member = member

    @property
    def product(self) -> SharedProduct:
        """What it is a member of."""
        return self._product

    @property
    def weight(self) -> Tensor:
        """(out, in), copied."""
        return self._product.weight(self.member)

    @property
    def bias(self) -> Tensor | None:
        """(out,)."""
        return self._product.bias(self.member)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self._product.take(self.member, x)


def share_products(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules by path; those that read the same input are members of one product, where all are packed."""
    shared = dict(modules)
    for paths in same_input(modules):
        members = [module for path in paths if isinstance(module := modules[path], PackedLinear)]
        alike = len({(type(member), member.bias is None) for member in members}) == 1
        if len(members) == len(paths) and alike:
            product = SharedProduct.of(members)
            shared |= {path: SharedLinear(product, index) for index, path in enumerate(paths)}
    return shared


def same_input(paths: Iterable[str]) -> list[list[str]]:
    """The paths of those that read the same input, in the order in which they are called."""
    groups: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for path in paths:
        parent, _, name = path.rpartition(".")
        for names in SAME_INPUT:
            if name in names:
                groups.setdefault((parent, names), []).append(path)
    return [found for (_, names), found in groups.items() if len(found) == len(names)]
