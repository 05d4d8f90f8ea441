"""The linear head: what transformers' task models put on a state, read from the tensors that PEFT saves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.activations import ACT2FN

from multigraft_adapters.bases.spec import BaseSpec, HeadLayout, HiddenLayer
from multigraft_adapters.heads.head import check_shapes, refuse_fields
from multigraft_adapters.manifest import HeadSpec, TaskType
from multigraft_adapters.tensors_file import PEFT_PREFIX

PROMPT_PREFIX = "base_model."
"""What PEFT puts before the path of a head that it saves with prompt learning."""


@dataclass(frozen=True, slots=True)
class HiddenWeights:
    """norm(activation(x W^T + b)); `layout` says which of these there are."""

    layout: HiddenLayer
    weight: Tensor  # (hidden, hidden), fp32
    bias: Tensor | None = None  # (hidden,), fp32
    norm_weight: Tensor | None = None  # (hidden,), fp32
    norm_bias: Tensor | None = None  # (hidden,), fp32

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._tensors() if tensor is not None)

    def to(self, device: torch.device | str) -> HiddenWeights:
        moved = (None if tensor is None else tensor.to(device) for tensor in self._tensors()[1:])
        return HiddenWeights(self.layout, self.weight.to(device), *moved)

    def forward(self, states: Tensor) -> Tensor:
        """States (rows, hidden) to states of the same shape, fp32."""
        hidden: Tensor = ACT2FN[self.layout.activation](torch.nn.functional.linear(states, self.weight, self.bias))
        norm = self.layout.norm
        if norm is None:
            return hidden
        return torch.nn.functional.layer_norm(
            hidden, hidden.shape[-1:], self.norm_weight, self.norm_bias, norm.eps
        )

    def _tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        return self.weight, self.bias, self.norm_weight, self.norm_bias


@dataclass(frozen=True, slots=True)
class LinearHead:
    """logits = h W^T + b, where h is the state, or what `hidden` makes of it. Computed in fp32."""

    spec: HeadSpec
    weight: Tensor  # (labels, hidden), fp32
    bias: Tensor | None = None  # (labels,), fp32
    hidden: HiddenWeights | None = None

    @property
    def nbytes(self) -> int:
        own = self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)
        return own + (0 if self.hidden is None else self.hidden.nbytes)

    def to(self, device: torch.device | str) -> LinearHead:
        return LinearHead(
            self.spec,
            self.weight.to(device),
            None if self.bias is None else self.bias.to(device),
            None if self.hidden is None else self.hidden.to(device),
        )

    def forward(self, states: Tensor) -> Tensor:
        """States of rows or of tokens (rows, hidden) to logits (rows, labels), fp32."""
        states = states.float()
        if self.hidden is not None:
            states = self.hidden.forward(states)
        return torch.nn.functional.linear(states, self.weight, self.bias)


def read_linear(
    task_type: TaskType,
    wanted: HeadSpec,
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    check_outputs: Callable[[int, list[str]], None],
    problems: list[str],
) -> LinearHead | None:
    """The head of `transformers`' task model of this type, its spec complete but for the activation.

    Takes its tensors out of `tensors`; None, with every problem noted, unless all are there and fit, and
    `check_outputs` has nothing against how many outputs it has.
    """
    layout = spec.heads.get(task_type)
    if layout is None:
        problems.append(f"transformers has no {task_type} model of type {spec.model_type!r}")
        return None
    layout = layout.of(wanted.pooling, _paths_in(tensors))
    found: list[str] = []
    if layout.pooling == "pooler" and not spec.has_pooler:
        found.append("a classification adapter of this base reads its pooler, and this base has none")
    if wanted.pooling not in (None, layout.pooling):
        found.append(_wrong_pooling(wanted, layout))
    refuse_fields(wanted, ("normalize",), found)
    parts = _take_parts(layout, tensors, spec, found)
    found += _shape_problems(parts, spec.hidden_size)
    shapes = {part: list(tensor.shape) for part, tensor in parts.items()}
    check_shapes(wanted, shapes, found)
    if "weight" in parts and parts["weight"].dim():
        check_outputs(parts["weight"].shape[0], found)
    problems += found
    if found:
        return None
    completed = wanted.model_copy(update={"pooling": layout.pooling, "shapes": shapes})
    return LinearHead(completed, parts["weight"], parts.get("bias"), _hidden(layout, parts))


def _paths_in(tensors: Mapping[str, Tensor]) -> set[str]:
    """The tensors' paths in the task model."""
    return {name.removeprefix(prefix) for name in tensors for prefix in (PEFT_PREFIX, PROMPT_PREFIX)}


def _take_parts(
    layout: HeadLayout, tensors: dict[str, Tensor], spec: BaseSpec, found: list[str]
) -> dict[str, Tensor]:
    """The head's tensors by part, in fp32; those before the output may be the base's own."""
    parts: dict[str, Tensor] = {}
    for part, path in (layout.output_tensors | layout.hidden_tensors).items():
        names = (PEFT_PREFIX + path, PROMPT_PREFIX + path)
        given = [tensors.pop(name) for name in names if name in tensors]
        if not given and part in layout.hidden_tensors and path in spec.head_tensors:
            given = [spec.head_tensors[path]]
        if len(given) == 1:
            parts[part] = given[0].float()
        else:
            found.append(_absent(part, path) if not given else f"the head has both {names[0]!r} and {names[1]!r}")
    return parts


def _absent(part: str, path: str) -> str:
    also = "" if part in ("weight", "bias") else ", and the base's checkpoint has none"
    problem = f"the head is missing: no tensor {PEFT_PREFIX + path!r}{also}"
    return f"{problem}; PEFT saves it where modules_to_save names {path.split('.')[0]!r}"


def _shape_problems(parts: Mapping[str, Tensor], size: int) -> list[str]:
    weight = parts.get("weight")
    labels = weight.shape[0] if weight is not None and weight.dim() else 0
    expected = {"weight": [labels, size], "hidden.weight": [size, size]}
    if weight is not None:
        expected["bias"] = [labels]
    problems = []
    for part, tensor in parts.items():
        shape = expected.get(part, [size] if part != "bias" else list(tensor.shape))
        if list(tensor.shape) != shape or 0 in shape:
            wanted = {"weight": f"[labels, {size}]", "bias": f"[{labels}]"}.get(part, str(shape))
            problems.append(f"the head's {part} has shape {list(tensor.shape)}, not {wanted}")
    return problems


def _wrong_pooling(wanted: HeadSpec, layout: HeadLayout) -> str:
    reads = "every token's state" if layout.pooling is None else f"the state {layout.pooling!r}"
    return f"head.pooling: a head of kind {wanted.kind!r} reads {reads} of this base"


def _hidden(layout: HeadLayout, parts: Mapping[str, Tensor]) -> HiddenWeights | None:
    if layout.hidden is None:
        return None
    return HiddenWeights(
        layout.hidden,
        parts["hidden.weight"],
        parts.get("hidden.bias"),
        parts.get("norm.weight"),
        parts.get("norm.bias"),
    )
