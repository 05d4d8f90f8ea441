"""The heads that classify texts or images: linear on a row's pooled state, and the scores of their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np
from torch import Tensor

from multigraft_adapters.bases.spec import BaseSpec
from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.heads.labels import check_labels
from multigraft_adapters.heads.linear import LinearHead, read_linear
from multigraft_adapters.manifest import Activation, HeadSpec, TaskType

ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid", "none")

ONE_LABEL = (
    'head.activation: with one label, say "sigmoid" (a probability) or "none" (a number), or give problem_type '
    '"regression"'
)


class LabelScore(TypedDict):
    """One label of a classified input."""

    label: str
    score: float


def read_classification(
    task_type: TaskType,
    wanted: HeadSpec,
    id2label: Mapping[int, str] | None,
    tensors: dict[str, Tensor],
    spec: BaseSpec,
    problems: list[str],
) -> LinearHead | None:
    """Read the head of `transformers`' classification models of one task type; see `HeadKind.read`."""

    def check_outputs(outputs: int, found: list[str]) -> None:
        check_labels(id2label, outputs, found)
        if outputs == 1 and wanted.activation is None:
            found.append(ONE_LABEL)

    head = read_linear(task_type, wanted, tensors, spec, check_outputs, problems)
    if head is None:
        return None
    return replace(head, spec=head.spec.model_copy(update={"activation": wanted.activation or "softmax"}))


def decode_classification(
    logits: np.ndarray[Any, np.dtype[np.float32]],
    id2label: Mapping[int, str],
    activation: Activation | None,
    *,
    function_to_apply: str | None = None,
    top_k: int | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> list[LabelScore]:
    """The labels' scores of one row's logits (labels,), best first.

    `function_to_apply` overrides the head's activation; `top_k` None is all labels. A label whose score does not
    reach its threshold in `thresholds` is left out. Raises InvalidRequestError.
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
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    best: list[LabelScore] = [{"label": id2label[index], "score": scores[index]} for index in order]
    least = thresholds or {}
    return [one for one in best if one["label"] not in least or one["score"] >= least[one["label"]]][:top_k]


def _activate(logits: np.ndarray[Any, np.dtype[np.float64]], function: str) -> Sequence[float]:
    if function == "none":
        scores = logits
    elif function == "sigmoid":
        scores = np.exp(-np.logaddexp(0.0, -logits))
    else:
        exponentials = np.exp(logits - logits.max())
        scores = exponentials / exponentials.sum()
    return [float(score) for score in scores]
