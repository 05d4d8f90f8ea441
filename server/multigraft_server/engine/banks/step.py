"""How the wrapped linear modules compute a step."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_server.engine.banks.low_rank import ColumnStep


@dataclass(frozen=True, slots=True)
class DeltaStep:
    """What each kind of bank does in this step; None is nothing at all."""

    low_rank: ColumnStep | None = None

    def __bool__(self) -> bool:
        return self.low_rank is not None
