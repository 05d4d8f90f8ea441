"""Prompt tuning and P-tuning: embeddings of virtual tokens."""

from __future__ import annotations

from multigraft_adapters.methods import PromptDelta
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import PreparedDelta


def prepare_prompt(delta: PromptDelta, frozen: FrozenModules) -> PreparedDelta:
    """Cast the embeddings."""
    return PreparedDelta(prompt=delta.embeddings.to(frozen.dtype))
