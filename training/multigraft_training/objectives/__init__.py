"""What the loss of a training is made of. One module per objective."""

from __future__ import annotations

from collections.abc import Callable

from multigraft_training.objectives.augmentation import augmented
from multigraft_training.objectives.continued import ContinuedObjective
from multigraft_training.objectives.distillation import DistillationObjective
from multigraft_training.objectives.dropout import set_head_dropout
from multigraft_training.objectives.losses import check_fields
from multigraft_training.objectives.mmd import MmdObjective
from multigraft_training.objectives.multi_task import MultiTaskObjective
from multigraft_training.objectives.objective import (
    Batches,
    Learner,
    Moment,
    Objective,
    ObjectiveSetup,
    Stage,
)
from multigraft_training.objectives.pseudo_labels import PseudoLabelsObjective
from multigraft_training.objectives.supervised import SupervisedObjective
from multigraft_training.recipe_objectives import (
    ContinuedPart,
    DistillationPart,
    MmdPart,
    MultiTaskPart,
    PseudoLabelsPart,
    SupervisedPart,
)

__all__ = [
    "Batches",
    "Learner",
    "Moment",
    "Objective",
    "ObjectiveSetup",
    "Stage",
    "SupervisedObjective",
    "augmented",
    "check_fields",
    "make_objective",
    "set_head_dropout",
]

OBJECTIVES: dict[type, Callable[[ObjectiveSetup], Objective]] = {
    SupervisedPart: SupervisedObjective,
    PseudoLabelsPart: PseudoLabelsObjective,
    DistillationPart: DistillationObjective,
    ContinuedPart: ContinuedObjective,
    MmdPart: MmdObjective,
    MultiTaskPart: MultiTaskObjective,
}


def make_objective(setup: ObjectiveSetup) -> Objective:
    """The objective of a recipe. Raises InvalidRecipeError, which names the field, where it cannot be had."""
    return OBJECTIVES[type(setup.recipe.objective)](setup)
