"""Prefix tuning: keys and values of virtual tokens."""

from __future__ import annotations

from multigraft_adapters.methods import PrefixDelta
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import PreparedDelta


def prepare_prefix(delta: PrefixDelta, frozen: FrozenModules) -> PreparedDelta:
    """Cast the keys and values, each head's side by side."""
    return PreparedDelta(prefix=delta.keys_and_values().to(frozen.dtype).contiguous())
