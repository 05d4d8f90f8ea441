"""Frozen linear modules whose weights lie in the order in which the processor's matrix kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

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

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y


def packed(module: nn.Module) -> nn.Module:
    """A linear module (`nn.Linear`, `Conv1D`), packed where its device and dtype have such a form, else itself."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if not _has_packed_form(weight):
        return module
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    return PackedLinear(weight.t() if isinstance(module, Conv1D) else weight, bias)


def _has_packed_form(weight: Tensor) -> bool:
    on_cpu = weight.device.type == "cpu" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return on_cpu and weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
