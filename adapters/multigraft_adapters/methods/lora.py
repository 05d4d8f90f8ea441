"""LoRA: y += scaling * B A x at each target, read from PEFT's tensors, with rsLoRA, patterns, DoRA and biases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multigraft_adapters.artifact import Limits, joined, listed
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.lora_config import DEFAULT_ALPHA, DEFAULT_RANK, LoraSettings, read_settings
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
    "magnitude": ".lora_magnitude_vector",
    "B bias": ".lora_B.bias",
}
BIAS_OF_TARGET = {"bias": ".base_layer.bias"}
BIAS_OF_OTHER = {"bias": ".bias"}


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two factors of one target's delta, in their stored dtypes; `scaling` is of the pair's own rank.

    With a `magnitude` it is DoRA's; `b_bias` is a bias of B's.
    """

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    scaling: float
    magnitude: Tensor | None = None  # (out,)
    b_bias: Tensor | None = None  # (out,)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.a, self.b, self.magnitude, self.b_bias) if part is not None)

    def dora_scale(self, weight: Tensor) -> Tensor | None:
        """DoRA's magnitude / ||W + scaling * B A||, by output: weight (out, in) fp32 -> (out,); None for LoRA.

        Liu et al. 2024, arXiv 2402.09353; as PEFT computes it at inference, in fp32.
        """
        if self.magnitude is None:
            return None
        moved = weight + self.scaling * (self.b.float() @ self.a.float())
        norm: Tensor = moved.norm(dim=1)
        return self.magnitude.float() / norm


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """A LoRA adapter's delta: its pairs by target path of `BaseSpec.targets`, and the biases that it trained, each
    in the place of the base's own."""

    pairs: Mapping[str, LoraPair]
    biases: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def max_rank(self) -> int:
        return max(pair.rank for pair in self.pairs.values())

    @property
    def nbytes(self) -> int:
        of_pairs = sum(pair.nbytes for pair in self.pairs.values())
        return of_pairs + sum(bias.nbytes for bias in self.biases.values())

    @property
    def modules(self) -> Mapping[str, LoraPair | None]:
        """Every target that is changed, with its pair if it has one."""
        return {path: self.pairs.get(path) for path in (*self.pairs, *self.biases)}

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """The reference: what the target at `path` computes with the delta. x (..., in) -> (..., out)."""
        bias = _bias_of(module)
        y: Tensor = module.forward(x) - bias
        pair, bias = self.pairs.get(path), self.biases[path].to(y) if path in self.biases else bias
        if pair is not None:
            y = y + apply_lora(x, pair)
            scale = pair.dora_scale(_weight_of(module))
            y = y if scale is None else y * scale.to(y)
        return y + bias


def apply_lora(x: Tensor, pair: LoraPair) -> Tensor:
    """What the pair adds to its target's output: scaling * (x A^T B^T + B's bias), in the dtype of `x`.

    `x` is (..., in), the result (..., out). This is the reference that every faster form is tested against. DoRA
    rescales the sum of it and the base's product.
    """
    product = (x @ pair.a.to(x).T) @ pair.b.to(x).T
    return pair.scaling * (product if pair.b_bias is None else product + pair.b_bias.to(x))


