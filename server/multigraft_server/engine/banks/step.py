"""How the wrapped modules compute a step."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_server.engine.banks.bottlenecks import BottleneckStep
from multigraft_server.engine.banks.low_rank import ColumnStep
from multigraft_server.engine.banks.scales import ScaleStep
from multigraft_server.engine.plan import Group


@dataclass(frozen=True, slots=True)
class DeltaStep:
    """What each kind of bank does in this step; None, or nothing in it, is nothing at all.

    Two steps of one `generation` have their banks at the same places of memory.
    """

    low_rank: ColumnStep | None = None
    inputs: ScaleStep | None = None
    outputs: ScaleStep | None = None
    after: tuple[BottleneckStep, ...] = ()
    parallel: tuple[BottleneckStep, ...] = ()
    around: tuple[BottleneckStep, ...] = ()
    embeddings: tuple[Group, ...] = ()
    generation: int = 0

    def __bool__(self) -> bool:
        some = self.low_rank is not None or self.inputs is not None or self.outputs is not None
        return some or bool(self.after or self.parallel or self.around or self.embeddings)
