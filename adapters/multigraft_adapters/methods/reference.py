"""The methods' mathematics on a whole backbone, a sequence at a time: what faster forms are tested against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from multigraft_adapters.bases.spec import OUTPUT_HEAD
from multigraft_adapters.methods.prefix import PrefixDelta
from multigraft_adapters.methods.prompt import PromptDelta


@runtime_checkable
class ModuleDelta(Protocol):
    """A delta at modules of the backbone, by path, and at the output head."""

    @property
    def modules(self) -> Mapping[str, Any]: ...

    def forward(self, path: str, module: nn.Module, x: Tensor) -> Tensor:
        """What the module at `path` computes with the delta: x (..., in) -> (..., out)."""
        ...


@contextmanager
def applied(backbone: nn.Module, delta: object, lm_head: nn.Module | None = None) -> Iterator[None]:
    """Let a bare, unwrapped backbone compute with a delta at its modules, and its output head where it is given.

    A delta that changes more than what the modules compute has a method `attach` of its own.

    Raises TypeError for a delta of another kind: virtual tokens are part of the input, which `compute` knows.
    """
    if not isinstance(delta, ModuleDelta):
        raise TypeError(f"{type(delta).__name__} is not a delta at modules")
    attach = getattr(delta, "attach", None)
    hooks = attach(backbone) if attach is not None else _attach(backbone, delta, lm_head)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def compute(backbone: nn.Module, delta: object, inputs: Mapping[str, Tensor]) -> Any:
    """What a bare backbone answers with a delta of any method: transformers' output object.

    `inputs` are those of one sequence without padding, each (1, tokens): input_ids, and token_type_ids where the
    backbone takes them; or pixel_values (1, channels, height, width). With prompt tuning the states are also those
    of the virtual tokens, before the others.
    """
    if "pixel_values" in inputs:
        with applied(backbone, delta):
            return backbone(pixel_values=inputs["pixel_values"])
    ids = inputs["input_ids"]
    given: dict[str, Any] = {name: inputs[name] for name in ("input_ids", "token_type_ids") if name in inputs}
    if isinstance(delta, PromptDelta):
        given = _with_prompt(backbone, delta, given)
    elif isinstance(delta, PrefixDelta):
        given["past_key_values"] = _prefix_cache(backbone, delta, ids.device)
    else:
        with applied(backbone, delta):
            return backbone(**given, attention_mask=torch.ones_like(ids))
    count = len(delta.embeddings if isinstance(delta, PromptDelta) else delta.states)
    return backbone(**given, attention_mask=ids.new_ones(1, count + ids.shape[1]))


def _with_prompt(backbone: nn.Module, delta: PromptDelta, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    embed = cast(Any, backbone).get_input_embeddings()
    inputs = {"inputs_embeds": delta.before(embed(given["input_ids"])[0])[None]}
    if "token_type_ids" in given:
        inputs["token_type_ids"] = nn.functional.pad(given["token_type_ids"], (len(delta.embeddings), 0))
    return inputs


def _prefix_cache(backbone: nn.Module, delta: PrefixDelta, device: torch.device) -> DynamicCache:
    dtype = next(backbone.parameters()).dtype
    keys, values = delta.keys_and_values().to(device, dtype)
    return DynamicCache([(key[None], value[None]) for key, value in zip(keys, values, strict=True)])


def _attach(backbone: nn.Module, delta: ModuleDelta, lm_head: nn.Module | None) -> list[Any]:
    modules = {path: backbone.get_submodule(path) for path in delta.modules if path != OUTPUT_HEAD}
    if lm_head is not None and OUTPUT_HEAD in delta.modules:
        modules[OUTPUT_HEAD] = lm_head
    return [module.register_forward_hook(_replacing(delta, path)) for path, module in modules.items()]


def _replacing(delta: ModuleDelta, path: str) -> Any:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return delta.forward(path, module, inputs[0])

    return hook
