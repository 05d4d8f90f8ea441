"""The recipe: every choice of a training run in one strict YAML file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from multigraft_adapters.errors import InvalidRecipeError
from multigraft_adapters.manifest import TaskType
from multigraft_training.recipe_file import FieldPath, RecipeDocument, read_document
from multigraft_training.recipe_methods import METHOD_PARTS, UNKNOWN_METHOD, LoraPart, MethodPart
from multigraft_training.recipe_objectives import (
    OBJECTIVE_PARTS,
    UNKNOWN_OBJECTIVE,
    MultiTaskPart,
    ObjectivePart,
    SupervisedPart,
    prompt_of,
    task_name,
    unlabelled_problem,
)

RecipeTaskType = TaskType
Baselines = Literal["auto", "all", "majority", "none"]
Precision = Literal["auto", "bfloat16", "float32"]
SPLITS = ("train", "validation", "test")
REQUIRED_PATHS: tuple[FieldPath, ...] = tuple(("data", split) for split in (*SPLITS, "unlabelled"))
PATHS: tuple[FieldPath, ...] = (*REQUIRED_PATHS, ("objective", "teacher", "adapter"))
"""The fields that name files or folders; those that are not required may be made before the run."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TaskPart(_Part):
    """What is trained. `prompt` is a system prompt, put before a chat that has none (text-generation)."""

    name: str
    type: RecipeTaskType
    prompt: str | None = Field(default=None, min_length=1)

    @field_validator("name")
    @classmethod
    def _is_a_task_name(cls, name: str) -> str:
        return task_name(name)

    @field_validator("prompt")
    @classmethod
    def _is_for_generation(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        return prompt_of(prompt, info)


class DataPart(_Part):
    """Files, or for `train` a dataset folder that may hold the other splits too.

    Without a validation split a share of train is split off; without a test split the metrics of the run are
    measured on the validation split.
    """

    train: str = Field(min_length=1)
    validation: str | None = Field(default=None, min_length=1)
    test: str | None = Field(default=None, min_length=1)
    unlabelled: str | None = Field(default=None, min_length=1)


class TrainingPart(_Part):
    """How the delta is fitted.

    A step takes examples of together `batch_tokens` tokens, `micro_batch_tokens` (padding counted) at a time; the
    examples of `sorted_steps` steps are sorted by length together. With `packing` they are not sorted, and rows
    hold several examples in place of padding. `warmup` is the share of all steps in which the learning rate rises;
    it falls to 0 after. `early_stopping` is the number of epochs without a better validation score after which
    training ends; null never ends it. `max_length` is in tokens, null is the base's own. A recipe without a
    learning rate has its method's; `head_learning_rate` is the head's own, null is the same. `base_dropout` is the
    frozen base's, null is what its config says. `gradient_checkpointing` computes each layer twice and keeps less
    of it in memory. `checkpoint_seconds` is the least time between two checkpoints; 0 makes one after every step.
    """

    epochs: int = Field(default=3, ge=1)
    batch_tokens: int = Field(default=4096, ge=1)
    micro_batch_tokens: int = Field(default=4096, ge=1)
    sorted_steps: int = Field(default=4, ge=1)
    packing: bool = False
    learning_rate: float = Field(default=5.0e-4, gt=0, allow_inf_nan=False)
    head_learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    warmup: float = Field(default=0.1, ge=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**32)
    precision: Precision = "auto"
    early_stopping: int | None = Field(default=2, ge=1)
    max_length: int | None = Field(default=None, ge=8)
    base_dropout: float | None = Field(default=None, ge=0, lt=1, allow_inf_nan=False)
    gradient_checkpointing: bool = False
    checkpoint_seconds: float = Field(default=60.0, ge=0, allow_inf_nan=False)


class Recipe(_Part):
    """A whole recipe. Data paths are absolute once it is read; `output` is relative to the current folder.

    `baselines` says what the metrics stand beside: nothing, the most frequent answer, or also the frozen base with
    a head alone; `auto` measures that where it costs little.
    """

    base: str = Field(min_length=1)
    task: TaskPart
    data: DataPart
    method: MethodPart = Field(default_factory=LoraPart)
    objective: ObjectivePart = Field(default_factory=SupervisedPart)
    training: TrainingPart = Field(default_factory=TrainingPart)
    baselines: Baselines = "auto"
    output: str = Field(min_length=1)

    @model_validator(mode="after")
    def _names_tasks_once(self) -> Recipe:
        if isinstance(self.objective, MultiTaskPart) and self.task.name in self.objective.tasks:
            raise ValueError(f"task: {self.task.name} is the name of a further task, too")
        return self

    def of_tasks(self) -> list[Recipe]:
        """A recipe for each task that is trained: this one, and one for each that a multi-task objective adds."""
        further = self.objective.tasks if isinstance(self.objective, MultiTaskPart) else {}
        tasks = {name: TaskPart(name=name, type=task.type, prompt=task.prompt) for name, task in further.items()}
        data = {
            name: DataPart(train=task.train, validation=task.validation, test=task.test)
            for name, task in further.items()
        }
        return [self, *(self.model_copy(update={"task": tasks[name], "data": data[name]}) for name in further)]


@dataclass(frozen=True, slots=True)
class RecipeSource:
    """Where each field of a recipe was written, for problems that show only later."""

    document: RecipeDocument

    def error(self, field: str, *problems: str) -> InvalidRecipeError:
        """The error for one field, given with dots."""
        place = self.document.place(tuple(field.split(".")))
        return InvalidRecipeError("the recipe cannot be run", [f"{place}: {field}: {one}" for one in problems])


def read_recipe(file: Path, overrides: Iterable[str] = ()) -> tuple[Recipe, RecipeSource]:
    """The recipe in `file` with `key=value` overrides applied.

    A data path in the file is looked for beside the file, then in the current folder; one in an override only
    in the current folder. Raises InvalidRecipeError with every problem and its line.
    """
    problems: list[str] = []
    document = read_document(file, overrides, problems)
    recipe: Recipe | None = None
    if document is not None:
        problems += _resolve_data_paths(document)
        problems += _unlabelled_problems(document)
        try:
            recipe = Recipe.model_validate(document.values)
        except ValidationError as error:
            problems += [_problem(document, detail) for detail in error.errors()]
    if problems or recipe is None or document is None:
        raise InvalidRecipeError("the recipe cannot be run", sorted(problems, key=_by_line))
    return _with_usual_rate(recipe), RecipeSource(document)


def _with_usual_rate(recipe: Recipe) -> Recipe:
    """The recipe with its method's learning rate, where it gives none."""
    if "learning_rate" in recipe.training.model_fields_set:
        return recipe
    training = recipe.training.model_copy(update={"learning_rate": recipe.method.usual_learning_rate})
    return recipe.model_copy(update={"training": training})


def _resolve_data_paths(document: RecipeDocument) -> Iterator[str]:
    further = document.get(("objective", "tasks"))
    names = further if isinstance(further, dict) else ()
    of_tasks = tuple(("objective", "tasks", name, split) for name in names for split in SPLITS)
    for path in (*PATHS, *of_tasks):
        value = document.get(path)
        if not isinstance(value, str) or not value:
            continue
        given = Path(value).expanduser()
        candidates = [Path.cwd() / given]
        if path not in document.overridden:
            candidates.insert(0, document.file.resolve().parent / given)
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is None and path in (*REQUIRED_PATHS, *of_tasks):
            yield f"{document.place(path)}: {'.'.join(path)}: no such file or folder: {value}"
        elif found is not None:
            document.set(path, str(found.resolve()))


def _unlabelled_problems(document: RecipeDocument) -> Iterator[str]:
    is_given = document.get(("data", "unlabelled")) is not None
    problem = unlabelled_problem(document.get(("objective",)), is_given)
    if problem is not None:
        place = document.place(("data", "unlabelled") if is_given else ("objective", "name"))
        yield f"{place}: data.unlabelled: {problem}"


def _problem(document: RecipeDocument, detail: ErrorDetails) -> str:
    part, path = _part_at(tuple(str(key) for key in detail["loc"]))
    reason = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        reason = "unknown field" + _hint(part, path[-1])
    elif detail["type"] == "missing":
        reason = "is missing"
    elif detail["type"] in (UNKNOWN_METHOD, UNKNOWN_OBJECTIVE):
        path = (*path, "name")
        reason = f"{reason}, not {detail['input']['name']!r}"
    elif detail["type"] != "value_error":
        reason += f" (it is {detail['input']!r})"
    elif reason.partition(": ")[0] in _part_at((*(str(key) for key in detail["loc"]), ""))[0].model_fields:
        # What fields say together is told of the one that the message begins with.
        field, _, reason = reason.partition(": ")
        path = (*path, field)
    return f"{document.place(path)}: {'.'.join(path)}: {reason}"


def _part_at(place: FieldPath) -> tuple[type[BaseModel], FieldPath]:
    """The part of the recipe that holds what pydantic found at `place`, and its path in the file."""
    part: type[BaseModel] = Recipe
    keys = place[:-1]
    for name, kinds in (("method", METHOD_PARTS), ("objective", OBJECTIVE_PARTS)):
        if place[:1] == (name,) and place[1:]:
            # pydantic puts the kind's name into the path.
            part, keys, place = kinds[place[1]], place[2:-1], (name, *place[2:])
    for key in keys:
        # What is inside a list, or in a mapping of the user's own names, is told of the part that holds it.
        part = _part_of(part.model_fields[key].annotation) or part if key in part.model_fields else part
    return part, place


def _part_of(annotation: Any) -> type[BaseModel] | None:
    """The part that a field holds, perhaps as one of several kinds of value, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for inner in get_args(annotation) if (part := _part_of(inner))), None)


def _hint(part: type[BaseModel], field: str) -> str:
    """The fields that exist where the unknown one stands."""
    close = difflib.get_close_matches(field, part.model_fields, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(part.model_fields)}"


def _by_line(problem: str) -> tuple[int, int]:
    """File problems by line, then those of overrides."""
    line = problem.split(":")[1] if problem.count(":") > 1 else ""
    return (0, int(line)) if line.isdigit() else (1, 0)
