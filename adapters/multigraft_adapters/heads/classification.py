"""The classification head: one linear layer on a row's pooled state, and the scores of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.heads.head import check_shapes, refuse_fields
from multigraft_adapters.manifest import HeadSpec, Pooling
from multigraft_adapters.tensors_file import PEFT_PREFIX

LABELS_HINT = (
    'give id2label in task.json, or in the part "task" of the upload, as {"id2label": {"0": "first label", ...}}'
)

Activation = Literal["softmax", "sigmoid", "none"]
ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid", "none")


class LabelScore(TypedDict):
    """One label of a classified input."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class LinearHead:
    """logits = states W^T + b, computed in fp32."""

    spec: HeadSpec
    weight: Tensor  # (labels, hidden), fp32
    bias: Tensor | None  # (labels,), fp32

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def to(self, device: torch.device | str) -> LinearHead:
        return LinearHead(self.spec, self.weight.to(device), None if self.bias is None else self.bias.to(device))

    def forward(self, states: Tensor) -> Tensor:
        """Pooled states (rows, hidden) to logits (rows, labels), fp32."""
        return torch.nn.functional.linear(states.float(), self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the task models of one family classify: the module's name, its bias, the state that it reads."""

    module: str
    has_bias: bool
    pooling: Pooling


LAYOUTS = {
    "encoder": _Layout(module="classifier", has_bias=True, pooling="pooler"),
    "decoder": _Layout(module="score", has_bias=False, pooling="last"),
}


def read_classification(
    wanted: HeadSpec,
    id2label: Mapping[int, str] | None,
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    problems: list[str],
) -> LinearHead | None:
    """Read the head of `transformers`' sequence classification models; see `HeadKind.read`."""
    found: list[str] = []
    layout = LAYOUTS[spec.family]
    if layout.pooling == "pooler" and not spec.has_pooler:
        found.append("a classification adapter of an encoder reads its pooler, and this base has none")
    if wanted.pooling not in (None, layout.pooling):
        found.append(f"head.pooling: a classification head of this base reads {layout.pooling!r}")
    refuse_fields(wanted, ("normalize",), found)
    parts = _take_parts(layout, tensors, spec, found)
    check_shapes(wanted, {name: list(tensor.shape) for name, tensor in parts.items()}, found)
    if "weight" in parts:
        _check_labels(parts["weight"], id2label, wanted, found)
    problems += found
    if found:
        return None
    completed = HeadSpec(
        kind=wanted.kind,
        pooling=layout.pooling,
        activation=wanted.activation or "softmax",
        shapes={name: list(tensor.shape) for name, tensor in parts.items()},
    )
    return LinearHead(completed, parts["weight"], parts.get("bias"))


def decode_classification(
    logits: np.ndarray[Any, np.dtype[np.float32]],
    id2label: Mapping[int, str],
    activation: Activation | None,
    *,
    function_to_apply: str | None = None,
    top_k: int | None = None,
) -> list[LabelScore]:
    """The labels' scores of one row's logits (labels,), best first.

    `function_to_apply` overrides the head's activation; `top_k` None is all labels. Raises InvalidRequestError.
    """
    function = function_to_apply or activation or "softmax"
    if function not in ACTIVATIONS:
        names = ", ".join(ACTIVATIONS)
        raise InvalidRequestError(
            f"function_to_apply must be one of {names}, not {function!r}", param="parameters.function_to_apply"
        )
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise InvalidRequestError("top_k must be a whole number above 0", param="parameters.top_k")
    scores = _activate(logits.astype(np.float64), function)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_k]
    return [{"label": id2label[index], "score": scores[index]} for index in order]


def _take_parts(
    layout: _Layout, tensors: dict[str, Tensor], spec: BaseSpec, found: list[str]
) -> dict[str, Tensor]:
    """The head's tensors in fp32, taken out of `tensors`; what is missing or has a wrong shape is a problem."""
    parts: dict[str, Tensor] = {}
    for part in ("weight", "bias") if layout.has_bias else ("weight",):
        name = f"{PEFT_PREFIX}{layout.module}.{part}"
        tensor = tensors.pop(name, None)
        if tensor is None:
            found.append(f"the head is missing: no tensor {name!r}")
        else:
            parts[part] = tensor.float()
    weight, bias = parts.get("weight"), parts.get("bias")
    if weight is not None and (weight.dim() != 2 or weight.shape[1] != spec.hidden_size):
        found.append(f"the head's weight has shape {list(weight.shape)}, not [labels, {spec.hidden_size}]")
    if weight is not None and bias is not None and bias.shape != weight.shape[:1]:
        found.append(f"the head's bias has shape {list(bias.shape)}, its weight {list(weight.shape)}")
    return parts


def _check_labels(weight: Tensor, id2label: Mapping[int, str] | None, wanted: HeadSpec, found: list[str]) -> None:
    rows = weight.shape[0] if weight.dim() else 0
    if not id2label:
        found.append(f"the head has {rows} labels without names: {LABELS_HINT}")
    elif len(id2label) != rows:
        found.append(f"the head has {rows} labels, id2label has {len(id2label)}")
    if rows == 1 and wanted.activation is None:
        found.append('head.activation: with one label, say "sigmoid" (a probability) or "none" (a number)')


def _activate(logits: np.ndarray[Any, np.dtype[np.float64]], function: str) -> Sequence[float]:
    if function == "none":
        scores = logits
    elif function == "sigmoid":
        scores = np.exp(-np.logaddexp(0.0, -logits))
    else:
        exponentials = np.exp(logits - logits.max())
        scores = exponentials / exponentials.sum()
    return [float(score) for score in scores]
