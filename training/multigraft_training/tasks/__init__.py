"""What a task type means to training: encoding, model, loss, metrics, samples. One module per task type."""

from __future__ import annotations

from multigraft_training.recipe import RecipeTaskType
from multigraft_training.tasks.classification import ClassificationTask
from multigraft_training.tasks.generation import GenerationTask
from multigraft_training.tasks.task import Scores, ScoringTask, TaskSetup, TrainingTask

__all__ = ["Scores", "ScoringTask", "TaskSetup", "TrainingTask", "make_task"]


def make_task(task_type: RecipeTaskType, setup: TaskSetup) -> TrainingTask:
    """The task of a type. Raises UnsupportedBaseError when the base's family cannot do it."""
    if task_type == "text-classification":
        return ClassificationTask(setup)
    return GenerationTask(setup)
