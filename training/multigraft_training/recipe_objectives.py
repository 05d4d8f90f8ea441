"""The recipe's objective: what the loss is made of, each kind with its own fields, and those that all have."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.manifest import TaskType
from multigraft_adapters.registry.names import check_task_name

BALANCED = "balanced"
UNKNOWN_OBJECTIVE = "unknown_objective"

Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
FilePath = Annotated[str, Field(min_length=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AugmentationPart(_Part):
    """Each text of train is followed by `copies` changed ones, each changed by one operation in turn, in the given
    share of its words: replaced by a neighbour, a neighbour inserted, two swapped, or deleted. A share of 0 leaves
    the operation out."""

    copies: Annotated[int, Field(ge=1, le=64)] = 4
    replace: Share = 0.1
    insert: Share = 0.1
    swap: Share = 0.1
    delete: Share = 0.1

    @model_validator(mode="after")
    def _changes_something(self) -> AugmentationPart:
        if not self.replace + self.insert + self.swap + self.delete:
            raise ValueError("copies: without a share above 0 they would all be the same")
        return self


class _Objective(_Part):
    """What all objectives have. `unlabelled` says whether one reads `data.unlabelled`.

    `class_weights` are factors of the rows' losses by class, or `balanced`; `mixup` is the alpha of the Beta
    distribution that mixes two rows, 0 is none; `head_dropout` null is the base's own.
    """

    unlabelled: ClassVar[Literal["unused", "optional", "needed"]] = "unused"
    label_smoothing: Dropout = 0.0
    class_weights: Literal["balanced"] | dict[str, Weight] | None = None
    augmentation: AugmentationPart | None = None
    mixup: Weight = 0.0
    head_dropout: Dropout | None = None

    @field_validator("class_weights", mode="plain")
    @classmethod
    def _are_weights(cls, weights: Any) -> Any:
        if weights is None or weights == BALANCED:
            return weights
        if isinstance(weights, dict) and weights and all(_is_weight(weight) for weight in weights.values()):
            return {str(label): float(weight) for label, weight in weights.items()}
        raise ValueError(f"must be {BALANCED} or a mapping from labels to numbers of at least 0")


class SupervisedPart(_Objective):
    """The task's own loss on labelled examples."""

    name: Literal["supervised"] = "supervised"


class PseudoLabelsPart(_Objective):
    """After the labelled rows, `rounds` more trainings from the start, each with the unlabelled texts whose class
    the model before is sure of: a probability of at least `threshold`, at most `max_per_class` of a class. Their
    losses count `weight` times. A round has `epochs` epochs, null is as many as the first training."""

    unlabelled = "needed"
    name: Literal["pseudo-labels"]
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.9
    rounds: Annotated[int, Field(ge=1, le=32)] = 1
    weight: Positive = 1.0
    max_per_class: Annotated[int, Field(ge=1)] | None = None
    epochs: Annotated[int, Field(ge=1)] | None = None


class MmdPart(_Objective):
    """The supervised loss and `weight` times the distance between the states of train's texts and of the
    unlabelled ones; the weight rises from 0 in the share `warmup` of all steps. There are `kernels` Gaussian
    kernels."""

    unlabelled = "needed"
    name: Literal["mmd"]
    weight: Positive = 1.0
    warmup: Share = 0.3
    kernels: Annotated[int, Field(ge=1, le=15)] = 5


class ContinuedPart(_Objective):
    """`epochs` epochs of language modelling on the unlabelled texts, then the supervised training. Encoders learn
    the share `mask` of the tokens, decoders each next one."""

    unlabelled = "needed"
    name: Literal["continued"]
    epochs: Annotated[int, Field(ge=1)] = 3
    mask: Annotated[float, Field(gt=0, lt=1)] = 0.15


