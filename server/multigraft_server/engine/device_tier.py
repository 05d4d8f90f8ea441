"""Adapters in device memory: writing a slot's columns into the banks, and its head."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch

from multigraft_adapters.bases import LinearShape
from multigraft_adapters.heads import Head
from multigraft_server.engine.banks import LoraBank
from multigraft_server.engine.host_tier import HostAdapter
from multigraft_server.engine.layers import DeltaLinear
from multigraft_server.engine.observer import Observer
from multigraft_server.engine.plan import Placement
from multigraft_server.engine.rank_space import RankSpace


class DeviceTier:
    """Owns what the slots contain. The scheduler's SlotTable says which adapter belongs where."""

    def __init__(
        self,
        layers: Mapping[str, DeltaLinear],
        ranks: RankSpace,
        device: torch.device,
        dtype: torch.dtype,
        observer: Observer,
    ) -> None:
        self._layers = layers
        self._ranks = ranks
        self._device = device
        self._dtype = dtype
        self._observer = observer
        self._heads: dict[int, Head] = {}

    @property
    def num_bytes(self) -> int:
        """Bytes of all banks."""
        return sum(layer.bank.num_bytes for layer in self._layers.values() if layer.bank is not None)

    def place(self, placement: Placement, adapter: HostAdapter) -> None:
        """Write an adapter into a slot that no row holds but those of the coming step."""
        started = time.monotonic()
        self.clear(placement.slot)
        columns = self._ranks.allocate(placement.slot, adapter.width)
        for path, layer in self._layers.items():
            pair = adapter.pairs.get(path)
            if pair is not None and layer.bank is None:
                layer.bank = self._new_bank(layer.shape)
            if layer.bank is not None:
                layer.bank.grow(self._ranks.capacity)
                layer.bank.write(columns, pair)
        self._heads[placement.slot] = adapter.head.to(self._device)
        if placement.evicted is not None:
            self._observer.eviction(tier="device")
        self._observer.adapter_load(tier="device", seconds=time.monotonic() - started, outcome="ok")

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        self._ranks.free(slot)
        self._heads.pop(slot, None)

    def head(self, slot: int) -> Head:
        """The head of the adapter in a slot."""
        return self._heads[slot]

    def check_integrity(self) -> None:
        """Raise IntegrityError when the columns of two slots overlap."""
        self._ranks.check_integrity()

    def _new_bank(self, shape: LinearShape) -> LoraBank:
        columns = self._ranks.capacity
        return LoraBank(shape.in_features, shape.out_features, columns, self._device, self._dtype)
