"""LoRA: y += scaling * B A x at each target, read from PEFT's tensors, with rsLoRA and patterns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

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

FACTORS = {"A": ".lora_A.weight", "B": ".lora_B.weight"}
UNSUPPORTED_TENSORS = {
    ".lora_embedding_": "LoRA on embeddings is not supported",
    ".lora_magnitude_vector": "DoRA is not supported",
    ".lora_B.bias": "a bias of LoRA's B is not supported",
}


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The two factors of one target's delta, in their stored dtypes; `scaling` is of the pair's own rank."""

    a: Tensor  # (rank, in)
    b: Tensor  # (out, rank)
    scaling: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def nbytes(self) -> int:
        return self.a.nbytes + self.b.nbytes


@dataclass(frozen=True, slots=True)
class LoraDelta:
    """A LoRA adapter's delta: its pairs by target path of `BaseSpec.targets`."""

    pairs: Mapping[str, LoraPair]

    @property
    def max_rank(self) -> int:
        return max(pair.rank for pair in self.pairs.values())

    @property
    def nbytes(self) -> int:
        return sum(pair.nbytes for pair in self.pairs.values())

    @property
    def modules(self) -> Mapping[str, LoraPair]:
        """The pairs, as every delta at modules names its parts."""
        return self.pairs

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """The reference: what the target at `path` computes with the delta. x (..., in) -> (..., out)."""
        y: Tensor = module.forward(x)
        return y + apply_lora(x, self.pairs[path])


def apply_lora(x: Tensor, pair: LoraPair) -> Tensor:
    """What the pair adds to its target's output: scaling * (x A^T) B^T, in the dtype of `x`.

    `x` is (..., in), the result (..., out). This is the reference that every faster form is tested against.
    """
    return pair.scaling * ((x @ pair.a.to(x).T) @ pair.b.to(x).T)


def read_lora(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> LoraDelta | None:
    """Read a PEFT adapter's delta, taking LoRA's tensors out of `tensors`.

    None, with every problem noted, unless each target that the config declares has both factors in the base's
    shape, and nothing else has any.
    """
    found: list[str] = []
    settings = read_settings(config, limits, found)
    _refuse_unsupported(tensors, found)
    factors = take_tensors(tensors, FACTORS, spec, found)
    pairs: dict[str, LoraPair] = {}
    if settings is not None:
        declared = declared_paths(settings, factors, spec, found)
        found += settings.pattern_problems(factors.path_in_peft(path) for path in declared)
        check_coverage("LoRA", {path: tuple(FACTORS) for path in declared}, factors, found)
        pairs = _pairs(settings, declared, factors, spec, found)
    problems += found
    return None if found else LoraDelta(pairs)


def describe_lora(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parameters of a config that `read_lora` accepts: r, alpha, rslora, targets."""
    targets = config["target_modules"]
    return {
        "r": config.get("r") or DEFAULT_RANK,
        "alpha": config.get("lora_alpha") or DEFAULT_ALPHA,
        "rslora": config.get("use_rslora") or False,
        "targets": targets if isinstance(targets, str) else sorted(set(targets)),
    }


def _refuse_unsupported(tensors: dict[str, Tensor], found: list[str]) -> None:
    for marker, reason in UNSUPPORTED_TENSORS.items():
        names = sorted(name for name in tensors if marker in name)
        for name in names:
            del tensors[name]
        if names:
            found.append(f"{reason}: {listed(names)}")


def _pairs(
    settings: LoraSettings, declared: list[str], factors: TargetTensors, spec: BaseSpec, found: list[str]
) -> dict[str, LoraPair]:
    """The declared pairs that are complete; a wrong shape is a problem."""
    pairs: dict[str, LoraPair] = {}
    wrong: list[str] = []
    for path in declared:
        in_peft, shape, tensors = factors.path_in_peft(path), spec.targets[path], factors.of(path)
        rank = settings.rank_of(in_peft)
        expected = {"A": [rank, shape.in_features], "B": [shape.out_features, rank]}
        found_here = (shape_problem(factors, path, factor, sizes) for factor, sizes in expected.items())
        wrong += [problem for problem in found_here if problem is not None]
        if tensors.keys() == FACTORS.keys():
            pairs[path] = LoraPair(tensors["A"], tensors["B"], settings.scaling_of(in_peft))
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    return pairs
