"""Bottleneck adapters: f(h) = scaling * (up(activation(down(h)))), added to a block of the layer.

`sequential` (Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2021, arXiv 2005.00247: after the feed-forward
block only): h + f(h), where h is what the block's last linear module computes, before the residual sum.
`sequential` with `ln_before`, as AdapterHub's Pfeiffer adapters: LN(u + f(LN(u))), where u is the residual sum.
`parallel` (He et al. 2022, arXiv 2110.04366): h + f(x), where x is the feed-forward block's input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from multigraft_adapters.artifact import Limits, joined, listed, shown
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.blocks import feedforward_input, norm_after
from multigraft_adapters.methods.config_reader import ORIGIN_KEYS, ConfigReader, Keys, flag_problem
from multigraft_adapters.methods.target_tensors import (
    TargetTensors,
    check_coverage,
    declared_paths,
    shape_problem,
    take_tensors,
)
from multigraft_adapters.methods.targets import ModuleSettings

PEFT_TYPE = "BOTTLENECK"
LEARNED = "learned"
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "swish": functional.silu,
}
"""Each is 0 at 0."""
PARTS = {
    "down": ".bottleneck_down.weight",
    "down bias": ".bottleneck_down.bias",
    "up": ".bottleneck_up.weight",
    "up bias": ".bottleneck_up.bias",
    "scaling": ".bottleneck_scaling",
}
KEYS = Keys(
    read=frozenset(
        ("peft_type", "task_type", "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform")
        + ("layers_pattern", "parallel", "ln_before", "reduction_factor", "bottleneck_size", "non_linearity")
        + ("scaling",)
    ),
    ignored=ORIGIN_KEYS | {"placement", "dropout", "init_weights"},
)
MAX_SCALING = 1_000_000


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """One target's adapter, in its stored dtypes."""

    down: Tensor  # (size, features)
    down_bias: Tensor  # (size,)
    up: Tensor  # (features, size)
    up_bias: Tensor  # (features,)
    scaling: float
    activation: str

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in (self.down, self.down_bias, self.up, self.up_bias))


@dataclass(frozen=True, slots=True)
class BottleneckDelta:
    """A bottleneck adapter's delta: its parts by target path, and by the path of what else each of them reads or
    changes: the feed-forward input of a `parallel` one, the norm of one with `ln_before`."""

    modules: Mapping[str, Bottleneck]
    inputs: Mapping[str, str]
    norms: Mapping[str, str]

    @property
    def nbytes(self) -> int:
        return sum(module.nbytes for module in self.modules.values())

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """The reference of a sequential one: what the target at `path` computes. x (..., in) -> (..., out)."""
        y: Tensor = module.forward(x)
        return y + apply_bottleneck(y, self.modules[path])

    def attach(self, backbone: nn.Module) -> list[Any]:
        """The reference on a whole backbone, by hooks: what they return removes them."""
        return [handle for path in self.modules for handle in self._attach(backbone, path)]

    def _attach(self, backbone: nn.Module, path: str) -> list[Any]:
        target, part = backbone.get_submodule(path), self.modules[path]
        if path in self.norms:
            norm = backbone.get_submodule(self.norms[path])
            return [norm.register_forward_hook(lambda module, args, z: around_norm(module, args[0], z, part))]
        if path in self.inputs:
            seen: list[Tensor] = []
            source = backbone.get_submodule(self.inputs[path])
            return [
                source.register_forward_pre_hook(lambda module, args: seen.append(args[0])),
                target.register_forward_hook(lambda module, args, y: y + apply_bottleneck(seen.pop(), part)),
            ]
        return [target.register_forward_hook(lambda module, args, y: y + apply_bottleneck(y, part))]


def apply_bottleneck(x: Tensor, part: Bottleneck) -> Tensor:
    """f(x) = scaling * up(activation(down(x))), x (..., features), in the dtype of `x`."""
    return bottleneck(
        x, part.down, part.down_bias, part.up, part.up_bias, scaling=part.scaling, activation=part.activation
    )


def bottleneck(
    x: Tensor,
    down: Tensor,
    down_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    *,
    scaling: float | Tensor,
    activation: str,
) -> Tensor:
    """The formula itself, which training runs too: x (..., features) -> (..., features)."""
    hidden = ACTIVATIONS[activation](functional.linear(x, down.to(x), down_bias.to(x)))
    return scaling * functional.linear(hidden, up.to(x), up_bias.to(x))


def around_norm(norm: nn.Module, summed: Tensor, normed: Tensor, part: Bottleneck) -> Tensor:
    """LN(u + f(LN(u))): `summed` is u, `normed` is LN(u)."""
    changed: Tensor = norm.forward(summed + apply_bottleneck(normed, part))
    return changed


