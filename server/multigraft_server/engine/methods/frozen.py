"""What a method may read of the base while it prepares a delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True, slots=True)
class FrozenModules:
    """The base's own linear modules by path, never written; `dtype` is that of the base and of the banks."""

    modules: Mapping[str, nn.Module]
    dtype: torch.dtype

    def weight(self, path: str) -> Tensor:
        """A module's weight (out, in) in fp32, whatever the layout in which it is stored."""
        module = self.modules[path]
        weight: Tensor = module.weight  # type: ignore[assignment]
        return (weight.t() if isinstance(module, Conv1D) else weight).to(torch.float32)

    def bias(self, path: str) -> Tensor | None:
        """A module's bias (out,) in fp32; None where it has none."""
        bias: Tensor | None = self.modules[path].bias  # type: ignore[assignment]
        return None if bias is None else bias.to(torch.float32)
