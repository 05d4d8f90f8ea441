"""LoRA: y += scaling * B A x at each target, read from PEFT's tensors, with rsLoRA and patterns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multigraft_adapters.artifact import Limits, joined, listed
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.lora_config import DEFAULT_ALPHA, DEFAULT_RANK, read_settings
from multigraft_adapters.methods.lora_targets import LoraSettings
from multigraft_adapters.tensors_file import PEFT_PREFIX

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
    factors = _take_factors(tensors, spec, found)
    pairs: dict[str, LoraPair] = {}
    if settings is not None:
        declared = _declared(settings, factors, spec, found)
        _check_coverage(declared, factors, found)
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


@dataclass(slots=True)
class _Factors:
    """LoRA's tensors by factor and target path. `root` is what PEFT saw before the backbone's paths."""

    root: str
    by_path: dict[str, dict[str, Tensor]]

    def path_in_peft(self, path: str) -> str:
        return self.root + path


def _refuse_unsupported(tensors: dict[str, Tensor], found: list[str]) -> None:
    for marker, reason in UNSUPPORTED_TENSORS.items():
        names = sorted(name for name in tensors if marker in name)
        for name in names:
            del tensors[name]
        if names:
            found.append(f"{reason}: {listed(names)}")


def _take_factors(tensors: dict[str, Tensor], spec: BaseSpec, found: list[str]) -> _Factors:
    """Take the tensors that are named as factors; those of no linear module of the backbone are problems."""
    task_root = f"{spec.backbone_prefix}." if spec.backbone_prefix else ""
    by_path: dict[str, dict[str, Tensor]] = {}
    roots: set[str] = set()
    strangers: list[str] = []
    for name, factor, peft_path in [*_factor_names(tensors)]:
        tensor = tensors.pop(name)
        root = "" if peft_path in spec.targets else task_root
        path = peft_path.removeprefix(root)
        if root + path == peft_path and path in spec.targets:
            roots.add(root)
            by_path.setdefault(path, {})[factor] = tensor
        else:
            strangers.append(name)
    if strangers:
        found.append(f"not of a linear module in the base's backbone: {listed(sorted(strangers))}")
    if len(roots) > 1:
        found.append(f"some tensors' names have {task_root!r} before the backbone's path, others do not")
    return _Factors(roots.pop() if len(roots) == 1 else task_root, by_path)


def _factor_names(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, str, str]]:
    """The name, the factor and the path of each tensor that is named as a factor."""
    for name in tensors:
        for factor, suffix in FACTORS.items():
            if name.startswith(PEFT_PREFIX) and name.endswith(suffix):
                yield name, factor, name[len(PEFT_PREFIX) : -len(suffix)]


def _declared(settings: LoraSettings, factors: _Factors, spec: BaseSpec, found: list[str]) -> list[str]:
    """The target paths on which PEFT puts LoRA."""
    in_peft = {factors.path_in_peft(path): path for path in spec.targets}
    unmatched = settings.unmatched(in_peft)
    if unmatched:
        found.append(f"target_modules: no linear module of the base is named {listed(unmatched)}")
    declared = [path for peft_path, path in in_peft.items() if settings.declares(peft_path)]
    if not declared and not unmatched:
        found.append("the config declares no module of the base at all")
    found += settings.pattern_problems(factors.path_in_peft(path) for path in declared)
    return declared


def _check_coverage(declared: list[str], factors: _Factors, found: list[str]) -> None:
    spare = sorted(factors.by_path.keys() - set(declared))
    if spare:
        found.append(f"the config does not declare LoRA on {listed(spare)}, the tensors have it")
    missing = [
        f"{factors.path_in_peft(path)}{suffix}"
        for path in declared
        for factor, suffix in FACTORS.items()
        if factor not in factors.by_path.get(path, {})
    ]
    if missing:
        found.append(f"missing tensors: {listed(missing)}")


def _pairs(
    settings: LoraSettings, declared: list[str], factors: _Factors, spec: BaseSpec, found: list[str]
) -> dict[str, LoraPair]:
    """The declared pairs that are complete; a wrong shape is a problem."""
    pairs: dict[str, LoraPair] = {}
    wrong: list[str] = []
    for path in declared:
        tensors = factors.by_path.get(path, {})
        rank, shape = settings.rank_of(factors.path_in_peft(path)), spec.targets[path]
        expected = {"A": [rank, shape.in_features], "B": [shape.out_features, rank]}
        for factor, tensor in tensors.items():
            if list(tensor.shape) != expected[factor]:
                name = factors.path_in_peft(path) + FACTORS[factor]
                wrong.append(f"{name} {list(tensor.shape)} (not {expected[factor]})")
        if tensors.keys() == FACTORS.keys():
            scaling = settings.scaling_of(factors.path_in_peft(path))
            pairs[path] = LoraPair(tensors["A"], tensors["B"], scaling)
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    return pairs
