"""Adapters with random tensors, of every method, for measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.heads import Head
from multigraft_adapters.heads.generation import GenerationHead
from multigraft_adapters.heads.linear import LinearHead
from multigraft_adapters.manifest import HeadSpec, Manifest, MethodSpec, TaskType
from multigraft_adapters.methods import BottleneckDelta, Delta, Ia3Delta, LoraDelta, PrefixDelta, PromptDelta
from multigraft_adapters.methods.blocks import BLOCKS
from multigraft_adapters.methods.bottleneck import Bottleneck
from multigraft_adapters.methods.ia3 import Ia3Scale
from multigraft_adapters.methods.lora import LoraPair
from multigraft_adapters.verify import VerifiedAdapter

VIRTUAL_TOKENS = 16
REDUCTION = 16
IA3_OUTPUTS = ("k_proj", "v_proj", "key", "value")

Draw = Callable[..., Tensor]


def random_adapter(method: str, spec: BaseSpec, *, rank: int, labels: int, seed: int) -> VerifiedAdapter:
    """An adapter of one of `METHODS`: a generator on decoders, a classifier of `labels` labels on encoders.

    Raises KeyError for other methods.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.02

    delta = METHODS[method](spec, draw, rank)
    head = _head(spec, draw, labels)
    task_type: TaskType = "text-generation" if spec.family == "decoder" else "text-classification"
    labelled = None if spec.family == "decoder" else {index: f"label {index}" for index in range(labels)}
    manifest = Manifest(task_type=task_type, head=head.spec, method=MethodSpec(name=method), id2label=labelled)
    return VerifiedAdapter(f"{method}-{seed}", manifest, {}, delta, head)


def _lora(spec: BaseSpec, draw: Draw, rank: int) -> LoraDelta:
    pairs = {
        path: LoraPair(draw(rank, shape.in_features), draw(shape.out_features, rank), 1.0)
        for path, shape in spec.targets.items()
    }
    return LoraDelta(pairs)


def _dora(spec: BaseSpec, draw: Draw, rank: int) -> LoraDelta:
    pairs = {
        path: LoraPair(
            draw(rank, shape.in_features),
            draw(shape.out_features, rank),
            1.0,
            magnitude=1.0 + draw(shape.out_features),
        )
        for path, shape in spec.targets.items()
    }
    return LoraDelta(pairs)


def _ia3(spec: BaseSpec, draw: Draw, rank: int) -> Ia3Delta:
    feedforward = set(_ends(spec, attention=False))
    scales = {path: Ia3Scale(1 + draw(spec.targets[path].in_features), True) for path in feedforward}
    for path, shape in spec.targets.items():
        if path.endswith(IA3_OUTPUTS):
            scales[path] = Ia3Scale(1 + draw(shape.out_features), False)
    return Ia3Delta(scales)


def _houlsby(spec: BaseSpec, draw: Draw, rank: int) -> BottleneckDelta:
    return BottleneckDelta(_bottlenecks(spec, draw, _ends(spec, attention=True)), {}, {})


def _pfeiffer(spec: BaseSpec, draw: Draw, rank: int) -> BottleneckDelta:
    return BottleneckDelta(_bottlenecks(spec, draw, _ends(spec, attention=False)), {}, {})


def _parallel(spec: BaseSpec, draw: Draw, rank: int) -> BottleneckDelta:
    names, ends = BLOCKS[spec.model_type], list(_ends(spec, attention=False))
    begins = {end: end.removesuffix(names.feedforward) + names.feedforward_input for end in ends}
    return BottleneckDelta(_bottlenecks(spec, draw, ends), begins, {})


def _prefix(spec: BaseSpec, draw: Draw, rank: int) -> PrefixDelta:
    layout = spec.prefix
    if layout is None:
        raise KeyError(f"{spec.name} takes no prefix")
    return PrefixDelta(draw(VIRTUAL_TOKENS, layout.layers * 2 * layout.heads * layout.head_dim), layout)


def _prompt(spec: BaseSpec, draw: Draw, rank: int) -> PromptDelta:
    return PromptDelta(draw(VIRTUAL_TOKENS, spec.hidden_size))


def _bottlenecks(spec: BaseSpec, draw: Draw, paths: Iterable[str]) -> dict[str, Bottleneck]:
    return {path: _bottleneck(draw, spec.targets[path].out_features) for path in paths}


def _bottleneck(draw: Draw, features: int) -> Bottleneck:
    size = features // REDUCTION
    return Bottleneck(
        draw(size, features), draw(size), draw(features, size), draw(features), scaling=1.0, activation="relu"
    )


def _ends(spec: BaseSpec, *, attention: bool) -> Iterable[str]:
    """The linear modules that end a feed-forward block, and with `attention` an attention block too."""
    names = BLOCKS[spec.model_type]
    for path in spec.targets:
        ends_attention = path.endswith(f".{names.attention}")
        if (attention and ends_attention) or (path.endswith(f".{names.feedforward}") and not ends_attention):
            yield path


def _head(spec: BaseSpec, draw: Draw, labels: int) -> Head:
    if spec.family == "decoder":
        return GenerationHead(HeadSpec(kind="generation"))
    own = HeadSpec(kind="classification", pooling="cls", activation="softmax")
    return LinearHead(own, draw(labels, spec.hidden_size), draw(labels))


METHODS: dict[str, Callable[[BaseSpec, Draw, int], Delta]] = {
    "lora": _lora,
    "dora": _dora,
    "ia3": _ia3,
    "houlsby": _houlsby,
    "pfeiffer": _pfeiffer,
    "parallel": _parallel,
    "prefix": _prefix,
    "prompt": _prompt,
}