def read_lora(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> LoraDelta | None:
    """Read a PEFT adapter's delta, taking LoRA's tensors out of `tensors`.

    None, with every problem noted, unless each target that the config declares has all parts in the base's
    shape, and nothing else has any.
    """
    found: list[str] = []
    settings = read_settings(config, limits, found)
    _refuse_embeddings(tensors, found)
    parts = take_tensors(tensors, PARTS, spec, found)
    pairs: dict[str, LoraPair] = {}
    biases: dict[str, Tensor] = {}
    if settings is not None:
        declared = declared_paths(settings, parts, spec, found)
        found += settings.pattern_problems(parts.path_in_peft(path) for path in declared)
        check_coverage("LoRA", {path: _parts_of(settings) for path in declared}, parts, found)
        pairs = _pairs(settings, declared, parts, spec, found)
        biases = _take_biases(settings, declared, tensors, spec, found)
    problems += found
    return None if found else LoraDelta(pairs, biases)


def describe_lora(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parameters of a config that `read_lora` accepts: r, alpha, rslora, targets; dora if it is."""
    targets = config["target_modules"]
    variant = {"dora": True} if config.get("use_dora") else {}
    return variant | {
        "r": config.get("r") or DEFAULT_RANK,
        "alpha": config.get("lora_alpha") or DEFAULT_ALPHA,
        "rslora": config.get("use_rslora") or False,
        "targets": targets if isinstance(targets, str) else sorted(set(targets)),
    }


def _parts_of(settings: LoraSettings) -> tuple[str, ...]:
    more = ("magnitude",) * settings.dora + ("B bias",) * settings.has_b_bias
    return ("A", "B", *more)


def _refuse_embeddings(tensors: dict[str, Tensor], found: list[str]) -> None:
    names = sorted(name for name in tensors if ".lora_embedding_" in name)
    for name in names:
        del tensors[name]
    if names:
        found.append(f"LoRA on embeddings is not supported: {listed(names)}")


def _pairs(
    settings: LoraSettings, declared: list[str], parts: TargetTensors, spec: BaseSpec, found: list[str]
) -> dict[str, LoraPair]:
    """The declared pairs that are complete; a wrong shape, or a part that the config has none of, is a problem."""
    pairs: dict[str, LoraPair] = {}
    wrong: list[str] = []
    spare: list[str] = []
    for path in declared:
        in_peft, shape, tensors = parts.path_in_peft(path), spec.targets[path], parts.of(path)
        rank, out = settings.rank_of(in_peft), shape.out_features
        expected = {"A": [rank, shape.in_features], "B": [out, rank], "magnitude": [out], "B bias": [out]}
        found_here = (shape_problem(parts, path, part, sizes) for part, sizes in expected.items())
        wrong += [problem for problem in found_here if problem is not None]
        spare += [parts.name(path, part) for part in tensors if part not in _parts_of(settings)]
        if tensors.keys() == set(_parts_of(settings)):
            scaling = settings.scaling_of(in_peft)
            pairs[path] = LoraPair(
                tensors["A"], tensors["B"], scaling, tensors.get("magnitude"), tensors.get("B bias")
            )
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    if spare:
        found.append(f"the config says nothing of {listed(spare)}")
    return pairs


def _take_biases(
    settings: LoraSettings, declared: list[str], tensors: dict[str, Tensor], spec: BaseSpec, found: list[str]
) -> dict[str, Tensor]:
    """The biases of the base's linear modules that were trained."""
    if settings.biases == "none":
        return {}
    taken = take_tensors(tensors, BIAS_OF_TARGET, spec, found)
    check_coverage("trained biases", dict.fromkeys(declared, ()), taken, found)
    by_path = dict(taken.by_path)
    if settings.biases == "all":
        # What is left are a head's, which are not read here, and those of modules without LoRA.
        by_path |= take_tensors(tensors, BIAS_OF_OTHER, spec, found).by_path
    wrong = [
        f"the bias of {path} {list(parts['bias'].shape)} (not {[spec.targets[path].out_features]})"
        for path, parts in by_path.items()
        if list(parts["bias"].shape) != [spec.targets[path].out_features]
    ]
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    return {path: parts["bias"] for path, parts in by_path.items()}


def _bias_of(module: nn.Module) -> Tensor | float:
    bias: Tensor | None = module.bias  # type: ignore[assignment]
    return 0.0 if bias is None else bias


def _weight_of(module: nn.Module) -> Tensor:
    """The weight (out, in) in fp32."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    return (weight.t() if isinstance(module, Conv1D) else weight).float()
