"""(IA)3: learned scales of what goes into or comes out of a linear module (Liu et al. 2022, arXiv 2205.05638).

y = W (l * x) + b where the config calls the module feedforward, else y = l * (W x + b), as PEFT computes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from multigraft_adapters.artifact import Limits, joined
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.config_reader import ORIGIN_KEYS, ConfigReader, Keys, flag_problem
from multigraft_adapters.methods.target_tensors import (
    TargetTensors,
    check_coverage,
    declared_paths,
    shape_problem,
    take_tensors,
)
from multigraft_adapters.methods.targets import ModuleSettings, Names

KEYS = Keys(
    read=frozenset(
        ("peft_type", "task_type", "target_modules", "exclude_modules", "feedforward_modules", "modules_to_save")
        + ("init_ia3_weights",)
    ),
    ignored=ORIGIN_KEYS | {"fan_in_fan_out"},
)
SCALE = {"scale": ".ia3_l"}


@dataclass(frozen=True, slots=True)
class Ia3Scale:
    """One target's scale, of its input (in,) or of its output (out,), in its stored dtype."""

    scale: Tensor
    of_input: bool


@dataclass(frozen=True, slots=True)
class Ia3Delta:
    """An (IA)3 adapter's delta: its scales by target path of `BaseSpec.targets`."""

    modules: Mapping[str, Ia3Scale]

    @property
    def nbytes(self) -> int:
        return sum(module.scale.nbytes for module in self.modules.values())

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """The reference: what the target at `path` computes with the delta. x (..., in) -> (..., out)."""
        entry = self.modules[path]
        if entry.of_input:
            x = x * entry.scale.to(x)
        y: Tensor = module.forward(x)
        return y if entry.of_input else y * entry.scale.to(y)


@dataclass(frozen=True, slots=True)
class Ia3Settings(ModuleSettings):
    """What of an IA3Config decides the maths."""

    feedforward: Names

    def scales_input(self, path: str) -> bool:
        """Whether PEFT takes the module at `path` for a feedforward one: by the end of its path, dot or not."""
        return self.feedforward.match_exactly(path) or path.endswith(tuple(self.feedforward.names))


def read_ia3_settings(config: Mapping[str, Any], limits: Limits, problems: list[str]) -> Ia3Settings | None:
    """What an IA3Config's JSON says; None, with every problem noted, when any of it cannot be honoured."""
    reader = ConfigReader(config)
    reader.refuse_unsupported(KEYS)
    reader.value("init_ia3_weights", True, flag_problem)
    if not reader.has("feedforward_modules"):
        reader.problem("feedforward_modules", "is missing; give an empty list where there are none")
    settings = Ia3Settings(
        targets=reader.targets(),
        excluded=reader.names("exclude_modules"),
        saved=reader.saved_modules(),
        layers=None,
        layer_patterns=(),
        feedforward=reader.names("feedforward_modules"),
    )
    problems += reader.problems
    return None if reader.problems else settings


def read_ia3(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> Ia3Delta | None:
    """Read a PEFT adapter's delta, taking (IA)3's tensors out of `tensors`; see `Method.read`."""
    found: list[str] = []
    settings = read_ia3_settings(config, limits, found)
    scales = take_tensors(tensors, SCALE, spec, found)
    modules: dict[str, Ia3Scale] = {}
    if settings is not None:
        declared = declared_paths(settings, scales, spec, found)
        check_coverage("(IA)3", {path: tuple(SCALE) for path in declared}, scales, found)
        modules = _modules(settings, declared, scales, spec, found)
    problems += found
    return None if found else Ia3Delta(modules)


def describe_ia3(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parameters of a config that `read_ia3` accepts: targets, feedforward."""
    names = {"targets": config["target_modules"], "feedforward": config["feedforward_modules"]}
    return {key: value if isinstance(value, str) else sorted(set(value)) for key, value in names.items()}


def _modules(
    settings: Ia3Settings, declared: list[str], scales: TargetTensors, spec: BaseSpec, found: list[str]
) -> dict[str, Ia3Scale]:
    modules: dict[str, Ia3Scale] = {}
    wrong: list[str] = []
    for path in declared:
        of_input, shape = settings.scales_input(scales.path_in_peft(path)), spec.targets[path]
        expected = [1, shape.in_features] if of_input else [shape.out_features, 1]
        problem = shape_problem(scales, path, "scale", expected)
        if problem is not None:
            wrong.append(problem)
        elif scales.of(path):
            modules[path] = Ia3Scale(scales.of(path)["scale"].flatten(), of_input)
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    return modules
