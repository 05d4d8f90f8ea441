"""What a text's label may be: one class, several, or a number. Each has its targets, loss, metrics and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from multigraft_adapters.manifest import Activation, ProblemType
from multigraft_training.evaluate import classification_metrics, multi_label_metrics, regression_metrics
from multigraft_training.fields import Label


class Problem(Protocol):
    """One problem type of transformers'. Logits are (rows, labels) in fp32, targets (rows, targets of a row)."""

    @property
    def name(self) -> ProblemType: ...

    @property
    def activation(self) -> Activation: ...

    def targets(self, label: Label) -> list[int] | list[float]:
        """What a row learns."""
        ...

    def losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        """The loss of each row, (rows,), with its label smoothed; classes are targets of (rows,) here."""
        ...

    def metrics(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """The metrics of a split."""
        ...

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What the best epoch has most of."""
        ...

    def majority(self, targets: Tensor) -> Tensor:
        """The logits (labels,) that fit targets (rows, targets of a row) best, whatever a row says."""
        ...


@dataclass(frozen=True, slots=True)
class SingleLabel:
    """One class of several, by its id: cross entropy. See Problem."""

    ids: Mapping[str, int]
    name: ProblemType = "single_label_classification"
    activation: Activation = "softmax"

    def targets(self, label: Label) -> list[int] | list[float]:
        assert isinstance(label, str)
        return [self.ids[label]]

    def losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return functional.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)

    def metrics(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        return classification_metrics(logits, targets[:, 0])

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (metrics["accuracy"], -metrics["loss"])

    def majority(self, targets: Tensor) -> Tensor:
        return torch.bincount(targets[:, 0], minlength=len(self.ids)).float().log()


@dataclass(frozen=True, slots=True)
class MultiLabel:
    """Any number of classes, each yes or no: binary cross entropy. See Problem."""

    labels: Sequence[str]
    name: ProblemType = "multi_label_classification"
    activation: Activation = "sigmoid"

    def targets(self, label: Label) -> list[int] | list[float]:
        assert isinstance(label, tuple)
        return [float(one in label) for one in self.labels]

    def losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        smoothed = targets * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none").sum(dim=1)

    def metrics(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        return multi_label_metrics(logits, targets)

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (metrics["micro_f1"], -metrics["loss"])

    def majority(self, targets: Tensor) -> Tensor:
        return targets.mean(dim=0).logit()


@dataclass(frozen=True, slots=True)
class Regression:
    """A number: mean squared error. See Problem."""

    name: ProblemType = "regression"
    activation: Activation = "none"

    def targets(self, label: Label) -> list[int] | list[float]:
        assert isinstance(label, float)
        return [label]

    def losses(self, logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
        return functional.mse_loss(logits, targets, reduction="none").sum(dim=1)

    def metrics(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        return regression_metrics(logits[:, 0], targets[:, 0])

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return (-metrics["loss"],)

    def majority(self, targets: Tensor) -> Tensor:
        return targets.mean(dim=0)


def problem_of(name: ProblemType, labels: Sequence[str]) -> Problem:
    """The problem of a type."""
    if name == "single_label_classification":
        return SingleLabel({label: index for index, label in enumerate(labels)})
    return MultiLabel(labels) if name == "multi_label_classification" else Regression()
