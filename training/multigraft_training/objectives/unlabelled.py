"""Texts without labels, as a classification task reads them."""

from __future__ import annotations

from multigraft_training.batches import Encoded
from multigraft_training.examples import PlainText, TextExample
from multigraft_training.fields import Label
from multigraft_training.objectives.objective import ObjectiveSetup
from multigraft_training.tasks.classification import ClassificationTask


def classifier_of(setup: ObjectiveSetup) -> ClassificationTask:
    """The run's task. Raises InvalidRecipeError, which names the objective, where it is no text-classification."""
    if isinstance(setup.task, ClassificationTask) and setup.task.task_type == "text-classification":
        return setup.task
    name = setup.recipe.objective.name
    raise setup.source.error("objective.name", f"{name} is for text-classification, not {setup.recipe.task.type}")


def labelled(text: PlainText, label: Label) -> TextExample:
    """The text with a label, or with one that nobody reads."""
    return TextExample(text.text, text.text_pair, label)


def any_label(task: ClassificationTask) -> Label:
    """A label that the task takes."""
    of_problem: dict[str, Label] = {
        "single_label_classification": task.labels[0],
        "multi_label_classification": (),
        "regression": 0.0,
    }
    return of_problem[task.problem.name]


def encode_unlabelled(setup: ObjectiveSetup, task: ClassificationTask) -> list[Encoded]:
    """The unlabelled texts as tokens, in their order; their targets mean nothing."""
    anything = any_label(task)
    return setup.encode("unlabelled", [labelled(text, anything) for text in setup.dataset.unlabelled])
