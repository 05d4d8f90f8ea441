"""Where in a kind of banks each slot's columns lie: contiguous, as many as the adapter itself needs."""

from __future__ import annotations

from multigraft_adapters.errors import IntegrityError


class ColumnSpace:
    """Columns shared by all banks of one kind: a slot has the same columns at each module.

    Nothing is padded to the largest: an adapter of rank 4 takes 4 columns beside one of rank 64.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._columns: dict[int, range] = {}

    def columns(self, slot: int) -> range:
        """The slot's columns; empty for the base and for slots without a delta of this kind."""
        return self._columns.get(slot, range(0))

    def allocate(self, slot: int, width: int) -> range:
        """Give the slot the first gap that is wide enough; grows `capacity` where there is none."""
        if slot in self._columns:
            raise IntegrityError(f"slot {slot} has columns already")
        start = self._first_gap(width)
        self.capacity = max(self.capacity, start + width)
        self._columns[slot] = range(start, start + width)
        return self._columns[slot]

    def free(self, slot: int) -> None:
        """Take the slot's columns back; nothing happens where it has none."""
        self._columns.pop(slot, None)

    def check_integrity(self) -> None:
        """Raise IntegrityError when two slots share a column or one lies outside."""
        taken = [column for columns in self._columns.values() for column in columns]
        if len(taken) != len(set(taken)) or any(column >= self.capacity for column in taken):
            raise IntegrityError(f"columns overlap or lie outside: {self._columns}")

    def _first_gap(self, width: int) -> int:
        start = 0
        for columns in sorted(self._columns.values(), key=lambda columns: columns.start):
            if columns.start - start >= width:
                return start
            start = max(start, columns.stop)
        return start
