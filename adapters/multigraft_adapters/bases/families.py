"""The model families that are served, one line each: what differs between them and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from multigraft_adapters.bases.spec import Family
from multigraft_adapters.errors import UnsupportedBaseError


@dataclass(frozen=True, slots=True)
class FamilyTraits:
    """How a `transformers` model type is packed.

    `backbone_prefix` is the attribute under which task models keep the backbone. `token_types` tells that the
    backbone takes `token_type_ids`.
    """

    family: Family
    backbone_prefix: str
    token_types: bool = False


FAMILIES: dict[str, FamilyTraits] = {
    "llama": FamilyTraits("decoder", "model"),
    "qwen2": FamilyTraits("decoder", "model"),
    "gpt2": FamilyTraits("decoder", "transformer"),
    "bert": FamilyTraits("encoder", "bert", token_types=True),
}


def traits_of(model_type: str) -> FamilyTraits:
    """The traits of a model type; raises UnsupportedBaseError naming those that are served."""
    if model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise UnsupportedBaseError(f"bases of type {model_type!r} are not supported; supported: {known}")
    return FAMILIES[model_type]
