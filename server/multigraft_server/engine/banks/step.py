"""How the wrapped linear modules compute a step."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_server.engine.banks.low_rank import ColumnStep
from multigraft_server.engine.banks.scales import ScaleStep


@dataclass(frozen=True, slots=True)
class DeltaStep:
    """What each kind of bank does in this step; None is nothing at all."""

    low_rank: ColumnStep | None = None
    inputs: ScaleStep | None = None
    outputs: ScaleStep | None = None

    def __bool__(self) -> bool:
        return not (self.low_rank is None and self.inputs is None and self.outputs is None)
