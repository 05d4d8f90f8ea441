"""LoRA: a low-rank product of a module's input; DoRA and trained biases rescale and shift the output as well. At
embeddings it is a table of low-rank vectors."""

from __future__ import annotations

from torch import Tensor

from multigraft_adapters.errors import AdapterLoadError
from multigraft_adapters.methods import LoraDelta, LoraPair
from multigraft_server.engine.methods.frozen import FrozenModules
from multigraft_server.engine.methods.prepared import (
    Affine,
    PreparedDelta,
    PreparedPair,
    PreparedTable,
    prepare_pair,
)


def prepare_lora(delta: LoraDelta, frozen: FrozenModules) -> PreparedDelta:
    """Fold the scaling, and DoRA's factor m, into B: m (W x + B A x) + b = m (W x + b) + m B A x + (b - m b).

    Raises AdapterLoadError when a bias was trained that the base does not have.
    """
    low_rank: dict[str, PreparedPair] = {}
    outputs: dict[str, Affine] = {}
    for path in {**delta.pairs, **delta.biases}:
        pair = delta.pairs.get(path)
        shift = _bias_change(delta, path, frozen)
        scale = None
        if pair is not None:
            scale = None if pair.magnitude is None else pair.dora_scale(frozen.weight(path))
            scaling = pair.scaling if scale is None else pair.scaling * scale
            low_rank[path] = prepare_pair(pair.a, pair.b, scaling, frozen.dtype)
            shift = _sum(shift, None if pair.b_bias is None else pair.scaling * pair.b_bias.float())
            own = frozen.bias(path)
            shift = _sum(shift, None if scale is None or own is None else own - scale * own)
        if scale is not None or shift is not None:
            outputs[path] = Affine(scale, shift)
    tables = {path: _table(path, pair, frozen) for path, pair in delta.embeddings.items()}
    return PreparedDelta(low_rank=low_rank, outputs=outputs, embeddings=tables)


def _table(path: str, pair: LoraPair, frozen: FrozenModules) -> PreparedTable:
    """As at a linear module, with what the embedding itself is scaled by."""
    scale = None if pair.magnitude is None else pair.dora_scale(frozen.weight(path))
    scaling = pair.scaling * frozen.embed_scale(path) * (1.0 if scale is None else scale)
    prepared = prepare_pair(pair.a, pair.b, scaling, frozen.dtype)
    return PreparedTable(prepared.a.t().contiguous(), prepared.b, scale)


def _bias_change(delta: LoraDelta, path: str, frozen: FrozenModules) -> Tensor | None:
    if path not in delta.biases:
        return None
    own = frozen.bias(path)
    if own is None:
        raise AdapterLoadError(f"the adapter has a bias of {path}, the base has none")
    return delta.biases[path].float() - own


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other