@dataclass(frozen=True, slots=True)
class BottleneckSettings(ModuleSettings):
    """What of a config decides the maths. `size` None is a share of the features, by `reduction_factor`."""

    parallel: bool
    ln_before: bool
    size: int | None
    reduction_factor: float
    activation: str
    scaling: float | None
    """None where it was learned."""

    def size_for(self, features: int) -> int:
        """The width of the bottleneck at a module with so many outputs."""
        return self.size if self.size is not None else max(1, int(features // self.reduction_factor))


def read_bottleneck_settings(
    config: Mapping[str, Any], limits: Limits, problems: list[str]
) -> BottleneckSettings | None:
    """What a config's JSON says; None, with every problem noted, when any of it cannot be honoured."""
    reader = ConfigReader(config)
    reader.refuse_unsupported(KEYS)
    if reader.has("bottleneck_size") == reader.has("reduction_factor"):
        reader.problem("bottleneck_size", "give either it or reduction_factor")
    scaling = reader.value("scaling", 1.0, _scaling_problem)
    settings = BottleneckSettings(
        targets=reader.targets(),
        excluded=reader.names("exclude_modules"),
        saved=reader.saved_modules(),
        layers=reader.layers(),
        layer_patterns=reader.layer_patterns(),
        parallel=reader.value("parallel", False, flag_problem),
        ln_before=reader.value("ln_before", False, flag_problem),
        size=reader.value("bottleneck_size", None, _size_problem) if reader.has("bottleneck_size") else None,
        reduction_factor=reader.value("reduction_factor", 16, _factor_problem),
        activation=reader.value("non_linearity", "relu", _activation_problem),
        scaling=None if scaling == LEARNED else float(scaling),
    )
    if settings.parallel and settings.ln_before:
        reader.problem("ln_before", "a parallel adapter reads the block's input, which no norm follows")
    problems += reader.problems
    return None if reader.problems else settings


def read_bottleneck(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> BottleneckDelta | None:
    """Read an adapter's delta, taking the bottlenecks' tensors out of `tensors`; see `Method.read`."""
    found: list[str] = []
    settings = read_bottleneck_settings(config, limits, found)
    parts = take_tensors(tensors, PARTS, spec, found)
    modules: dict[str, Bottleneck] = {}
    inputs: dict[str, str] = {}
    norms: dict[str, str] = {}
    if settings is not None:
        declared = declared_paths(settings, parts, spec, found)
        required = tuple(part for part in PARTS if part != "scaling" or settings.scaling is None)
        check_coverage("a bottleneck", dict.fromkeys(declared, required), parts, found)
        modules = _modules(settings, required, declared, parts, spec, found)
        inputs = _others(declared, spec, feedforward_input, INPUTLESS, found) if settings.parallel else {}
        norms = _others(declared, spec, norm_after, NORMLESS, found) if settings.ln_before else {}
    problems += found
    return None if found else BottleneckDelta(modules, inputs, norms)


def describe_bottleneck(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parameters of a config that `read_bottleneck` accepts."""
    names = ("reduction_factor", "bottleneck_size", "non_linearity", "scaling", "parallel", "ln_before")
    targets = config["target_modules"]
    shown_targets = targets if isinstance(targets, str) else sorted(set(targets))
    return {name: config[name] for name in names if config.get(name) is not None} | {"targets": shown_targets}


INPUTLESS = "parallel: only the end of a feed-forward block has an input to read, not"
NORMLESS = "ln_before: in this base no layer norm follows the residual sum after"


def _others(
    declared: list[str],
    spec: BaseSpec,
    other_of: Callable[[str, str], str | None],
    problem: str,
    found: list[str],
) -> dict[str, str]:
    others = {path: other_of(spec.model_type, path) for path in declared}
    if without := [path for path, other in others.items() if other is None]:
        found.append(f"{problem} {listed(without)}")
    return {path: other for path, other in others.items() if other is not None}


def _modules(
    settings: BottleneckSettings,
    required: tuple[str, ...],
    declared: list[str],
    parts: TargetTensors,
    spec: BaseSpec,
    found: list[str],
) -> dict[str, Bottleneck]:
    """The declared adapters that are complete; a wrong shape, or a part of which the config says nothing, is a
    problem."""
    modules: dict[str, Bottleneck] = {}
    wrong: list[str] = []
    spare: list[str] = []
    for path in declared:
        tensors, features = parts.of(path), spec.targets[path].out_features
        size = settings.size_for(features)
        shapes = {"down": [size, features], "down bias": [size], "up": [features, size], "up bias": [features]}
        found_here = [
            shape_problem(parts, path, part, shape) for part, shape in (shapes | {"scaling": [1]}).items()
        ]
        wrong += [problem for problem in found_here if problem is not None]
        spare += [parts.name(path, part) for part in tensors if part not in required]
        if tensors.keys() == set(required) and not any(found_here):
            scaling = float(tensors["scaling"]) if settings.scaling is None else settings.scaling
            own = [tensors[part] for part in shapes]
            modules[path] = Bottleneck(own[0], own[1], own[2], own[3], scaling, settings.activation)
    if wrong:
        found.append(f"tensors of a wrong shape: {joined(wrong)}")
    if spare:
        found.append(f"the config says nothing of {listed(spare)}")
    return modules


def _scaling_problem(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value == LEARNED or (is_number and 0 < value <= MAX_SCALING):
        return None
    return f"{shown(value)} is neither {LEARNED!r} nor a number above 0 and at most {MAX_SCALING}"


def _size_problem(value: Any) -> str | None:
    return None if type(value) is int and 1 <= value <= 65536 else f"{shown(value)} is not a size"


def _factor_problem(value: Any) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number and value >= 1 else f"{shown(value)} is not a number of at least 1"


def _activation_problem(value: Any) -> str | None:
    known = isinstance(value, str) and value in ACTIVATIONS
    return None if known else f"{shown(value)} is not one of {', '.join(ACTIVATIONS)}"
