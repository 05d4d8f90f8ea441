"""Bottleneck adapters as a tuner of PEFT's, which has none: `register()` once, then `get_peft_model` knows them.

The formula is `multigraft_adapters.methods.bottleneck`'s. Everything is saved in PEFT's format.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import PeftType, register_peft_method
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from multigraft_adapters.methods.blocks import BLOCKS, feedforward_input, norm_after
from multigraft_adapters.methods.bottleneck import LEARNED, PEFT_TYPE, bottleneck

PLACEMENTS = ("houlsby", "pfeiffer", "parallel")
NEAR_ZERO = 1e-3
"""The deviation with which up begins: an adapter begins close to the identity, and every part has a gradient."""


@dataclass
class BottleneckConfig(PeftConfig):
    """`placement` gives the target modules where none are named: both blocks' ends (houlsby), the feed-forward
    block's (pfeiffer, parallel). `scaling` is a number, or "learned"."""

    placement: str | None = field(default="pfeiffer")
    parallel: bool = field(default=False)
    ln_before: bool = field(default=False)
    reduction_factor: float | None = field(default=16)
    bottleneck_size: int | None = field(default=None)
    non_linearity: str = field(default="relu")
    scaling: float | str = field(default=1.0)
    dropout: float = field(default=0.0)
    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    layers_to_transform: list[int] | int | None = field(default=None)
    layers_pattern: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = PeftType(PEFT_TYPE)
        if self.placement not in (*PLACEMENTS, None):
            raise ValueError(f"placement must be one of {', '.join(PLACEMENTS)}, not {self.placement!r}")
        self.parallel = self.parallel or self.placement == "parallel"
        if self.bottleneck_size is not None:
            self.reduction_factor = None
        if isinstance(self.target_modules, list):
            self.target_modules = sorted(set(self.target_modules))


