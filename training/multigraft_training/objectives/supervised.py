"""Labelled examples and the task's own loss."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from multigraft_training.batches import Batch, Encoded
from multigraft_training.objectives.objective import Batches, Learner, Moment, ObjectiveSetup, Stage
from multigraft_training.tasks import TrainingTask


@dataclass(slots=True)
class SupervisedStage:
    """The task's own loss, and its metrics on the validation split. See Stage."""

    task: TrainingTask
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    epochs: int
    name: str = ""
    extra: Sequence[Parameter] = ()

    def groups(self, chooser: random.Random) -> list[list[int]]:
        return [list(range(len(self.train)))]

    def loss(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        return self.task.loss(model, batch)

    def evaluate(self, model: Any, batches: Batches) -> dict[str, float]:
        return self.task.evaluate(model, batches(self.validation))

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        return self.task.score(metrics)


class SupervisedObjective:
    """One stage on the labelled examples. See Objective."""

    num_stages = 1

    def __init__(self, setup: ObjectiveSetup) -> None:
        epochs = setup.recipe.training.epochs
        self._stage = SupervisedStage(setup.task, setup.train, setup.validation, epochs)

    def begin(self, number: int, learner: Learner) -> None:
        """Nothing of the model is needed."""

    def stage(self, number: int) -> Stage:
        return self._stage

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing was found out."""
