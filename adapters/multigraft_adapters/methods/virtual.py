"""What prompt tuning and prefix tuning have in common: one tensor of virtual tokens, and PEFT's config of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from multigraft_adapters.artifact import shown
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.manifest import Manifest
from multigraft_adapters.methods.config_reader import ORIGIN_KEYS, ConfigReader, Keys
from multigraft_adapters.tensors_file import PEFT_PREFIX

TENSOR = "prompt_embeddings"
COUNT = "num_virtual_tokens"
"""The manifest's parameter, and PEFT's key."""

READ_KEYS = frozenset(
    ("peft_type", "task_type", COUNT, "token_dim", "num_transformer_submodules", "num_attention_heads")
    + ("num_layers", "modules_to_save")
)
_SHORT_PREFIX = "base_model."
"""What PEFT puts before the head's path where no module of the model is wrapped."""


def keys(*training: str) -> Keys:
    """The keys of a config; `training` are those that decide only how the tensor came about."""
    return Keys(READ_KEYS, ORIGIN_KEYS.union(training))


def virtual_tokens(manifest: Manifest) -> int:
    """How many tokens of the context an adapter takes of each row, before the text's first."""
    count = manifest.method.parameters.get(COUNT, 0)
    return count if type(count) is int else 0


def long_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names that PEFT gives them with every other method."""
    return {
        PEFT_PREFIX + name.removeprefix(_SHORT_PREFIX) if name.startswith(_SHORT_PREFIX) else name: tensor
        for name, tensor in tensors.items()
    }


def describe_virtual(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parameters of a config that was accepted: num_virtual_tokens."""
    return {COUNT: config[COUNT]}


def check_virtual(config: Mapping[str, Any], expected: Keys, problems: list[str]) -> int | None:
    """How many virtual tokens a config has; None, with every problem noted, when it cannot be honoured."""
    reader = ConfigReader(config)
    reader.refuse_unsupported(expected)
    count: int = reader.value(COUNT, 0, _count_problem)
    reader.value("num_transformer_submodules", 1, lambda value: None if value == 1 else "only 1 is served")
    problems += reader.problems
    return None if reader.problems else count


def take_virtual(
    config: Mapping[str, Any],
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    shape: tuple[int, int],
    sizes: Mapping[str, int],
    found: list[str],
) -> Tensor | None:
    """The tensor, which must have this `shape`; `sizes` are what the config says of the base, if it does."""
    reader = ConfigReader(config)
    for key, size in sizes.items():
        reader.value(key, size, _other_problem(size))
    if spec.image is not None:
        found.append("virtual tokens are put before tokens, and this base takes images")
    elif shape[0] >= spec.max_length:
        found.append(f"{shape[0]} virtual tokens leave no room in the base's {spec.max_length}")
    found += reader.problems
    tensor = tensors.pop(TENSOR, None)
    if tensor is None:
        found.append(f"missing tensors: {TENSOR!r}")
    elif tuple(tensor.shape) != shape:
        found.append(f"tensors of a wrong shape: {TENSOR} {list(tensor.shape)} (not {list(shape)})")
    else:
        return tensor
    return None


def _count_problem(value: Any) -> str | None:
    return None if type(value) is int and value >= 1 else f"{shown(value)} is not a number of tokens"


def _other_problem(size: int) -> Callable[[Any], str | None]:
    return lambda value: None if value == size else f"{shown(value)}, and the base has {size}"
