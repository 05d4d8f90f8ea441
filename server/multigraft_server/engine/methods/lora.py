"""LoRA: a low-rank product of a module's input."""

from __future__ import annotations

from multigraft_adapters.methods import LoraDelta
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import PreparedDelta, prepare_pair


def prepare_lora(delta: LoraDelta, frozen: FrozenModules) -> PreparedDelta:
    """Cast the pairs, their scaling folded in."""
    return PreparedDelta(
        low_rank={
            path: prepare_pair(pair.a, pair.b, pair.scaling, frozen.dtype) for path, pair in delta.pairs.items()
        }
    )
