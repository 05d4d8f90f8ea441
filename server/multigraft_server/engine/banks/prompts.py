"""The embeddings of all slots' virtual tokens, stacked, and how a step's embedded tokens take them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from multigraft_server.engine.banks.columns import ColumnSpace
from multigraft_server.engine.methods.prepared import PreparedDelta
from multigraft_server.engine.plan import PlannedRow


@dataclass(frozen=True, slots=True)
class PromptStep:
    """The embeddings that a step's virtual tokens have: `states` (n, hidden), each for the token at its place."""

    places: Tensor  # (n,)
    states: Tensor


class PromptBank:
    """The virtual tokens' embeddings (places, hidden), as many places as are resident."""

    def __init__(self, hidden_size: int, device: torch.device, dtype: torch.dtype) -> None:
        self._bank = torch.zeros(0, hidden_size, device=device, dtype=dtype)
        self._space = ColumnSpace(0)

    @property
    def num_bytes(self) -> int:
        return self._bank.nbytes

    def write(self, slot: int, delta: PreparedDelta) -> None:
        """Put a delta's embeddings into a slot that is clear."""
        if delta.prompt is None:
            return
        places = self._space.allocate(slot, delta.prompt.shape[0])
        missing = self._space.capacity - self._bank.shape[0]
        if missing > 0:
            self._bank = torch.cat([self._bank, self._bank.new_zeros(missing, self._bank.shape[1])])
        self._bank[places.start : places.stop].copy_(delta.prompt)

    def clear(self, slot: int) -> None:
        """Forget what a slot contains."""
        self._space.free(slot)

    def plan(self, rows: Sequence[PlannedRow]) -> PromptStep | None:
        """The embeddings of a step's virtual tokens; None when it has none."""
        if self._space.capacity == 0:
            return None
        starts = accumulate((part.count for part in rows), initial=0)
        places: list[int] = []
        sources: list[int] = []
        for part, start in zip(rows, starts, strict=False):
            count = min(part.start + part.count, part.row.num_virtual_states) - part.start
            if count > 0:
                places += range(start, start + count)
                own = self._space.columns(part.row.slot)
                sources += own[part.start : part.start + count]
        if not places:
            return None
        device = self._bank.device
        states = self._bank.index_select(0, torch.tensor(sources, device=device))
        return PromptStep(torch.tensor(places, device=device), states)

    def check_integrity(self) -> None:
        """Raise IntegrityError when two slots share a place."""
        self._space.check_integrity()


def take_in(embedded: Tensor, step: PromptStep) -> None:
    """Give the virtual tokens of `embedded` (1, tokens, hidden) their embeddings, in place."""
    embedded[0].index_copy_(0, step.places, step.states)
