"""Adapters in device memory: writing a slot's delta into the banks, and its head."""

from __future__ import annotations

import time

import torch

from multigraft_adapters.heads import Head
from multigraft_server.engine.banks.banks import Banks
from multigraft_server.engine.host_tier import HostAdapter
from multigraft_server.engine.observer import Observer
from multigraft_server.engine.plan import Placement


class DeviceTier:
    """Owns what the slots contain. The scheduler's SlotTable says which adapter belongs where."""

    def __init__(self, banks: Banks, device: torch.device, observer: Observer) -> None:
        self._banks = banks
        self._device = device
        self._observer = observer
        self._heads: dict[int, Head] = {}
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Bytes of all banks; cheap, they are counted when an adapter is placed."""
        return self._num_bytes

    @property
    def head_bytes(self) -> int:
        """Bytes of the heads here; 0 on a CPU, where they are the host tier's."""
        return 0 if self._device.type == "cpu" else sum(head.nbytes for head in self._heads.values())

    def place(self, placement: Placement, adapter: HostAdapter) -> None:
        """Write an adapter into a slot that no row holds but those of the coming step."""
        started = time.monotonic()
        for slot, _ in placement.evicted:
            self.clear(slot)
            self._observer.eviction(tier="device")
        self._banks.write(placement.slot, adapter.delta)
        self._heads[placement.slot] = adapter.head.to(self._device)
        self._num_bytes = self._banks.num_bytes
        self._observer.adapter_load(tier="device", seconds=time.monotonic() - started, outcome="ok")

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        self._banks.clear(slot)
        self._heads.pop(slot, None)

    def head(self, slot: int) -> Head:
        """The head of the adapter in a slot."""
        return self._heads[slot]

    def check_integrity(self) -> None:
        """Raise IntegrityError when what two slots have in the banks overlaps."""
        self._banks.check_integrity()
