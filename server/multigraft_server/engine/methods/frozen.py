"""What a method may read of the base while it prepares a delta."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multigraft_adapters.methods import embed_scale_of, weight_of


@dataclass(frozen=True, slots=True)
class FrozenModules:
    """The base's own modules by path (linear ones, embeddings, layer norms, the output head), never written.

    `dtype` is that of the base and of the banks.
    """

    modules: Mapping[str, nn.Module]
    dtype: torch.dtype

    def weight(self, path: str) -> Tensor:
        """A module's weight (out, in) in fp32, whatever the layout in which it is stored."""
        return weight_of(self.modules[path])

    def embed_scale(self, path: str) -> float:
        """What an embedding multiplies its vectors with."""
        return embed_scale_of(self.modules[path])

    def bias(self, path: str) -> Tensor | None:
        """A module's bias (out,) in fp32; None where it has none."""
        bias: Tensor | None = self.modules[path].bias  # type: ignore[assignment]
        return None if bias is None else bias.to(torch.float32)