class TeacherPart(_Part):
    """Who is learnt from: an `adapter` of ours or PEFT's, a folder, on `base` (null is the recipe's own); a
    fine-tuned `model`, a folder or Hugging Face id; or, for generation, another `base` as it is."""

    base: FilePath | None = None
    adapter: FilePath | None = None
    model: FilePath | None = None

    @model_validator(mode="after")
    def _is_one(self) -> TeacherPart:
        if self.model is not None and (self.adapter is not None or self.base is not None):
            raise ValueError("model: stands alone; an adapter's base is `base`")
        if self.model is None and self.adapter is None and self.base is None:
            raise ValueError("adapter: name the teacher: an adapter, a model, or a base")
        return self


class DistillationPart(_Objective):
    """A teacher's answers, softened by `temperature`, count `alpha`, the labels what is left of 1."""

    unlabelled = "optional"
    name: Literal["distillation"]
    teacher: TeacherPart
    temperature: Positive = 2.0
    alpha: Share = 0.5


class FurtherTask(_Part):
    """A task that the same delta is trained for, with its own data, head and share of the steps; the fields are
    those of `task` and `data`."""

    type: TaskType
    train: FilePath
    validation: FilePath | None = None
    test: FilePath | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    weight: Positive = 1.0

    @field_validator("prompt")
    @classmethod
    def _is_for_generation(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        return prompt_of(prompt, info)


class MultiTaskPart(_Objective):
    """One delta for the recipe's task and further `tasks`, by name; each step is of one task. How many steps a
    task gets goes by `sampling`: its number of examples, the same to the power of 1 / `temperature`, or its
    weight, which is `weight` for the recipe's own task. An epoch has as many examples as all tasks together."""

    name: Literal["multi-task"]
    tasks: Annotated[dict[str, FurtherTask], Field(min_length=1)]
    sampling: Literal["proportional", "temperature", "weights"] = "proportional"
    temperature: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    weight: Positive = 1.0

    @field_validator("tasks")
    @classmethod
    def _have_names(cls, tasks: dict[str, FurtherTask]) -> dict[str, FurtherTask]:
        return {task_name(name): task for name, task in tasks.items()}


OBJECTIVE_PARTS: dict[str, type[_Objective]] = {
    "supervised": SupervisedPart,
    "pseudo-labels": PseudoLabelsPart,
    "distillation": DistillationPart,
    "continued": ContinuedPart,
    "mmd": MmdPart,
    "multi-task": MultiTaskPart,
}
NAMES = ", ".join(OBJECTIVE_PARTS)


def unlabelled_problem(objective: Any, is_given: bool) -> str | None:
    """What is wrong with `data.unlabelled` beside an objective as the recipe's file has it."""
    part = OBJECTIVE_PARTS.get(name) if isinstance(name := _name_of(objective or {}), str) else None
    if part is not None and part.unlabelled == "needed" and not is_given:
        return f"the objective {name!r} needs texts without labels"
    if part is not None and part.unlabelled == "unused" and is_given:
        return f"the objective {name!r} uses no unlabelled data"
    return None


def task_name(name: str) -> str:
    """The name, if a task may have it. Raises ValueError."""
    try:
        check_task_name(name, base_name="")
    except InvalidRequestError as error:
        raise ValueError(error.message) from None
    return name


def prompt_of(prompt: str | None, info: ValidationInfo) -> str | None:
    """The prompt, if a task of the type that was read before it may have one. Raises ValueError."""
    if prompt is not None and info.data.get("type", "text-generation") != "text-generation":
        raise ValueError("only a text-generation task has a prompt")
    return prompt


def _name_of(value: Any) -> Any:
    """The objective that a recipe's part is of; one without a name is supervised."""
    return value.get("name", "supervised") if isinstance(value, dict) else getattr(value, "name", "supervised")


def _is_weight(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < float("inf")


ObjectivePart = Annotated[
    Annotated[SupervisedPart, Tag("supervised")]
    | Annotated[PseudoLabelsPart, Tag("pseudo-labels")]
    | Annotated[DistillationPart, Tag("distillation")]
    | Annotated[ContinuedPart, Tag("continued")]
    | Annotated[MmdPart, Tag("mmd")]
    | Annotated[MultiTaskPart, Tag("multi-task")],
    Discriminator(
        _name_of, custom_error_type=UNKNOWN_OBJECTIVE, custom_error_message=f"the objectives are {NAMES}"
    ),
]
