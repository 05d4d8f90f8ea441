"""An adapter's delta in the form that the banks take: what it does at each place, whatever its method.

A method is put together from few operations, each with banks of its own (see `engine.banks`). At a linear module
y = W x + b a row's delta may, in this order: scale x; scale and shift y; add a low-rank product of x; add a
bottleneck of y (`after`) or of its feed-forward block's input (`parallel`). A layer norm may have a bottleneck
`around` it, and its output shifted. An embedding may be scaled, and have a low-rank table's vectors added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from multigraft_server.engine.requests import VirtualTokens


@dataclass(frozen=True, slots=True)
class PreparedPair:
    """A low-rank product in the banks' layout and dtype, its scaling folded into `b`: a (r, in), b (r, out)."""

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class PreparedTable:
    """What is added to the vectors of ids, table[id] b, in the banks' layout and dtype.

    `scale` (n,), fp32, is what the base's own vectors are multiplied with before.
    """

    table: Tensor  # (ids, r)
    b: Tensor  # (r, n)
    scale: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Affine:
    """v -> v * scale + shift, each (n,) in fp32; None is 1 and 0."""

    scale: Tensor | None = None
    shift: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PreparedBottleneck:
    """up(activation(down(x))) in the banks' layout and dtype, its scaling folded into `up` and its bias."""

    activation: str
    down: Tensor  # (size, n)
    down_bias: Tensor  # (size,)
    up: Tensor  # (size, n)
    up_bias: Tensor  # (n,)

    @property
    def size(self) -> int:
        return self.down.shape[0]


@dataclass(frozen=True, slots=True)
class PreparedDelta:
    """What an adapter does to the base: operations by module path, and what it puts before each row, `prompt`
    (virtual tokens, hidden) or `prefix` (2, layers, heads, virtual tokens, head_dim)."""

    low_rank: Mapping[str, PreparedPair] = field(default_factory=dict)
    inputs: Mapping[str, Affine] = field(default_factory=dict)
    outputs: Mapping[str, Affine] = field(default_factory=dict)
    after: Mapping[str, PreparedBottleneck] = field(default_factory=dict)
    parallel: Mapping[str, PreparedBottleneck] = field(default_factory=dict)
    around: Mapping[str, PreparedBottleneck] = field(default_factory=dict)
    embeddings: Mapping[str, PreparedTable] = field(default_factory=dict)
    prompt: Tensor | None = None
    prefix: Tensor | None = None

    @property
    def virtual(self) -> VirtualTokens:
        """The virtual tokens of each row."""
        if self.prefix is not None:
            return VirtualTokens(self.prefix.shape[3], cached=True)
        return VirtualTokens(0 if self.prompt is None else self.prompt.shape[0])

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in _tensors_of(self))


def prepare_pair(a: Tensor, b: Tensor, scaling: float | Tensor, dtype: torch.dtype) -> PreparedPair:
    """Cast a (r, in) and b (out, r) once; `scaling`, one number or one per output, is applied in fp32 before."""
    scale = scaling[:, None] if isinstance(scaling, Tensor) else scaling
    scaled = (b.to(torch.float32) * scale).to(dtype)
    return PreparedPair(a.to(dtype).contiguous(), scaled.t().contiguous())


def _tensors_of(part: object) -> Iterator[Tensor]:
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, Mapping):
        for value in part.values():
            yield from _tensors_of(value)
    elif isinstance(part, PreparedDelta | PreparedPair | PreparedBottleneck | PreparedTable | Affine):
        for entry in fields(part):
            yield from _tensors_of(getattr(part, entry.name))
