"""(IA)3: a scale of a module's input or of its output."""

from __future__ import annotations

from multigraft_adapters.methods import Ia3Delta
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import Affine, PreparedDelta


def prepare_ia3(delta: Ia3Delta, frozen: FrozenModules) -> PreparedDelta:
    """Cast the scales, by what they are of."""
    maps = {path: Affine(entry.scale.float()) for path, entry in delta.modules.items()}
    return PreparedDelta(
        inputs={path: maps[path] for path, entry in delta.modules.items() if entry.of_input},
        outputs={path: maps[path] for path, entry in delta.modules.items() if not entry.of_input},
    )
