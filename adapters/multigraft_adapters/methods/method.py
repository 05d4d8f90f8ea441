"""What a method is to the rest of the system, and the registry of methods."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from multigraft_adapters.artifact import Limits
from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.methods.ia3 import Ia3Delta
from multigraft_adapters.methods.lora import LoraDelta

Delta = LoraDelta | Ia3Delta
"""The deltas that the methods read; each has `nbytes`."""

ReadDelta = Callable[[Mapping[str, Any], dict[str, Tensor], BaseSpec, Limits, list[str]], Delta | None]
CheckConfig = Callable[[Mapping[str, Any], Limits, list[str]], object]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Method:
    """A kind of delta.

    `peft_type` is what PEFT's config calls it. `check(config, limits, problems)` notes every problem of a config
    by itself. `read(config, tensors, spec, limits, problems)` notes these too; it takes the method's tensors out
    of `tensors` and returns the delta, or None where it noted a problem. `describe(config)` gives the manifest's
    parameters of a config without problems.
    """

    name: str
    peft_type: str
    check: CheckConfig
    read: ReadDelta
    describe: Callable[[Mapping[str, Any]], dict[str, Any]]


METHODS: dict[str, Method] = {}


def register(method: Method) -> None:
    """Add a method; raises ValueError when its name is not lower case, or its name or PEFT type is taken."""
    if not _NAME.fullmatch(method.name):
        raise ValueError(f"{method.name!r} is not a method's name: lower-case letters, digits and _")
    if method.name in METHODS or method_of_peft(method.peft_type) is not None:
        raise ValueError(f"the method {method.name!r} ({method.peft_type}) is already registered")
    METHODS[method.name] = method


def get_method(name: str) -> Method:
    """The method of this name; raises KeyError naming those that exist."""
    if name not in METHODS:
        raise KeyError(f"no method {name!r}; there are {', '.join(sorted(METHODS))}")
    return METHODS[name]


def method_of_peft(peft_type: object) -> Method | None:
    """The method that PEFT calls `peft_type`, if there is one."""
    return next((method for method in METHODS.values() if method.peft_type == peft_type), None)
