"""Low-rank vectors of all slots at one embedding, each slot's in a table of its own.

A table has as many rows as the vocabulary: nothing is stacked, so that an adapter costs its own rank only, and the
others nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from multigraft_server.engine.methods.prepared import PreparedDelta, PreparedTable
from multigraft_server.engine.plan import Group


class EmbeddingPlace:
    """One embedding's tables, by slot."""

    __slots__ = ("tables",)

    def __init__(self) -> None:
        self.tables: dict[int, PreparedTable] = {}

    def add_to(self, embedded: Tensor, ids: Tensor, groups: Sequence[Group]) -> None:
        """Change the groups' vectors in place: embedded (tokens, n), ids (tokens,)."""
        for group in groups:
            entry = self.tables.get(group.slot)
            if entry is not None:
                own = embedded[group.start : group.stop]
                if entry.scale is not None:
                    own.mul_(entry.scale)
                own.addmm_(functional.embedding(ids[group.start : group.stop], entry.table), entry.b)


class EmbeddingBanks:
    """The tables at all embeddings, by path."""

    def __init__(self, places: Mapping[str, EmbeddingPlace], device: torch.device) -> None:
        self._places = places
        self._device = device

    @property
    def num_bytes(self) -> int:
        entries = (entry for place in self._places.values() for entry in place.tables.values())
        parts = (part for entry in entries for part in (entry.table, entry.b, entry.scale))
        return sum(part.nbytes for part in parts if part is not None)

    def write(self, slot: int, delta: PreparedDelta) -> None:
        """Put a delta's tables into a slot that is clear."""
        for path, entry in delta.embeddings.items():
            scale = None if entry.scale is None else entry.scale.to(self._device)
            on_device = PreparedTable(entry.table.to(self._device), entry.b.to(self._device), scale)
            self._places[path].tables[slot] = on_device

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        for place in self._places.values():
            place.tables.pop(slot, None)

    def plan(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """Those of the groups whose slots have a table."""
        slots = {slot for place in self._places.values() for slot in place.tables}
        return tuple(group for group in groups if group.slot in slots)

    def check_integrity(self) -> None:
        """A slot's tables are tensors of its own: nothing can overlap."""
