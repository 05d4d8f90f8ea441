"""A recipe's method as PEFT's config for one base."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig, PeftConfig

from multigraft_adapters.bases import BaseSpec
from multigraft_training.recipe import ALL_LINEAR, MethodPart


def target_names(targets: str | list[str], spec: BaseSpec) -> list[str]:
    """The last names of the linear modules to target, sorted.

    Raises ValueError naming each target that is no linear module of the base.
    """
    known = sorted({path.rpartition(".")[2] for path in spec.targets})
    if targets == ALL_LINEAR:
        return known
    unknown = sorted(name for name in targets if not _names_a_target(name, spec))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no linear module of {spec.name}; it has {', '.join(known)}")
    return sorted(set(targets))


def peft_config(
    method: MethodPart, spec: BaseSpec, *, peft_type: str, head_modules: tuple[str, ...], is_transposed: bool
) -> PeftConfig:
    """PEFT's config of a delta; `is_transposed` tells that the base keeps its weights as (in, out).

    Raises ValueError as `target_names` does.
    """
    arguments: dict[str, Any] = {
        "task_type": peft_type,
        "r": method.rank,
        "lora_alpha": method.alpha,
        "lora_dropout": method.dropout,
        "use_rslora": method.rslora,
        "target_modules": target_names(method.targets, spec),
        "modules_to_save": list(head_modules) or None,
        "fan_in_fan_out": is_transposed,
    }
    return LoraConfig(**arguments)


def _names_a_target(name: str, spec: BaseSpec) -> bool:
    return any(path == name or path.endswith(f".{name}") for path in spec.targets)
