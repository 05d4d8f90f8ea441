"""Frozen linear modules with weights of 8 bits, for processors that multiply such numbers quickly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multigraft_adapters.bases import Base
from multigraft_adapters.errors import SetupError
from multigraft_server.engine.shared import same_input

Quantize = Literal["none", "int8"]

MOST = 127
"""The largest 8-bit number used; symmetric, so -128 is not."""
MOST_OF_INPUT = 126.5
"""The largest of an input, before it is rounded. A scale in bf16 may be 0.2% less than it should be, and even then
nothing is above 127."""
LEAST_SCALE = 1e-30
"""A row of zeros has no scale of its own."""


class InputRows:
    """The rows of an input in 8 bits, for modules that are called one after another with the same tensor."""

    def __init__(self, readers: int) -> None:
        self._readers = readers
        self._left = 0
        self._x: Tensor | None = None
        self._rows: tuple[Tensor, Tensor] | None = None

    def of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Whole numbers (rows, in) and scales (rows, 1) of `x` (..., in)."""
        if self._rows is None or self._x is not x:
            self._x, self._rows, self._left = x, quantised_rows(x.reshape(-1, x.shape[-1])), self._readers
        rows, self._left = self._rows, self._left - 1
        if self._left == 0:
            self._x = self._rows = None
        return rows


class QuantisedLinear(nn.Module):
    """x -> x W^T + b for a frozen W (out, in), kept in 8 bits with a scale for each output.

    Each row of x is rounded to 8 bits by a scale of its own, and the products are sums of whole numbers: what a
    row becomes does not depend on the rows beside it. Biases are kept as they are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: InputRows) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._rows = rows
        self._scales = weight.float().abs().amax(1).clamp_(min=LEAST_SCALE).div_(MOST)
        whole = (weight.float() / self._scales[:, None]).round_().to(torch.int8).contiguous()
        self._packed: Tensor = torch.ops.onednn.qlinear_prepack(whole, None)
        self._no_shift = torch.zeros(len(whole), dtype=torch.int32)

    @property
    def num_bytes(self) -> int:
        """Bytes of the weight and its scales, the bias aside."""
        return self._packed.nbytes + self._scales.nbytes + self._no_shift.nbytes

    @property
    def weight(self) -> Tensor:
        """What it multiplies with (out, in), in fp32, copied."""
        return self._packed.to_dense().t().float() * self._scales[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        whole, scales = self._rows.of(x)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(whole, 1.0, 0, self._packed, self._scales, self._no_shift, None, 1.0, 0, x.dtype, "none", [], "")
        )
        y = y.mul_(scales) if self.bias is None else torch.addcmul(self.bias, y, scales)
        return y.view(*x.shape[:-1], y.shape[-1])


def quantised_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of `x` (rows, in) as whole numbers of -127 to 127 and its scale (rows, 1), in x's dtype."""
    wide = x.float()
    scales = wide.abs().amax(-1, keepdim=True).clamp_(min=LEAST_SCALE).div_(MOST_OF_INPUT).to(x.dtype)
    return (wide * scales.float().reciprocal()).round_().to(torch.int8), scales


def quantise(base: Base) -> Base:
    """A base whose linear modules and output head have weights of 8 bits; the given one's modules are replaced.

    Embeddings, norms and biases stay as they are, and so does the fingerprint, which is of the stored weights.
    Raises SetupError where the device or the processor has no quick product for them.
    """
    if base.model.device.type != "cpu" or not torch.cpu._is_vnni_supported():
        raise SetupError("quantize int8 needs a CPU with VNNI or AMX: this one, or the device, has neither")
    for path, module in _quantised({path: base.model.get_submodule(path) for path in base.spec.targets}).items():
        parent, _, name = path.rpartition(".")
        setattr(base.model.get_submodule(parent), name, module)
    if base.lm_head is None:
        return base
    return replace(base, lm_head=_quantised({"lm_head": base.lm_head})["lm_head"])


def _quantised(modules: Mapping[str, nn.Module]) -> dict[str, QuantisedLinear]:
    groups: Sequence[Sequence[str]] = same_input(modules)
    rows = {path: shared for paths in groups for shared in [InputRows(len(paths))] for path in paths}
    return {path: _one(module, rows.get(path) or InputRows(1)) for path, module in modules.items()}


def _one(module: nn.Module, rows: InputRows) -> QuantisedLinear:
    weight: Tensor = module.weight  # type: ignore[assignment]
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    return QuantisedLinear(weight.t() if isinstance(module, Conv1D) else weight, bias, rows)
