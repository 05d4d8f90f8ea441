"""W' = W + dW: the weight with which a module computes alone what it computes beside a delta.

LoRA adds s B A; DoRA makes of that m (W + s B A) / ||W + s B A||; (IA)3 scales rows, or columns where it scales
the input. What is no change of weights (virtual tokens, bottlenecks) cannot be merged. LoRA at embeddings can stay
as it is, since it is a look-up and no product of theirs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor

from multigraft_adapters.methods.ia3 import Ia3Delta
from multigraft_adapters.methods.lora import LoraDelta, LoraPair
from multigraft_adapters.methods.method import Delta

MergeableDelta = LoraDelta | Ia3Delta
"""The deltas whose methods merge."""


def merged_paths(delta: MergeableDelta) -> Collection[str]:
    """The linear modules and layer norms whose weight or bias merging changes."""
    return delta.modules.keys() if isinstance(delta, Ia3Delta) else {**delta.pairs, **delta.biases}.keys()


def is_mergeable(delta: Delta) -> bool:
    """Whether the method is a change of the base's weights."""
    return isinstance(delta, MergeableDelta)


def changes_weight(delta: MergeableDelta, path: str) -> bool:
    """Whether merging changes more of a module than its bias."""
    return path in (delta.modules if isinstance(delta, Ia3Delta) else delta.pairs)


def merged_weight(delta: MergeableDelta, path: str, weight: Tensor, first: int = 0) -> Tensor:
    """The merged weight of a module, (rows, in) in fp32, as is `weight`, its outputs from `first` on."""
    rows = slice(first, first + weight.shape[0])
    if isinstance(delta, Ia3Delta):
        entry = delta.modules[path]
        return weight * (entry.scale.float() if entry.of_input else entry.scale[rows, None].float())
    pair = _rows_of(delta.pairs[path], rows)
    moved = weight + pair.scaling * (pair.b.float() @ pair.a.float())
    scale = pair.dora_scale(weight)
    return moved if scale is None else moved * scale[:, None]


def merged_bias(delta: MergeableDelta, path: str, bias: Tensor | None) -> Tensor | None:
    """The merged bias of a module (out,) in fp32, None where it has none; `bias` is its own."""
    if isinstance(delta, Ia3Delta):
        entry = delta.modules[path]
        return bias if bias is None or entry.of_input else bias * entry.scale.float()
    pair = delta.pairs.get(path)
    bias = delta.biases[path].float() if path in delta.biases else bias
    if pair is None or pair.b_bias is None:
        return bias
    added = pair.scaling * pair.b_bias.float()
    return added if bias is None else bias + added


def _rows_of(pair: LoraPair, rows: slice) -> LoraPair:
    magnitude = None if pair.magnitude is None else pair.magnitude[rows]
    return replace(pair, b=pair.b[rows], magnitude=magnitude)
