"""The seam between the trainer, which knows no objective, and the objectives, which know no loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from torch.nn import Parameter

from multigraft_adapters.bases import BaseSpec
from multigraft_training.batches import Batch, Encoded
from multigraft_training.data import Dataset
from multigraft_training.examples import Example
from multigraft_training.recipe import Recipe, RecipeSource
from multigraft_training.report import Report
from multigraft_training.tasks import TrainingTask

Batches = Callable[[Sequence[Encoded]], list[Batch]]
"""Examples as the batches that an evaluation takes them in."""


@dataclass(frozen=True, slots=True)
class ObjectiveSetup:
    """What an objective is made from: the run's choices, its data, and `encode`, which makes tokens of further
    examples and tells, under a name, how many were cut. `examples` are what `train` was made of; `others` are the
    further tasks of several."""

    recipe: Recipe
    source: RecipeSource
    spec: BaseSpec
    folder: Path
    data_dir: Path
    task: TrainingTask
    dataset: Dataset
    examples: Sequence[Example]
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    encode: Callable[[str, Sequence[Example]], list[Encoded]]
    report: Report
    others: Sequence[ObjectiveSetup] = ()


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in a stage a micro-batch stands: the step of `num_steps`, both over all epochs, and its place in it.

    All that is drawn at random for a micro-batch comes from `chooser`, so that a resumed training draws the same.
    """

    seed: int
    step: int
    micro: int
    num_steps: int

    @property
    def progress(self) -> float:
        """The share of the stage that is behind, from 0 to below 1."""
        return self.step / self.num_steps

    def chooser(self) -> random.Random:
        """A generator of this moment's own."""
        return random.Random(f"{self.seed}/{self.step}/{self.micro}")


class Stage(Protocol):
    """One training of the model by the loop, with its own data, loss and best epoch.

    `extra` are parameters, beside the model's own, that are trained in it.
    """

    name: str
    train: Sequence[Encoded]
    epochs: int
    extra: Sequence[Parameter]

    def groups(self, chooser: random.Random) -> list[list[int]]:
        """The examples of one epoch by index, drawn by `chooser`; those of one step come from one group."""
        ...

    def loss(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        """The loss on a micro-batch, summed over the batch's targets, fp32."""
        ...

    def evaluate(self, model: Any, batches: Batches) -> dict[str, float]:
        """The metrics of an epoch, of the model as it is."""
        ...

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """What the best epoch has most of."""
        ...


class Learner(Protocol):
    """What an objective sees of the trainer when a stage begins: `model` is the one that is trained."""

    model: Any

    def each(self, examples: Sequence[Encoded], compute: Callable[[Batch], Tensor]) -> Tensor:
        """What `compute` gives for the examples' batches in evaluation, (examples, ...) in their order."""
        ...


class Objective(Protocol):
    """What a run learns: one stage after the other, the last one's best epoch being the result.

    `begin` may look at the model; all that it finds out is in `state_dict`, so that after `load_state_dict` the
    stage is the same without it. What is drawn at random in a stage depends on its Moment alone.
    """

    num_stages: int

    def begin(self, number: int, learner: Learner) -> None:
        """Prepare a stage; the model is as the stage before left it."""
        ...

    def stage(self, number: int) -> Stage:
        """A stage that has begun."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What `begin` found out and what the stages have learnt beside the model: tensors and plain values."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        ...
