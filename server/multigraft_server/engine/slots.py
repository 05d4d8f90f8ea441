"""Which adapter is in which slot, and who holds it: the books of the device tier, without tensors."""

from __future__ import annotations

from collections import OrderedDict

from multigraft_adapters.errors import IntegrityError
from multigraft_server.engine.requests import BASE_DIGEST

BASE_SLOT = 0


class SlotTable:
    """Slots 1..n for adapters; slot 0 is the base, always there and never counted.

    A hold keeps a slot's adapter in place. An adapter that nobody holds stays until its slot is needed; the
    least recently held one goes first.
    """

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self._free = list(range(num_slots, 0, -1))
        self._slot_of: dict[str, int] = {}
        self._holds: dict[int, int] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()

    def slot_of(self, digest: str) -> int | None:
        """The slot that holds this adapter, if any."""
        return BASE_SLOT if digest == BASE_DIGEST else self._slot_of.get(digest)

    def digests(self) -> dict[int, str]:
        """Slot to digest, for every occupied slot."""
        return {slot: digest for digest, slot in self._slot_of.items()}

    def can_hold(self, digest: str) -> bool:
        """Whether `hold` would succeed now; changes nothing."""
        return self.slot_of(digest) is not None or bool(self._free) or bool(self._idle)

    def hold(self, digest: str) -> tuple[int, str | None, bool]:
        """Hold an adapter's slot, giving it one where it has none.

        Returns the slot, the digest that was evicted for it, and whether the slot must now be written.
        The caller has asked `can_hold`.
        """
        if digest == BASE_DIGEST:
            return BASE_SLOT, None, False
        slot = self._slot_of.get(digest)
        evicted: str | None = None
        is_new = slot is None
        if slot is None:
            slot, evicted = self._take_slot()
            self._slot_of[digest] = slot
        self._idle.pop(digest, None)
        self._holds[slot] = self._holds.get(slot, 0) + 1
        return slot, evicted, is_new

    def release(self, digest: str) -> None:
        """End one hold."""
        if digest == BASE_DIGEST:
            return
        slot = self._slot_of[digest]
        if self._holds.get(slot, 0) < 1:
            raise IntegrityError(f"slot {slot} is released more often than it was held")
        self._holds[slot] -= 1
        if self._holds[slot] == 0:
            del self._holds[slot]
            self._idle[digest] = None

    def drop(self, digest: str) -> None:
        """Free the slot of an adapter that could not be written; its holds end with it."""
        slot = self._slot_of.pop(digest)
        self._holds.pop(slot, None)
        self._idle.pop(digest, None)
        self._free.append(slot)

    def holds(self, digest: str) -> int:
        """How many rows hold this adapter's slot."""
        return self._holds.get(self._slot_of.get(digest, -1), 0)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every slot is in exactly one state."""
        occupied = set(self._slot_of.values())
        states = sorted([*occupied, *self._free])
        if states != list(range(1, self.num_slots + 1)):
            raise IntegrityError(f"slots are lost or doubled: {states}")
        held = {digest for digest, slot in self._slot_of.items() if slot in self._holds}
        if held | set(self._idle) != set(self._slot_of) or held & set(self._idle):
            raise IntegrityError("an occupied slot is neither held nor idle, or both")

    def _take_slot(self) -> tuple[int, str | None]:
        if self._free:
            return self._free.pop(), None
        evicted, _ = self._idle.popitem(last=False)
        return self._slot_of.pop(evicted), evicted
