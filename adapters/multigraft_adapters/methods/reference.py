"""The methods' mathematics on a whole backbone, a sequence at a time: what faster forms are tested against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class ModuleDelta(Protocol):
    """A delta at linear modules of the backbone, by path."""

    @property
    def modules(self) -> Mapping[str, Any]: ...

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """What the module at `path` computes with the delta: x (..., in) -> (..., out)."""
        ...


@contextmanager
def applied(backbone: nn.Module, delta: object) -> Iterator[None]:
    """Let a bare, unwrapped backbone compute with a delta at its modules; a delta that changes more than what the
    modules compute has a method `attach` of its own.

    Raises TypeError for a delta of another kind: virtual tokens are part of the input.
    """
    if not isinstance(delta, ModuleDelta):
        raise TypeError(f"{type(delta).__name__} is not a delta at modules")
    attach = getattr(delta, "attach", None)
    hooks = attach(backbone) if attach is not None else _attach(backbone, delta)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attach(backbone: nn.Module, delta: ModuleDelta) -> list[Any]:
    return [backbone.get_submodule(path).register_forward_hook(_replacing(delta, path)) for path in delta.modules]


def _replacing(delta: ModuleDelta, path: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return delta.forward(path, module, inputs[0])

    return hook
