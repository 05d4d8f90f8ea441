"""Which adapter is in which slot, and who holds it: the books of the device tier, without tensors."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from multigraft_adapters.errors import IntegrityError
from multigraft_server.engine.requests import BASE_DIGEST

BASE_SLOT = 0


@dataclass(frozen=True, slots=True)
class Hold:
    """What `SlotTable.hold` did: the slot, whether it must be written now, and what left which slots for it."""

    slot: int
    is_new: bool = False
    evicted: tuple[tuple[int, str], ...] = ()


class SlotTable:
    """Slots 1..n for adapters; slot 0 is the base, always there and never counted.

    A hold keeps a slot's adapter in place. An adapter that nobody holds stays until its slot, or its bytes of
    `budget_bytes`, are needed; the least recently held one goes first. A pinned one stays, unless nothing is
    held at all and a request would otherwise never run.
    """

    def __init__(self, num_slots: int, budget_bytes: int | None = None) -> None:
        self.num_slots = num_slots
        self.budget_bytes = budget_bytes
        self._free = list(range(num_slots, 0, -1))
        self._slot_of: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._used_bytes = 0
        self._holds: dict[int, int] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._pinned: frozenset[str] = frozenset()

    @property
    def used_bytes(self) -> int:
        """Bytes of the adapters in slots."""
        return self._used_bytes

    def slot_of(self, digest: str) -> int | None:
        """The slot that holds this adapter, if any."""
        return BASE_SLOT if digest == BASE_DIGEST else self._slot_of.get(digest)

    def digests(self) -> dict[int, str]:
        """Slot to digest, for every occupied slot."""
        return {slot: digest for digest, slot in self._slot_of.items()}

    def pin(self, digests: frozenset[str]) -> None:
        """From now on these adapters stay in their slots, and no others are pinned."""
        self._pinned = digests

    def can_hold(self, digest: str, num_bytes: int = 0) -> bool:
        """Whether `hold` would succeed now; changes nothing."""
        return self.slot_of(digest) is not None or self._leavers(num_bytes) is not None

    def hold(self, digest: str, num_bytes: int = 0) -> Hold:
        """Hold an adapter's slot, giving it one where it has none. The caller has asked `can_hold`."""
        if digest == BASE_DIGEST:
            return Hold(BASE_SLOT)
        if digest in self._slot_of:
            self._idle.pop(digest, None)
            slot = self._slot_of[digest]
            self._holds[slot] = self._holds.get(slot, 0) + 1
            return Hold(slot)
        leavers = self._leavers(num_bytes)
        if leavers is None:
            raise IntegrityError(f"there is no slot for adapter {digest}")
        evicted = tuple((self.evict(leaver), leaver) for leaver in leavers)
        slot = self._free.pop()
        self._slot_of[digest] = slot
        self._bytes[digest] = num_bytes
        self._used_bytes += num_bytes
        self._holds[slot] = 1
        return Hold(slot, is_new=True, evicted=evicted)

    def reserve(self, digest: str, num_bytes: int) -> Hold | None:
        """Give a pinned adapter a slot before any row needs it; None where only pinned ones could make room."""
        leavers = self._leavers(num_bytes)
        if leavers is None or self._pinned.intersection(leavers):
            return None
        hold = self.hold(digest, num_bytes)
        self.release(digest)
        return hold

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

    def evict(self, digest: str) -> int:
        """Free the slot of an adapter that nobody holds, and tell which it was."""
        if digest not in self._idle:
            raise IntegrityError(f"adapter {digest} is in no slot, or held there")
        return self.drop(digest)

    def is_idle(self, digest: str) -> bool:
        """Whether the adapter is in a slot that nobody holds."""
        return digest in self._idle

    def drop(self, digest: str) -> int:
        """Free the slot of an adapter that could not be written; its holds end with it. Tells which it was."""
        slot = self._slot_of.pop(digest)
        self._used_bytes -= self._bytes.pop(digest)
        self._holds.pop(slot, None)
        self._idle.pop(digest, None)
        self._free.append(slot)
        return slot

    def holds(self, digest: str) -> int:
        """How many rows hold this adapter's slot."""
        return self._holds.get(self._slot_of.get(digest, -1), 0)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every slot is in exactly one state, and the bytes add up."""
        occupied = set(self._slot_of.values())
        states = sorted([*occupied, *self._free])
        if states != list(range(1, self.num_slots + 1)):
            raise IntegrityError(f"slots are lost or doubled: {states}")
        held = {digest for digest, slot in self._slot_of.items() if slot in self._holds}
        if held | set(self._idle) != set(self._slot_of) or held & set(self._idle):
            raise IntegrityError("an occupied slot is neither held nor idle, or both")
        if set(self._bytes) != set(self._slot_of) or sum(self._bytes.values()) != self._used_bytes:
            raise IntegrityError(f"the bytes of the adapters in slots do not add up to {self._used_bytes}")

    def _leavers(self, num_bytes: int) -> list[str] | None:
        """Who must leave so that so many bytes get a slot; None when that is not possible now."""
        if self._has_room(num_bytes, []):
            return []
        leavers: list[str] = []
        for is_pinned in (False, True) if not self._holds else (False,):
            for digest in self._idle:
                if (digest in self._pinned) == is_pinned:
                    leavers.append(digest)
                    if self._has_room(num_bytes, leavers):
                        return leavers
        return None

    def _has_room(self, num_bytes: int, leavers: list[str]) -> bool:
        if not (self._free or leavers):
            return False
        if self.budget_bytes is None:
            return True
        return self._used_bytes - sum(self._bytes[leaver] for leaver in leavers) + num_bytes <= self.budget_bytes