class BottleneckLayer(BaseTunerLayer):
    """What a target module holds of every adapter, and what it does with the active ones."""

    training: bool
    adapter_layer_names = ("bottleneck_down", "bottleneck_up", "bottleneck_scaling")
    other_param_names = ("bottleneck_options",)

    def __init__(self, base_layer: nn.Module) -> None:
        self.base_layer = base_layer
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_scaling = nn.ParameterDict()
        self.bottleneck_options: dict[str, BottleneckConfig] = {}
        self._disable_adapters = False
        self.merged_adapters: list[str] = []

    def update_layer(self, adapter_name: str, config: BottleneckConfig, inference_mode: bool) -> None:
        """Add an adapter, close to the identity."""
        features = out_features(self.get_base_layer())
        size = config.bottleneck_size or max(1, int(features // cast(float, config.reduction_factor)))
        down, up = nn.Linear(features, size), nn.Linear(size, features)
        nn.init.normal_(down.weight, std=features**-0.5)
        nn.init.normal_(up.weight, std=NEAR_ZERO)
        nn.init.zeros_(down.bias)
        nn.init.zeros_(up.bias)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        if config.scaling == LEARNED:
            self.bottleneck_scaling[adapter_name] = nn.Parameter(torch.ones(1))
        self.bottleneck_options[adapter_name] = config
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=inference_mode)

    def added(self, x: Tensor, kind: str) -> Tensor | float:
        """The sum of what the active adapters of a kind (after, parallel, around) add, from `x`."""
        if self.disable_adapters:
            return 0.0
        active = [name for name in self.active_adapters if name in self.bottleneck_down]
        return sum((self._one(name, x) for name in active if kind_of(self.bottleneck_options[name]) == kind), 0.0)

    def _one(self, name: str, x: Tensor) -> Tensor:
        config = self.bottleneck_options[name]
        down, up = cast(nn.Linear, self.bottleneck_down[name]), cast(nn.Linear, self.bottleneck_up[name])
        learned = name in self.bottleneck_scaling
        scaling = self.bottleneck_scaling[name] if learned else cast(float, config.scaling)
        x = nn.functional.dropout(x.to(down.weight.dtype), config.dropout, self.training)
        return bottleneck(
            x, down.weight, down.bias, up.weight, up.bias, scaling=scaling, activation=config.non_linearity
        )


class BottleneckLinear(nn.Module, BottleneckLayer):
    """The last linear module of a block, with its adapters."""

    def __init__(self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig) -> None:
        super().__init__()
        BottleneckLayer.__init__(self, base_layer)
        self._active_adapter = adapter_name
        self._block_input: list[Tensor] = []
        self._watched: dict[nn.Module, Any] = {}
        self.update_layer(adapter_name, config, config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: what is not linear cannot be merged."""
        raise ValueError("a bottleneck adapter is not linear: it cannot be merged")

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(..., in) -> (..., out)."""
        y: Tensor = self.base_layer(x, *args, **kwargs)
        added = self.added(y, "after")
        if self._block_input:
            added = added + self.added(self._block_input.pop(), "parallel")
        return (y + added).to(y.dtype)

    def watch_input(self, source: nn.Module) -> None:
        """Read the input of the block, whose first linear module `source` is."""
        if source not in self._watched:
            hook = source.register_forward_pre_hook(lambda module, inputs: self._take_input(inputs[0]))
            self._watched[source] = hook

    def _take_input(self, x: Tensor) -> None:
        self._block_input[:] = [x]

    def go_around(self, norm: nn.Module) -> None:
        """Add what adapters around `norm` add: LN(u + f(LN(u)))."""

        def hook(module: nn.Module, inputs: tuple[Tensor, ...], normed: Tensor) -> Tensor:
            added = self.added(normed, "around")
            return normed if isinstance(added, float) else module.forward(inputs[0] + added.to(normed.dtype))

        if norm not in self._watched:
            self._watched[norm] = norm.register_forward_hook(hook)

    def let_go(self) -> None:
        """Leave the other modules alone, for good."""
        for hook in self._watched.values():
            hook.remove()
        self._watched.clear()


class BottleneckModel(BaseTuner):
    """PEFT's model of bottleneck adapters."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}

    @staticmethod
    def _prepare_adapter_config(peft_config: Any, model_config: dict[str, Any]) -> Any:
        if peft_config.target_modules is None:
            blocks = BLOCKS.get(model_config["model_type"])
            if blocks is None or peft_config.placement is None:
                raise ValueError("target_modules: name the linear modules that end the model's blocks")
            both = peft_config.placement == "houlsby"
            peft_config.target_modules = [blocks.feedforward, *([blocks.attention] if both else [])]
        return peft_config

    def inject_adapter(self, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """As PEFT's, with the names of feed-forward ends made whole paths: BERT's also end its attention's."""
        config = self._prepare_adapter_config(self.peft_config[adapter_name], self.get_model_config(model))
        blocks = BLOCKS.get(model.config.model_type)
        if blocks is not None and config.target_modules == [blocks.feedforward]:
            config.target_modules = [
                name for name, _ in model.named_modules() if feedforward_input(model.config.model_type, name)
            ]
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def unload(self) -> Any:
        """The model as it was before, as PEFT's `unload` gives it."""
        for module in self.model.modules():
            if isinstance(module, BottleneckLinear):
                module.let_go()
        return super().unload()

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLinear):
            target.update_layer(adapter_name, peft_config, peft_config.inference_mode)
            layer = target
        elif isinstance(target, nn.Linear | Conv1D):
            layer = BottleneckLinear(target, adapter_name, peft_config)
            if adapter_name not in self.active_adapters:
                layer.requires_grad_(False)
            self._replace_module(parent, target_name, layer, target)
        else:
            raise ValueError(f"{current_key}: a bottleneck follows a linear module, not {type(target).__name__}")
        self._connect(layer, peft_config, current_key)

    def _connect(self, layer: BottleneckLinear, config: BottleneckConfig, path: str) -> None:
        model: Any = self.model
        model_type, kind = model.config.model_type, kind_of(config)
        if kind == "after":
            return
        other = feedforward_input(model_type, path) if kind == "parallel" else norm_after(model_type, path)
        if other is None:
            raise ValueError(f"{path}: no place for an adapter {kind} on {model_type}")
        module = model.get_submodule(other)
        if kind == "parallel":
            layer.watch_input(module)
        else:
            layer.go_around(module)


def kind_of(config: BottleneckConfig) -> str:
    """Where an adapter's input comes from: after the module, parallel to its block, or around the norm."""
    return "parallel" if config.parallel else "around" if config.ln_before else "after"


def out_features(linear: nn.Module) -> int:
    """How many outputs a linear module has."""
    return linear.nf if isinstance(linear, Conv1D) else cast(nn.Linear, linear).out_features


def register() -> None:
    """Make PEFT know the method; nothing happens where it does already."""
    if PEFT_TYPE not in PeftType.__members__:
        member: Any = str.__new__(PeftType, PEFT_TYPE)
        member._name_ = member._value_ = PEFT_TYPE
        member._sort_order_ = len(PeftType._member_names_)
        type.__setattr__(PeftType, PEFT_TYPE, member)
        PeftType._member_names_.append(PEFT_TYPE)
        PeftType._member_map_[PEFT_TYPE] = member
        PeftType._value2member_map_[PEFT_TYPE] = member
        register_peft_method(name=PEFT_TYPE.lower(), config_cls=BottleneckConfig, model_cls=BottleneckModel)
