"""The model families that are served, one entry each: what differs between them and nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from multigraft_adapters.bases.spec import Family, HeadLayout, HiddenLayer, ImageShape, NormLayer
from multigraft_adapters.errors import UnsupportedBaseError


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """How a `transformers` model type is packed, and what its task models put on it.

    `backbone_prefix` is the attribute under which task models keep the backbone. `token_types` tells that the
    backbone takes `token_type_ids`. `padded_positions` tells that positions count the tokens that are no padding,
    from the padding token's id on; `images`, that the backbone takes pixels instead of tokens; `prefix`, that
    an encoder takes keys and values from before its input, as every decoder does. `heads` holds the
    task models' heads by task type.
    """

    family: Family
    backbone_prefix: str
    token_types: bool = False
    padded_positions: bool = False
    images: bool = False
    prefix: bool = False
    heads: Mapping[str, HeadLayout] = field(default_factory=dict)


LAST_STATE = HeadLayout("score", pooling="last", bias=False)
DECODER_HEADS = {"text-classification": LAST_STATE, "token-classification": HeadLayout("score")}
LLAMA_HEADS = DECODER_HEADS | {"question-answering": HeadLayout("qa_outputs", backbone_prefix="transformer")}
TOKEN_HEADS = {"token-classification": HeadLayout("classifier"), "question-answering": HeadLayout("qa_outputs")}
LINEAR_ON_FIRST = HeadLayout("classifier", pooling="cls")
LAYERED_ON_FIRST = HeadLayout("classifier.out_proj", pooling="cls", hidden=HiddenLayer("classifier.dense", "tanh"))
MODERNBERT_HIDDEN = HiddenLayer("head.dense", "gelu", bias=False, norm=NormLayer("head.norm", 1e-5, bias=False))

FAMILIES: dict[str, FamilyTraits] = {
    "llama": FamilyTraits("decoder", "model", heads=LLAMA_HEADS),
    "qwen2": FamilyTraits("decoder", "model", heads=LLAMA_HEADS),
    "qwen3": FamilyTraits("decoder", "model", heads=LLAMA_HEADS),
    "mistral": FamilyTraits(
        "decoder", "model", heads=DECODER_HEADS | {"question-answering": HeadLayout("qa_outputs")}
    ),
    "gemma": FamilyTraits("decoder", "model", heads=DECODER_HEADS),
    "gemma2": FamilyTraits("decoder", "model", heads=DECODER_HEADS),
    "gemma3_text": FamilyTraits("decoder", "model", heads={"text-classification": LAST_STATE}),
    "gpt2": FamilyTraits("decoder", "transformer", heads=TOKEN_HEADS | {"text-classification": LAST_STATE}),
    "bert": FamilyTraits(
        "encoder",
        "bert",
        token_types=True,
        prefix=True,
        heads=TOKEN_HEADS
        | {
            "text-classification": HeadLayout(
                "classifier", pooling="pooler", others=(LINEAR_ON_FIRST, LAYERED_ON_FIRST)
            )
        },
    ),
    "roberta": FamilyTraits(
        "encoder",
        "roberta",
        padded_positions=True,
        prefix=True,
        heads=TOKEN_HEADS
        | {
            "text-classification": replace(
                LAYERED_ON_FIRST, others=(LINEAR_ON_FIRST, HeadLayout("classifier", pooling="pooler"))
            )
        },
    ),
    "distilbert": FamilyTraits(
        "encoder",
        "distilbert",
        heads=TOKEN_HEADS
        | {
            "text-classification": HeadLayout(
                "classifier",
                pooling="cls",
                hidden=HiddenLayer("pre_classifier", "relu"),
                others=(LAYERED_ON_FIRST,),
            )
        },
    ),
    "modernbert": FamilyTraits(
        "encoder",
        "model",
        heads={
            "text-classification": HeadLayout("classifier", pooling="cls", hidden=MODERNBERT_HIDDEN),
            "token-classification": HeadLayout("classifier", hidden=MODERNBERT_HIDDEN),
            "question-answering": HeadLayout("classifier", hidden=MODERNBERT_HIDDEN),
        },
    ),
    "vit": FamilyTraits(
        "encoder", "vit", images=True, heads={"image-classification": HeadLayout("classifier", pooling="cls")}
    ),
}

LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
"""Rotary positions whose frequencies depend on the longest sequence of a batch: rows would change each other."""


def traits_of(model_type: str) -> FamilyTraits:
    """The traits of a model type; raises UnsupportedBaseError naming those that are served."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedBaseError(f"bases of type {model_type!r} are not supported; supported: {known}")
    return FAMILIES[model_type]


def check_config(config: Any) -> None:
    """Raises UnsupportedBaseError for a configuration of a served family that cannot be computed exactly."""
    traits = traits_of(config.model_type)
    found: list[str] = []
    if traits.family == "encoder" and getattr(config, "is_decoder", False):
        found.append(f"a {config.model_type} with is_decoder is not served")
    if traits.family == "decoder" and getattr(config, "use_bidirectional_attention", False):
        found.append("use_bidirectional_attention: a decoder's rows are computed causally")
    if traits.padded_positions and config.pad_token_id is None:
        found.append("pad_token_id is missing, and positions start after it")
    found += [
        f"rope_type {kind!r}: its positions depend on the other sequences of a batch"
        for kind in rope_types(config)
        if kind in LENGTH_DEPENDENT_ROPE
    ]
    if found:
        raise UnsupportedBaseError(f"this base cannot be served exactly: {'; '.join(found)}")


def rope_types(config: Any) -> list[str]:
    """The kinds of rotary positions in a config; some families have one for each type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    sets = [parameters] if "rope_type" in parameters else [one for one in parameters.values() if one]
    return sorted({one["rope_type"] for one in sets})


def longest_input(config: Any) -> int:
    """Tokens that a base's positions reach; of an image base, those of every image."""
    image = image_shape(config)
    if image is not None:
        height, width = _pair(config.patch_size)
        return (image.height // height) * (image.width // width) + 1
    longest: int = config.max_position_embeddings
    return longest - config.pad_token_id - 1 if traits_of(config.model_type).padded_positions else longest


def image_shape(config: Any) -> ImageShape | None:
    """The pixels that an image base takes; None for a base that reads text."""
    if not traits_of(config.model_type).images:
        return None
    return ImageShape(config.num_channels, *_pair(config.image_size))


def heads_of(config: Any) -> dict[str, HeadLayout]:
    """The heads of a base's task models, by task type, with what its config says of them."""
    return {task: _configured(layout, config) for task, layout in traits_of(config.model_type).heads.items()}


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _configured(layout: HeadLayout, config: Any) -> HeadLayout:
    if layout.hidden is not MODERNBERT_HIDDEN:
        return layout
    hidden = HiddenLayer(
        layout.hidden.linear,
        config.classifier_activation,
        bias=config.classifier_bias,
        norm=NormLayer("head.norm", config.norm_eps, bias=config.norm_bias),
    )
    pooling = layout.pooling and config.classifier_pooling
    return replace(layout, hidden=hidden, pooling=pooling)
