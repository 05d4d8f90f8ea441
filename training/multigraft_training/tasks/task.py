"""The seam between the trainer, which knows no task type, and the task types, which know no loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.manifest import ProblemType, Sample
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_training.batches import Batch, Encoded
from multigraft_training.examples import Example


@dataclass(frozen=True, slots=True)
class TaskSetup:
    """What a task is made from. `problem` is of classifications, `labels` of them and of tags, `prompt` is the
    recipe's system prompt. `tokenizer` is, on a base of images, what turns them into pixels."""

    spec: BaseSpec
    tokenizer: Any
    max_length: int
    labels: tuple[str, ...] = ()
    problem: ProblemType = "single_label_classification"
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """What a model says of a batch's n targets: logits (n, classes) in fp32, beside the targets, (n,) classes or
    (n, classes) numbers, and the rows (n,) of the batch that they are of."""

    logits: Tensor
    targets: Tensor
    rows: Tensor


class TrainingTask(Protocol):
    """One task type on one base.

    `auto_class` and `model_arguments` load the base with the task's head, whose modules `head_modules` names;
    `peft_type` is PEFT's task type, None where PEFT has none.
    """

    auto_class: Any
    head_modules: tuple[str, ...]
    peft_type: str | None

    @property
    def model_arguments(self) -> Mapping[str, Any]: ...

    def encode(self, example: Example) -> Encoded:
        """The example as tokens, cut to the maximum length. Without targets when nothing of them is left.

        An example that is read in several windows is the first of them, which has the others as `more`.
        """
        ...

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The loss of a PEFT model on a batch, summed over the batch's targets, fp32."""
        ...

    def evaluate(self, model: Any, batches: Sequence[Batch]) -> dict[str, float]:
        """The metrics of a split, by name; every one is finite."""
        ...

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What the best epoch has most of."""
        ...

    def majority(self, train: Sequence[Encoded], split: Sequence[Encoded]) -> dict[str, float]:
        """The metrics on a split of the one answer that fits train best, whatever the input; none where no one
        answer could be given to all."""
        ...

    def manifest_fields(self) -> dict[str, Any]:
        """The task's part of the manifest: `task_type` and what belongs to it."""
        ...

    def samples(self, model: Any, examples: Sequence[Example]) -> list[Sample]:
        """A few inputs with the model's answers, chosen among those that are clear-cut: rounding on a server
        that computes in another precision does not turn them.
        """
        ...

    def outputs(self, model: Any, example: Example) -> Tensor:
        """The trained model's raw outputs on one example, (n,) fp32."""
        ...

    def reference_outputs(self, model: Any, adapter: VerifiedAdapter, example: Example) -> Tensor:
        """The same by the reference apply of the adapter's method on the frozen base of `model`, and from the
        adapter's own head, (n,) fp32."""
        ...


@runtime_checkable
class ScoringTask(Protocol):
    """A task whose loss is a sum over targets, each scored on its own: what weights and soft targets need."""

    def scores(self, model: Any, batch: Batch) -> Scores:
        """What a PEFT model says of a batch's targets."""
        ...

    def losses(self, scores: Scores, smoothing: float) -> Tensor:
        """The loss of each target, (n,) fp32, its label smoothed; their sum, unsmoothed, is the task's loss."""
        ...
