"""Which row has which part of the KV cache: slabs of equal size, carved into rows of one capacity each."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_adapters.errors import IntegrityError

SMALLEST_CAPACITY = 128


@dataclass(frozen=True, slots=True)
class KVRow:
    """A row's place: `index` among the rows of `slab`, each of which has room for `capacity` tokens."""

    slab: int
    index: int
    capacity: int


@dataclass(slots=True)
class _Slab:
    capacity: int
    free: list[int]
    used: set[int]


class KVTable:
    """The books of the KV cache, without tensors.

    A slab has `slab_tokens` token places. In use it is carved into rows of one capacity (a power of two, or the
    whole slab), lowest index first, so that the rows of a batch lie side by side. An empty slab can be carved
    anew. `num_slabs` bounds them all.
    """

    def __init__(self, *, slab_tokens: int, num_slabs: int) -> None:
        self.slab_tokens = slab_tokens
        self.num_slabs = num_slabs
        self._slabs: dict[int, _Slab] = {}

    @property
    def capacity_tokens(self) -> int:
        return self.slab_tokens * self.num_slabs

    @property
    def used_tokens(self) -> int:
        return sum(slab.capacity * len(slab.used) for slab in self._slabs.values())

    def capacity_for(self, tokens: int) -> int:
        """The row capacity that a sequence of this many tokens gets."""
        capacity = SMALLEST_CAPACITY
        while capacity < tokens:
            capacity *= 2
        return min(capacity, self.slab_tokens)

    def can_allocate(self, tokens: int) -> bool:
        """Whether `allocate` would succeed now; changes nothing."""
        capacity = self.capacity_for(tokens)
        if any(slab.capacity == capacity and slab.free for slab in self._slabs.values()):
            return True
        return any(self._is_empty(number) for number in range(self.num_slabs))

    def allocate(self, tokens: int) -> KVRow:
        """A row with room for `tokens` tokens. The caller has asked `can_allocate`."""
        capacity = self.capacity_for(tokens)
        number = self._slab_with_room(capacity)
        slab = self._slabs[number]
        index = min(slab.free)
        slab.free.remove(index)
        slab.used.add(index)
        return KVRow(number, index, capacity)

    def free(self, row: KVRow) -> None:
        """Give a row back."""
        slab = self._slabs[row.slab]
        if row.index not in slab.used:
            raise IntegrityError(f"KV row {row} is freed twice")
        slab.used.remove(row.index)
        slab.free.append(row.index)

    def check_integrity(self) -> None:
        """Raise IntegrityError unless every carved row is either free or used."""
        for number, slab in self._slabs.items():
            rows = sorted([*slab.free, *slab.used])
            if rows != list(range(self.slab_tokens // slab.capacity)):
                raise IntegrityError(f"rows of KV slab {number} are lost or doubled: {rows}")

    def _is_empty(self, number: int) -> bool:
        return number not in self._slabs or not self._slabs[number].used

    def _slab_with_room(self, capacity: int) -> int:
        for number, slab in self._slabs.items():
            if slab.capacity == capacity and slab.free:
                return number
        number = next(number for number in range(self.num_slabs) if self._is_empty(number))
        rows = self.slab_tokens // capacity
        self._slabs[number] = _Slab(capacity, list(range(rows)), set())
        return number
