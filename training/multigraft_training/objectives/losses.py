"""The loss of a batch with smoothed labels, with weights of classes and rows, and with rows mixed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from multigraft_training.batches import Batch, Encoded
from multigraft_training.objectives.features import features_of, logits_of
from multigraft_training.objectives.objective import Moment, ObjectiveSetup
from multigraft_training.recipe import Recipe, RecipeSource
from multigraft_training.tasks import Scores, ScoringTask, TrainingTask
from multigraft_training.tasks.classification import ClassificationTask


class TaskLoss:
    """The task's loss with what every objective's fields change of it.

    Raises InvalidRecipeError, which names the field, where the data has not what a field needs.
    """

    def __init__(self, setup: ObjectiveSetup) -> None:
        part = setup.recipe.objective
        self._task = setup.task
        self._smoothing = part.label_smoothing
        self._mixup = part.mixup
        if not isinstance(self._task, ScoringTask) and any(example.weight != 1 for example in setup.train):
            kind = setup.recipe.task.type
            raise setup.source.error("task.type", f"{kind} does not weigh rows: take `weight` out of them")
        self._class_weights = _class_weights(setup)

    def __call__(self, model: Any, batch: Batch, moment: Moment) -> Tensor:
        """The loss of a micro-batch, summed over its targets."""
        if self._mixup:
            assert isinstance(self._task, ClassificationTask)
            mixed = mixed_scores(model, self._task, batch, self._mixup, moment)
            return torch.stack(
                [share * self.of_scores(self._task, scores, batch) for share, scores in mixed]
            ).sum()
        if isinstance(self._task, ScoringTask):
            return self.of_scores(self._task, self._task.scores(model, batch), batch)
        return self._task.loss(model, batch)

    def of_scores(self, task: ScoringTask, scores: Scores, batch: Batch) -> Tensor:
        """The loss of a batch that was scored already, without mixup."""
        return weighted_loss(task, scores, batch, self._smoothing, self._class_weights)


def weighted_loss(
    task: ScoringTask, scores: Scores, batch: Batch, smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """`sum_i w_i c_(y_i) l_i` over the targets: the row's weight, the class's weight, the target's loss.

    With labels smoothed by `e` (Szegedy et al. 2016, 1512.00567) a class's target is `1 - e + e / K` for the right
    one of K and `e / K` for the others; of a yes-or-no label, `y (1 - e) + e / 2`. `class_weights` is (classes,).
    """
    losses = task.losses(scores, smoothing)
    if class_weights is not None:
        losses = losses * class_weights.to(losses.device)[scores.targets]
    if batch.weights is not None:
        losses = losses * batch.weights[scores.rows]
    return losses.sum()


def mixed_scores(
    model: Any, task: ClassificationTask, batch: Batch, alpha: float, moment: Moment
) -> list[tuple[float, Scores]]:
    """The scores of a batch whose states are mixed, once for each of both rows' targets, with its share.

    `h = m h_i + (1 - m) h_j` with one `m` of Beta(alpha, alpha) for the batch, j from a random order of its rows;
    the loss is `m l(h, y_i) + (1 - m) l(h, y_j)`. Zhang et al. 2018, 1710.09412, on the states that the head's
    last layer reads, as the sentence form of Guo et al. 2019, 1905.08941.
    """
    chooser = moment.chooser()
    share = chooser.betavariate(alpha, alpha)
    order = list(range(len(batch.input_ids)))
    chooser.shuffle(order)
    features, _ = features_of(model, task, batch)
    others = torch.tensor(order, device=features.device)
    own = task.scores_of(logits_of(model, task, share * features + (1 - share) * features[others]), batch)
    return [(share, own), (1 - share, Scores(own.logits, own.targets[others], others))]


def balanced_weights(targets: Sequence[float], num_classes: int) -> Tensor:
    """`n / (K n_k)` for class k of K, (classes,): every class counts the same, and the mean over the rows is 1.

    King and Zeng 2001, "Logistic regression in rare events data".
    """
    counts = Counter(targets)
    return torch.tensor(
        [len(targets) / (num_classes * counts[k]) if counts[k] else 0.0 for k in range(num_classes)]
    )


def given_weights(weights: Mapping[str, float], labels: Sequence[str]) -> Tensor:
    """The weights of the labels in their order, (classes,); a label without one has 1."""
    return torch.tensor([weights.get(label, 1.0) for label in labels])


def check_fields(recipe: Recipe, source: RecipeSource, task: TrainingTask) -> None:
    """Raises InvalidRecipeError, which names the field, where the task has not what a field needs."""
    part, kind = recipe.objective, recipe.task.type
    problem = task.problem.name if isinstance(task, ClassificationTask) else None
    wrong: dict[str, str] = {}
    if part.label_smoothing and (problem == "regression" or not isinstance(task, ScoringTask)):
        wrong["label_smoothing"] = "there are no classes to smooth"
    if part.class_weights is not None and problem != "single_label_classification":
        wrong["class_weights"] = "is for one class a row"
    if part.mixup and problem is None:
        wrong["mixup"] = f"{kind} has no pooled states to mix"
    if part.head_dropout is not None and problem is None:
        wrong["head_dropout"] = f"{kind} trains no classification head"
    if part.augmentation is not None and kind != "text-classification":
        is_image = kind == "image-classification"
        wrong["augmentation"] = (
            "images have no words to change" if is_image else f"the labels of {kind} do not bear changed texts"
        )
    for field, problem_said in wrong.items():
        raise source.error(f"objective.{field}", problem_said)


def _class_weights(setup: ObjectiveSetup) -> Tensor | None:
    weights = setup.recipe.objective.class_weights
    if weights is None:
        return None
    assert isinstance(setup.task, ClassificationTask)
    labels = setup.task.labels
    if isinstance(weights, dict):
        if unknown := sorted(set(weights) - set(labels)):
            problem = f"{', '.join(unknown)}: no label of the data, which has {', '.join(labels)}"
            raise setup.source.error("objective.class_weights", problem)
        return given_weights(weights, labels)
    return balanced_weights(_classes(setup.train), len(labels))


def _classes(examples: Sequence[Encoded]) -> list[float]:
    return [example.targets[0] for example in examples]
