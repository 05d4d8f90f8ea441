"""Labelled examples and the task's own loss."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from multigraft_training.batches import Batch, Encoded
from multigraft_training.objectives.losses import TaskLoss
from multigraft_training.objectives.objective import Batches, Learner, Moment, ObjectiveSetup, Stage
from multigraft_training.tasks import TrainingTask

Loss = Callable[[Any, Batch, Moment], Tensor]
"""The loss of a model on a micro-batch, summed over its targets."""


@dataclass(slots=True)
class SupervisedStage:
    """A loss on the train split, and the task's metrics on the validation split.
    See Stage."""

    task: TrainingTask
    objective_loss: Loss
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    epochs: int
    name: str = ""
    extra: Sequence[Parameter] = ()

    def groups(self, chooser: random.Random) -> list[list[int]]:
        return [list(range(len(self.train)))]

    def loss(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        return self.objective_loss(model, batch, moment)

    def evaluate(self, model: Any, batches: Batches) -> dict[str, float]:
        return self.task.evaluate(model, batches(self.validation))

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return self.task.score(metrics)


class SupervisedObjective:
    """One stage on the labelled examples. See Objective."""

    num_stages = 1

    def __init__(self, setup: ObjectiveSetup) -> None:
        epochs = setup.recipe.training.epochs
        self._stage = SupervisedStage(setup.task, TaskLoss(setup), setup.train, setup.validation, epochs)

    def begin(self, number: int, learner: Learner) -> None:
        """Nothing of the model is needed."""

    def stage(self, number: int) -> Stage:
        return self._stage

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing was found out."""
