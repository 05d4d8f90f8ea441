"""Distillation: a teacher's answers, softened, beside the labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from multigraft_adapters.manifest import ProblemType
from multigraft_training.batches import IGNORED, Batch, Encoded
from multigraft_training.examples import TextExample
from multigraft_training.objectives.losses import TaskLoss
from multigraft_training.objectives.objective import Moment, ObjectiveSetup
from multigraft_training.objectives.supervised import SupervisedObjective
from multigraft_training.objectives.teacher import classifying_teacher, writing_teacher
from multigraft_training.objectives.unlabelled import any_label, encode_unlabelled, labelled
from multigraft_training.recipe_objectives import DistillationPart
from multigraft_training.tasks.classification import ClassificationTask
from multigraft_training.tasks.generation import GenerationTask


class DistillationObjective(SupervisedObjective):
    """One stage whose loss is `(1 - alpha) supervised + alpha soft`. See Objective.

    A classification's teacher answers every text once; the loss of the unlabelled ones has the soft part only. A
    generation's teacher answers every micro-batch.
    """

    def __init__(self, setup: ObjectiveSetup) -> None:
        super().__init__(setup)
        part, task = setup.recipe.objective, setup.task
        assert isinstance(part, DistillationPart)
        if part.mixup:
            raise setup.source.error("objective.mixup", "a mixed text has no answer of the teacher's")
        if isinstance(task, ClassificationTask) and task.task_type == "text-classification":
            self._stage.train = _softened(setup, task, part)
            self._stage.objective_loss = ClassificationLoss(setup, task, part)
        elif isinstance(task, GenerationTask):
            if setup.dataset.unlabelled:
                raise setup.source.error("data.unlabelled", "distillation reads it for text-classification only")
            self._stage.objective_loss = GenerationLoss(setup, task, part)
        else:
            raise setup.source.error("objective.name", f"distillation is not for {setup.recipe.task.type}")


class ClassificationLoss:
    """The supervised loss, and the distance from the teacher's answers that the batch holds."""

    def __init__(self, setup: ObjectiveSetup, task: ClassificationTask, part: DistillationPart) -> None:
        self._task = task
        self._part = part
        self._supervised = TaskLoss(setup)

    def __call__(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        assert batch.soft is not None
        scores = self._task.scores(model, batch)
        hard = self._supervised.of_scores(self._task, scores, batch)
        soft = soft_losses(scores.logits, batch.soft, self._part.temperature, self._task.problem.name).sum()
        return (1 - self._part.alpha) * hard + self._part.alpha * soft


class GenerationLoss:
    """The supervised loss, and the distance from the teacher's answers at every token that is learnt."""

    def __init__(self, setup: ObjectiveSetup, task: GenerationTask, part: DistillationPart) -> None:
        self._task = task
        self._part = part
        self._supervised = TaskLoss(setup)
        self._teacher = writing_teacher(part.teacher, setup)

    def __call__(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        scores = self._task.scores(model, batch)
        hard = self._supervised.of_scores(self._task, scores, batch)
        length = batch.targets.shape[1]
        with torch.no_grad():
            # NOTE: virtual tokens of the teacher's come before the text's.
            logits = self._teacher(**batch.inputs(), use_cache=False).logits[:, -length:-1]
        answers = logits[batch.targets[:, 1:] != IGNORED].float()
        soft = soft_losses(scores.logits, answers, self._part.temperature).sum()
        return (1 - self._part.alpha) * hard + self._part.alpha * soft


def soft_losses(
    logits: Tensor, answers: Tensor, temperature: float, problem: ProblemType = "single_label_classification"
) -> Tensor:
    """`T^2 KL(softmax(answers / T) || softmax(logits / T))` of each row of (rows, classes): (rows,), fp32.

    Hinton et al. 2015, 1503.02531; the factor keeps the gradient's size whatever T is. Of yes-or-no labels it is
    the sum of each one's `T^2 KL` between two Bernoulli distributions, of numbers the squared difference.
    """
    if problem == "regression":
        return (logits - answers).square().sum(dim=-1)
    if problem == "multi_label_classification":
        # A Bernoulli distribution is a softmax over its logit and 0.
        logits, answers = (torch.stack([one, torch.zeros_like(one)], dim=-1) for one in (logits, answers))
    own, taught = ((one / temperature).log_softmax(dim=-1) for one in (logits, answers))
    losses = functional.kl_div(own, taught, reduction="none", log_target=True).sum(dim=-1)
    return temperature**2 * (losses.sum(dim=-1) if losses.dim() > 1 else losses)


def _softened(setup: ObjectiveSetup, task: ClassificationTask, part: DistillationPart) -> list[Encoded]:
    """The texts with the teacher's answers; unlabelled ones have no weight beside them."""
    teacher = classifying_teacher(part.teacher, setup, task)
    unlabelled = (
        [replace(one, weight=0.0) for one in encode_unlabelled(setup, task)] if setup.dataset.unlabelled else []
    )
    texts = [one for one in setup.examples if isinstance(one, TextExample)]
    texts += [labelled(text, any_label(task)) for text in setup.dataset.unlabelled]
    answers = teacher.logits(texts, task.labels, setup.recipe.training.micro_batch_tokens)
    encoded = [*setup.train, *unlabelled]
    return [replace(one, soft=tuple(row)) for one, row in zip(encoded, answers.tolist(), strict=True)]
