"""Bottleneck adapters, after a module, from the feed-forward block's input, or around a layer norm."""

from __future__ import annotations

import torch

from multigraft_adapters.methods import Bottleneck, BottleneckDelta
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import PreparedBottleneck, PreparedDelta


def prepare_bottleneck(delta: BottleneckDelta, frozen: FrozenModules) -> PreparedDelta:
    """Cast the parts, the scaling folded into up and its bias in fp32."""
    parts = {path: _prepared(part, frozen.dtype) for path, part in delta.modules.items()}
    return PreparedDelta(
        after={path: part for path, part in parts.items() if path not in {*delta.inputs, *delta.norms}},
        parallel={path: parts[path] for path in delta.inputs},
        around={norm: parts[path] for path, norm in delta.norms.items()},
    )


def _prepared(part: Bottleneck, dtype: torch.dtype) -> PreparedBottleneck:
    up, up_bias = part.scaling * part.up.float(), part.scaling * part.up_bias.float()
    return PreparedBottleneck(
        activation=part.activation,
        down=part.down.to(dtype),
        down_bias=part.down_bias.to(dtype),
        up=up.to(dtype).t().contiguous(),
        up_bias=up_bias.to(dtype),
    )
