"""What a method is to the rest of the system, and the methods that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multigraft_adapters.artifact import Limits
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.catalogue import Catalogue
from multigraft_adapters.methods.bottleneck import BottleneckDelta
from multigraft_adapters.methods.head import HeadDelta
from multigraft_adapters.methods.ia3 import Ia3Delta
from multigraft_adapters.methods.lora import LoraDelta
from multigraft_adapters.methods.prefix import PrefixDelta
from multigraft_adapters.methods.prompt import PromptDelta

Delta = LoraDelta | Ia3Delta | BottleneckDelta | PromptDelta | PrefixDelta | HeadDelta
"""The deltas that the methods read; each has `nbytes`."""

ReadDelta = Callable[[Mapping[str, Any], dict[str, Tensor], BaseSpec, Limits, list[str]], Delta | None]
CheckConfig = Callable[[Mapping[str, Any], Limits, list[str]], object]


@dataclass(frozen=True, slots=True)
class Method:
    """A kind of delta.

    `peft_types` are what PEFT's config calls it. `check(config, limits, problems)` notes every problem of a config
    by itself. `read(config, tensors, spec, limits, problems)` notes these too; it takes the method's tensors out
    of `tensors` and returns the delta, or None where it noted a problem. `describe(config)` gives the manifest's
    parameters of a config without problems. `normalise(tensors)` gives a file's tensors the names that PEFT
    gives them with LoRA.
    """

    name: str
    peft_types: tuple[str, ...]
    check: CheckConfig
    read: ReadDelta
    describe: Callable[[Mapping[str, Any]], dict[str, Any]]
    normalise: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = dict


METHODS: Catalogue[Method] = Catalogue("method", lambda method: method.peft_types)


def register(method: Method) -> None:
    """Add a method; raises ValueError when its name is not lower case, or its name or PEFT type is taken."""
    METHODS.add(method.name, method)


def method_of_peft(peft_type: object) -> Method | None:
    """The method that PEFT calls `peft_type`, if there is one."""
    return METHODS.of(peft_type)
