"""What a task type means to training: encoding, model, loss, metrics, samples. One module per task type."""

from __future__ import annotations

from collections.abc import Callable

from multigraft_training.recipe import RecipeTaskType
from multigraft_training.tasks.classification import ClassificationTask
from multigraft_training.tasks.embedding import EmbeddingTask
from multigraft_training.tasks.generation import GenerationTask
from multigraft_training.tasks.images import ImagesTask
from multigraft_training.tasks.spans import SpansTask
from multigraft_training.tasks.task import Scores, ScoringTask, TaskSetup, TrainingTask
from multigraft_training.tasks.tokens import TokensTask

__all__ = ["Scores", "ScoringTask", "TaskSetup", "TrainingTask", "make_task"]

_TASKS: dict[RecipeTaskType, Callable[[TaskSetup], TrainingTask]] = {
    "text-classification": ClassificationTask,
    "token-classification": TokensTask,
    "question-answering": SpansTask,
    "feature-extraction": EmbeddingTask,
    "text-generation": GenerationTask,
    "image-classification": ImagesTask,
}


def make_task(task_type: RecipeTaskType, setup: TaskSetup) -> TrainingTask:
    """The task of a type. Raises UnsupportedBaseError when the base's family cannot do it."""
    return _TASKS[task_type](setup)
