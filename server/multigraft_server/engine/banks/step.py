"""How the wrapped modules compute a step."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_server.engine.banks.bottlenecks import BottleneckStep
from multigraft_server.engine.banks.low_rank import ColumnStep
from multigraft_server.engine.banks.scales import ScaleStep
from multigraft_server.engine.plan import Group


@dataclass(frozen=True, slots=True)
class DeltaStep:
    """What each kind of bank does in this step; None, or nothing in it, is nothing at all."""

    low_rank: ColumnStep | None = None
    inputs: ScaleStep | None = None
    outputs: ScaleStep | None = None
    after: tuple[BottleneckStep, ...] = ()
    parallel: tuple[BottleneckStep, ...] = ()
    around: tuple[BottleneckStep, ...] = ()
    embeddings: tuple[Group, ...] = ()

    @property
    def only_low_rank(self) -> bool:
        """Whether nothing but low-rank products at linear modules is to be done, by the kernels."""
        others = self.inputs or self.outputs or self.after or self.parallel or self.around
        low_rank = self.low_rank
        return not others and (low_rank is None or low_rank.table is not None)

    def __bool__(self) -> bool:
        some = self.low_rank is not None or self.inputs is not None or self.outputs is not None
        return some or bool(self.after or self.parallel or self.around or self.embeddings)
