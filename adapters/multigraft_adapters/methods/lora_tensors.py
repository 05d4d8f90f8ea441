"""Reading a LoRA adapter's tensors, as PEFT writes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from multigraft_adapters.artifact import Limits, joined, listed
from multigraft_adapters.bases.spec import OUTPUT_HEAD, BaseSpec, LinearShape
from multigraft_adapters.methods.lora import LoraDelta, LoraPair
from multigraft_adapters.methods.lora_config import LoraSettings, read_settings
from multigraft_adapters.methods.target_tensors import (
    TargetTensors,
    check_coverage,
    declared_paths,
    shape_problem,
    take_tensors,
)

PARTS = {
    "A": ".lora_A.weight",
    "B": ".lora_B.weight",
    "embedding A": ".lora_embedding_A",
    "embedding B": ".lora_embedding_B",
    "magnitude": ".lora_magnitude_vector",
    "B bias": ".lora_B.bias",
}
BIAS_OF_TARGET = {"bias": ".base_layer.bias"}
BIAS_OF_OTHER = {"bias": ".bias"}
ALWAYS_TIED = ("embed_tokens", OUTPUT_HEAD)
"""The names by which PEFT notices, when it loads an adapter, that output head and embeddings are to be tied."""


def read_lora(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> LoraDelta | None:
    """Read a PEFT adapter's delta, taking LoRA's tensors out of `tensors`.

    None, with every problem noted, unless each target that the config declares has all parts in the base's
    shape, and nothing else has any.
    """
    found: list[str] = []
    settings = read_settings(config, limits, found)
    places = _places(spec)
    parts = take_tensors(tensors, PARTS, places, found)
    pairs: dict[str, LoraPair] = {}
    biases: dict[str, Tensor] = {}
    if settings is not None:
        declared = _declared(settings, parts, spec, places, found)
        found += settings.pattern_problems(parts.path_in_peft(path) for path in declared)
        required = {path: _parts_of(settings, path in spec.embeddings) for path in declared}
        check_coverage("LoRA", required, parts, found)
        pairs = _pairs(settings, declared, parts, places, spec, found)
        biases = _take_biases(settings, declared, tensors, spec, found)
    problems += found
    if found:
        return None
    linear = {path: pair for path, pair in pairs.items() if path not in spec.embeddings}
    return LoraDelta(linear, biases, {path: pairs[path] for path in pairs if path in spec.embeddings})


def _places(spec: BaseSpec) -> BaseSpec:
    """The base with all that LoRA may be at as its targets: embeddings and output head too."""
    head = {} if spec.output_head is None else {OUTPUT_HEAD: spec.output_head}
    return replace(spec, targets={**spec.targets, **spec.embeddings, **head})


def _declared(
    settings: LoraSettings, parts: TargetTensors, spec: BaseSpec, places: BaseSpec, found: list[str]
) -> list[str]:
    """The paths on which PEFT puts LoRA: all-linear names none but the backbone's linear modules."""
    if settings.targets is None:
        return declared_paths(settings, parts, spec, found)
    declared = declared_paths(settings, parts, places, found)
    if not settings.tied or spec.tied_to is None or spec.output_head is None or spec.tied_to not in declared:
        return declared
    # PEFT has then moved the output head from the names to the tied ones, where the config does not show it.
    named = spec.tied_to.rpartition(".")[2] in ALWAYS_TIED
    if OUTPUT_HEAD not in declared and (named or parts.of(OUTPUT_HEAD)):
        declared.append(OUTPUT_HEAD)
        _check_tied(parts.of(spec.tied_to), parts.of(OUTPUT_HEAD), found)
    return declared


def _check_tied(embedding: Mapping[str, Tensor], head: Mapping[str, Tensor], found: list[str]) -> None:
    """What PEFT ties is one pair of factors, the head's the embeddings' the other way round."""
    for own, other in (("A", "embedding B"), ("B", "embedding A")):
        if own in head and other in embedding and not torch.equal(head[own], embedding[other].t()):
            found.append(f"ensure_weight_tying: the output head's {own} is not the embeddings' {other[-1]}")


def _parts_of(settings: LoraSettings, of_embedding: bool) -> tuple[str, ...]:
    factors = ("embedding A", "embedding B") if of_embedding else ("A", "B")
    return (*factors, *("magnitude",) * settings.dora, *("B bias",) * settings.has_b_bias)


def _pairs(
    settings: LoraSettings,
    declared: list[str],
    parts: TargetTensors,
    places: BaseSpec,
    spec: BaseSpec,
    found: list[str],
) -> dict[str, LoraPair]:
    """The declared pairs that are complete; a wrong shape, or a part that the config has none of, is a problem."""
    pairs: dict[str, LoraPair] = {}
    wrong: list[str] = []
    spare: list[str] = []
    for path in declared:
        in_peft, shape, tensors = parts.path_in_peft(path), places.targets[path], parts.of(path)
        rank, out = settings.rank_of(in_peft), shape.out_features
        required = _parts_of(settings, path in spec.embeddings)
        expected = dict(zip(required, ([rank, shape.in_features], [out, rank], [out], [out]), strict=False))
        found_here = (shape_problem(parts, path, part, sizes) for part, sizes in expected.items())
        wrong += [problem for problem in found_here if problem is not None]
        spare += [parts.name(path, part) for part in tensors if part not in required]
        if tensors.keys() == set(required):
            a, b = (tensors[part] for part in required[:2])
            scaling = settings.scaling_of(in_peft)
            pairs[path] = LoraPair(a, b, scaling, tensors.get("magnitude"), tensors.get("B bias"))
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    if spare:
        found.append(f"the config says nothing of {listed(spare)}")
    return pairs


def _take_biases(
    settings: LoraSettings, declared: list[str], tensors: dict[str, Tensor], spec: BaseSpec, found: list[str]
) -> dict[str, Tensor]:
    """The biases of the base's linear modules and layer norms that were trained."""
    if settings.biases == "none":
        return {}
    of_norms = {path: LinearShape(size, size) for path, size in spec.norms.items()}
    places = replace(spec, targets={**spec.targets, **of_norms})
    taken = take_tensors(tensors, BIAS_OF_TARGET, spec, found)
    check_coverage("trained biases", dict.fromkeys(declared, ()), taken, found)
    by_path = dict(taken.by_path)
    if settings.biases == "all":
        # What is left are a head's, which are not read here, and those of modules without LoRA.
        by_path |= take_tensors(tensors, BIAS_OF_OTHER, places, found).by_path
    wrong = [
        f"the bias of {path} {list(parts['bias'].shape)} (not {[places.targets[path].out_features]})"
        for path, parts in by_path.items()
        if list(parts["bias"].shape) != [places.targets[path].out_features]
    ]
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    return {path: parts["bias"] for path, parts in by_path.items()}
