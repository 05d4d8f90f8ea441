"""Several tasks in turn, each with a head of its own, on one delta."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from torch import Tensor
from torch.nn import Parameter

from multigraft_training.batches import Batch, Encoded
from multigraft_training.objectives.losses import TaskLoss
from multigraft_training.objectives.objective import Batches, Moment, ObjectiveSetup, Stage
from multigraft_training.objectives.supervised import SupervisedObjective
from multigraft_training.recipe_methods import FullPart, HeadPart
from multigraft_training.recipe_objectives import MultiTaskPart


class MultiTaskObjective(SupervisedObjective):
    """One stage whose steps are each of one task. See Objective.

    Caruana 1997, "Multitask learning"; the temperature as in Raffel et al. 2020 (T5), 1910.10683, section 3.5.2.
    """

    def __init__(self, setup: ObjectiveSetup) -> None:
        if isinstance(setup.recipe.method, HeadPart | FullPart):
            name = setup.recipe.method.name
            raise setup.source.error(
                "method.name", f"multi-task shares a delta between tasks, and {name} has none"
            )
        self._of_tasks = MultiTaskStage((setup, *setup.others))

    def stage(self, number: int) -> Stage:
        return self._of_tasks


class MultiTaskStage:
    """The tasks' examples, drawn by the recipe's sampling. Metrics are `<task>.<metric>`; the best epoch has the
    highest mean of what each task counts first. See Stage."""

    name = ""
    extra: Sequence[Parameter] = ()

    def __init__(self, setups: Sequence[ObjectiveSetup]) -> None:
        self._setups = setups
        self._names = [setup.recipe.task.name for setup in setups]
        self._losses = [TaskLoss(setup) for setup in setups]
        self.epochs = setups[0].recipe.training.epochs
        self.train: Sequence[Encoded] = [
            replace(one, task=task) for task, setup in enumerate(setups) for one in setup.train
        ]

    def groups(self, chooser: random.Random) -> list[list[int]]:
        """Each task's examples: as many as its share of an epoch says, some of them again or left out."""
        sizes = [len(setup.train) for setup in self._setups]
        groups, start = [], 0
        for size, wanted in zip(sizes, self._drawn(sizes), strict=True):
            own = range(start, start + size)
            groups.append([*list(own) * (wanted // size), *chooser.sample(own, wanted % size)])
            start += size
        return groups

    def loss(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        task = batch.examples[0].task
        return self._losses[task](model.models[task], batch, moment)

    def evaluate(self, model: Any, batches: Batches) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, setup, own in zip(self._names, self._setups, model.models, strict=True):
            found = setup.task.evaluate(own, batches(setup.validation))
            metrics |= {f"{name}.{metric}": value for metric, value in found.items()}
        return metrics

    def score(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        of_tasks = [
            setup.task.score(metrics_of(name, metrics))
            for name, setup in zip(self._names, self._setups, strict=True)
        ]
        losses = [metrics[f"{name}.loss"] for name in self._names]
        return (fmean(score[0] for score in of_tasks), -fmean(losses))

    def _drawn(self, sizes: Sequence[int]) -> list[int]:
        """How many examples of each task an epoch has, at least one."""
        part = self._setups[0].recipe.objective
        assert isinstance(part, MultiTaskPart)
        weights = {
            "proportional": sizes,
            "temperature": [size ** (1 / part.temperature) for size in sizes],
            "weights": [part.weight, *(task.weight for task in part.tasks.values())],
        }[part.sampling]
        return [max(1, round(sum(sizes) * weight / sum(weights))) for weight in weights]


def metrics_of(task: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """One task's own of the metrics of several."""
    prefix = f"{task}."
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
