"""The keys and values that slots put before each of their rows."""

from __future__ import annotations

import torch
from torch import Tensor

from multigraft_server.engine.methods.prepared import PreparedDelta


class PrefixBank:
    """Each slot's keys and values (2, layers, heads, virtual tokens, head_dim), of its own length."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._by_slot: dict[int, Tensor] = {}

    @property
    def num_bytes(self) -> int:
        return sum(prefix.nbytes for prefix in self._by_slot.values())

    def write(self, slot: int, delta: PreparedDelta) -> None:
        """Put a delta's prefix into a slot that is clear."""
        if delta.prefix is not None:
            self._by_slot[slot] = delta.prefix.to(self._device)

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        self._by_slot.pop(slot, None)

    def get(self, slot: int) -> Tensor | None:
        """A slot's prefix, if it has one."""
        return self._by_slot.get(slot)

    def check_integrity(self) -> None:
        """A slot's prefix is a tensor of its own: nothing can overlap."""
