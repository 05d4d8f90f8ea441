"""Pseudo-labels: a model's own sure answers on unlabelled texts, learnt like labelled ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from multigraft_training.batches import Encoded
from multigraft_training.objectives.losses import TaskLoss
from multigraft_training.objectives.objective import Learner, ObjectiveSetup, Stage
from multigraft_training.objectives.supervised import SupervisedStage
from multigraft_training.objectives.unlabelled import classifier_of, encode_unlabelled
from multigraft_training.recipe_objectives import PseudoLabelsPart


class PseudoLabelsObjective:
    """A stage on the labelled rows, then one for each round on these and the texts that the model before was sure
    of, every one from the parameters that the first began with. See Objective.

    Lee 2013, "Pseudo-label: the simple and efficient semi-supervised learning method"; in rounds as Yarowsky 1995,
    "Unsupervised word sense disambiguation rivaling supervised methods".
    """

    def __init__(self, setup: ObjectiveSetup) -> None:
        part = setup.recipe.objective
        assert isinstance(part, PseudoLabelsPart)
        self._part = part
        self._setup = setup
        self._task = classifier_of(setup)
        if self._task.problem.name != "single_label_classification":
            raise setup.source.error("objective.name", "pseudo-labels are for one class a row")
        self._unlabelled = encode_unlabelled(setup, self._task)
        self._loss = TaskLoss(setup)
        self._begun: list[Tensor] = []
        self._taken: dict[int, int] = {}
        self.num_stages = 1 + part.rounds

    def begin(self, number: int, learner: Learner) -> None:
        """Answer the unlabelled texts, keep the sure ones, and put the parameters back."""
        parameters = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
        if number == 0:
            self._begun = [parameter.detach().clone() for parameter in parameters]
            return
        logits = learner.each(self._unlabelled, lambda batch: self._task.logits(learner.model, batch))
        self._taken = sure_ones(logits.softmax(dim=-1), self._part.threshold, self._part.max_per_class)
        self._tell(number)
        with torch.no_grad():
            for parameter, begun in zip(parameters, self._begun, strict=True):
                parameter.copy_(begun)

    def stage(self, number: int) -> Stage:
        """The labelled rows, and after the first stage the texts that were taken."""
        setup = self._setup
        train = [*setup.train, *(self._pseudo(index, label) for index, label in self._taken.items())]
        name = f"round {number} of {self._part.rounds}" if number else "labelled rows"
        epochs = (number and self._part.epochs) or setup.recipe.training.epochs
        return SupervisedStage(self._task, self._loss, train, setup.validation, epochs, name)

    def state_dict(self) -> dict[str, Any]:
        return {"begun": self._begun, "taken": self._taken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._begun, self._taken = state["begun"], state["taken"]

    def _pseudo(self, index: int, label: int) -> Encoded:
        text = self._unlabelled[index]
        return Encoded(text.input_ids, [label], text.token_types, text.is_cut, self._part.weight)

    def _tell(self, number: int) -> None:
        counts = Counter(self._taken.values())
        by_label = ", ".join(f"{label} {counts[index]}" for index, label in enumerate(self._task.labels))
        self._setup.report.note(
            f"round {number}: {len(self._taken)} of {len(self._unlabelled)} unlabelled texts are taken: {by_label}"
        )


def sure_ones(probabilities: Tensor, threshold: float, max_per_class: int | None) -> dict[int, int]:
    """The rows of (texts, classes) whose highest probability is at least `threshold`, with its class; of a class
    at most so many, the surest."""
    best, classes = probabilities.max(dim=-1)
    order: Sequence[int] = best.argsort(descending=True, stable=True).tolist()
    taken: dict[int, int] = {}
    counts: Counter[int] = Counter()
    for index in order:
        label = int(classes[index])
        if best[index] >= threshold and (max_per_class is None or counts[label] < max_per_class):
            taken[index] = label
            counts[label] += 1
    return dict(sorted(taken.items()))
