"""No delta: the frozen base as it is, under a head of the task's own. PEFT has no name for it; ours is HEAD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from multigraft_adapters.artifact import Limits
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.config_reader import ORIGIN_KEYS, ConfigReader, Keys

PEFT_TYPE = "HEAD"
KEYS = Keys(read=frozenset(("peft_type", "task_type", "modules_to_save")), ignored=ORIGIN_KEYS)


@dataclass(frozen=True, slots=True)
class HeadDelta:
    """The delta of an adapter that has none."""

    modules: Mapping[str, Any] = field(default_factory=dict)
    nbytes: int = 0

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """The reference: what the module computes by itself."""
        y: Tensor = module.forward(x)
        return y


def check_head_only(config: Mapping[str, Any], limits: Limits, problems: list[str]) -> None:
    """Note every problem of a config; one that brings no head would be the bare base."""
    reader = ConfigReader(config)
    reader.refuse_unsupported(KEYS)
    if not reader.saved_modules():
        reader.problem("modules_to_save", "is missing: without a delta an adapter must bring a head")
    problems += reader.problems


def read_head_only(
    config: Mapping[str, Any], tensors: dict[str, Tensor], spec: BaseSpec, limits: Limits, problems: list[str]
) -> HeadDelta | None:
    """The empty delta; takes none of `tensors`. See `Method.read`."""
    found: list[str] = []
    check_head_only(config, limits, found)
    problems += found
    return None if found else HeadDelta()


def describe_head_only(config: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest's parameters: there are none."""
    return {}
