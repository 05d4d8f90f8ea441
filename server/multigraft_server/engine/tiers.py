"""What goes up and down between host memory and the slots, beside what requests ask for."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable

from multigraft_adapters.errors import MultigraftError
from multigraft_server.engine.device_tier import DeviceTier
from multigraft_server.engine.host_tier import HostTier
from multigraft_server.engine.plan import Placement
from multigraft_server.engine.slots import SlotTable

logger = logging.getLogger(__name__)

Loaded = Callable[[MultigraftError | None], None]
"""Told on the engine's thread that a load has ended, and with which error if it failed; must not raise."""


class Tiers:
    """Pins, loads ahead of requests, and what is let go of; and the one place where slots are written."""

    def __init__(self, host: HostTier, device: DeviceTier, slots: SlotTable) -> None:
        self._host = host
        self._device = device
        self._slots = slots
        self._pinned: frozenset[str] = frozenset()
        self._told: dict[str, list[Loaded]] = defaultdict(list)  # by digest: to be told how its load ended

    def fetch_ahead(self, digest: str, done: Loaded, now: float) -> None:
        """Bring an adapter to host memory before requests come; `done` is told, once, when it is there."""
        try:
            is_coming = self._host.fetch_ahead(digest, now)
        except MultigraftError as error:
            done(error)
            return
        if is_coming:
            self._told[digest].append(done)
        else:
            done(None)

    def tell(self, digest: str, error: MultigraftError | None) -> None:
        """A load has ended: tell those who asked for it ahead."""
        for done in self._told.pop(digest, []):
            done(error)

    def tell_all(self, error: MultigraftError) -> None:
        """No load will end any more."""
        for digest in list(self._told):
            self.tell(digest, error)

    def keep(self, digests: frozenset[str], now: float) -> None:
        """From now on these adapters are pinned, and no others: loaded, kept in host memory and, as far as one
        slot is left for the others, in slots."""
        self._pinned = frozenset(sorted(digests)[: self._slots.num_slots - 1])
        self._slots.pin(self._pinned)
        self._host.keep(digests, now)

    def let_go(self, digests: Iterable[str]) -> None:
        """No more requests are expected for these: they leave host and device when their last request ends."""
        for digest in digests:
            self._host.let_go(digest)

    def tend(self, now: float) -> bool:
        """See to what stays and what leaves; at most one slot is written. Whether anything was done."""
        leavers = self._host.take_leavers()
        for digest in leavers:
            if self._slots.is_idle(digest):
                self._device.clear(self._slots.evict(digest))
        if self._pinned:
            self._host.load_kept(now)
        return any(map(self._place_pinned, self._pinned)) or bool(leavers)

    def place(self, placements: Iterable[Placement]) -> dict[str, Exception]:
        """Write adapters into their slots. Tells why some could not be: their slots are empty, and the caller's to
        drop once no row holds them."""
        failed: dict[str, Exception] = {}
        for placement in placements:
            try:
                self._device.place(placement, self._host.get(placement.digest))
            except Exception as error:
                logger.error("adapter %s could not be written into a slot", placement.digest, exc_info=error)
                self._clear(placement)
                failed[placement.digest] = error
        return failed

    def forget(self, placement: Placement) -> None:
        """Empty the slot of a placement, and those that were emptied for it: half a slot must never answer."""
        self._slots.drop(placement.digest)
        self._clear(placement)

    def _clear(self, placement: Placement) -> None:
        for slot in (placement.slot, *(slot for slot, _ in placement.evicted)):
            self._device.clear(slot)

    def _place_pinned(self, digest: str) -> bool:
        if digest not in self._host or self._slots.slot_of(digest) is not None:
            return False
        hold = self._slots.reserve(digest, self._host.get(digest).num_bytes)
        if hold is None:
            return False
        if self.place([Placement(hold.slot, digest, hold.evicted)]):
            self._slots.drop(digest)
            self._pinned -= {digest}  # it would not fare better the next time; requests for it are told why
        return True
