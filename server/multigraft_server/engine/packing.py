"""Frozen linear modules whose weights lie in the order in which the processor's matrix kernels read them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multigraft_server.engine.kernels import Kernels

USUAL_TOKENS = 16
"""The batch that the order is chosen for; measured, orders for 1, 16 and 512 tokens are equally fast at 16."""


class PackedLinear(nn.Module):
    """x -> x W^T + b for a frozen W (out, in) in bf16 on a CPU, bit for bit what `nn.Linear` computes.

    Its weight is reordered once, where `nn.Linear` lets the kernel reorder it at each call. The weight as it was
    is not kept: `weight` gives an exact copy.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), USUAL_TOKENS)

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed weight, the bias aside."""
        return self._packed.nbytes

    @property
    def weight(self) -> Tensor:
        """(out, in), copied out of the packed form."""
        return self._packed.to_dense()

    def twin(self, weight: Tensor, bias: Tensor | None, old: PackedLinear | None = None) -> PackedLinear:
        """A module of the same kind with another weight (out, in) and bias; `old` is one that nobody uses any
        more, whose memory may be taken."""
        return PackedLinear(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return self._product(x)

    def _product(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y

    @staticmethod
    def stacked(members: Sequence[PackedLinear]) -> PackedLinear:
        """One module whose outputs are those of the members, one after another; all have a bias or none has."""
        weight = torch.cat([member.weight for member in members])
        biases: list[Tensor] = [member.bias for member in members if member.bias is not None]
        bias = torch.cat(biases) if biases else None
        kernels = members[0].kernels if isinstance(members[0], TiledLinear) else None
        return PackedLinear(weight, bias) if kernels is None else TiledLinear(weight, bias, kernels)


class TiledLinear(PackedLinear):
    """The same by the compiled kernels, which sum in another order: equal to within rounding."""

    def __init__(self, weight: Tensor, bias: Tensor | None, kernels: Kernels, room: Tensor | None = None) -> None:
        nn.Module.__init__(self)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.kernels = kernels
        self._packed = kernels.pack(weight, room)

    def twin(self, weight: Tensor, bias: Tensor | None, old: PackedLinear | None = None) -> TiledLinear:
        return TiledLinear(weight, bias, self.kernels, None if old is None else old._packed)

    @property
    def weight(self) -> Tensor:
        """(out, in), copied out of the packed form."""
        return self.kernels.unpack(self._packed)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        out_features, in_features = self._packed.shape
        return out_features, in_features

    def addresses(self) -> tuple[int, int]:
        """Where its packed weight and its bias lie in memory; 0 for no bias."""
        return self._packed.data_ptr(), 0 if self.bias is None else self.bias.data_ptr()

    def _product(self, x: Tensor) -> Tensor:
        return self.kernels.linear(x, self._packed, self.bias)


def packed(module: nn.Module, kernels: Kernels | None = None) -> nn.Module:
    """A linear module (`nn.Linear`, `Conv1D`), packed where its device and dtype have such a form, else itself."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    if not _has_packed_form(weight):
        return module
    if isinstance(module, Conv1D):
        weight = weight.t()
    if kernels is not None and kernels.fits(*weight.shape):
        return TiledLinear(weight, bias, kernels)
    return PackedLinear(weight, bias)


def _has_packed_form(weight: Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return on_cpu and weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
