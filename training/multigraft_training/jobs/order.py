"""A job's request as a recipe: which fields OpenAI's become, and what the data says of the task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from multigraft_adapters.errors import InvalidDataError, InvalidRecipeError
from multigraft_training.recipe_methods import METHOD_PARTS
from multigraft_training.recipe_objectives import OBJECTIVE_PARTS
from multigraft_training.rows import Row, read_rows

ORDER_FILE = "order.json"
RECIPE_FILE = "recipe.yaml"
RUN_FOLDER = "run"
AUTO = "auto"

TYPE_OF_FIELDS = {
    ("messages",): "text-generation",
    ("prompt", "completion"): "text-generation",
    ("tokens", "tags"): "token-classification",
    ("question", "context"): "question-answering",
    ("text", "label"): "text-classification",
    ("text", "text_pair"): "feature-extraction",
}
"""The task type of rows that have these fields; the first that fits counts."""
REFUSED_TYPES = {"image-classification": "its rows name images by path, and a job has no folder of images"}
REFUSED_OBJECTIVES = {
    "distillation": "its teacher is a folder or a base of the worker's, which a job cannot name",
    "multi-task": "a job makes a version of one task; give each task a job of its own",
}
OBJECTIVES = tuple(name for name in OBJECTIVE_PARTS if name not in REFUSED_OBJECTIVES)
"""Those that read no files and no bases beside the job's: a caller never names a path of the worker's."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a training process is given: the job's request, and where its files and the base are.

    `recipe` has typed fields by their names with dots, `overrides` texts that are read as YAML.
    """

    job: str
    task: str
    base: str
    data_dir: str
    fingerprint: str
    files: Mapping[str, str]
    hyperparameters: Mapping[str, Any]
    seed: int
    recipe: Mapping[str, Any]
    overrides: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Leave the order in the folder of an attempt."""
        (folder / ORDER_FILE).write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Order:
        return cls(**json.loads((folder / ORDER_FILE).read_text("utf-8")))


def write_recipe(order: Order, folder: Path) -> tuple[Path, list[str]]:
    """Writes the recipe of an order; its file, and the overrides for it.

    What the caller says of a recipe's field wins over what OpenAI's hyperparameters make of it. Raises
    InvalidDataError when the file's rows do not say what the task type is, InvalidRecipeError for a type that
    jobs do not have.
    """
    rows = _rows(Path(order.files["train"]))
    given = {**order.recipe, **{name: _read_value(text) for name, text in order.overrides.items()}}
    task_type = str(given.get("task.type") or _type_of(rows[0]))
    _check(given, task_type)
    fields: dict[str, Any] = {
        "base": order.base,
        "task.name": order.task,
        "task.type": task_type,
        **{f"data.{split}": file for split, file in order.files.items()},
        "training.seed": order.seed,
        **_training_fields(order, str(given.get("method.name", "lora")), rows),
        **order.recipe,
        "output": str(folder / RUN_FOLDER),
    }
    file = folder / RECIPE_FILE
    file.write_text(yaml.safe_dump(_nested(fields), sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file, [f"{name}={value}" for name, value in order.overrides.items()]


def _read_value(text: str) -> Any:
    """An override's value, as the recipe reads it; what is no YAML it refuses."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _check(given: Mapping[str, Any], task_type: str) -> None:
    """Raises InvalidRecipeError for what a recipe may say and a job may not."""
    problems = []
    if task_type in REFUSED_TYPES:
        problems.append(f"task.type: {task_type}: {REFUSED_TYPES[task_type]}")
    objective = given.get("objective.name", OBJECTIVES[0])
    if objective not in OBJECTIVES:
        why = f"{objective}: {REFUSED_OBJECTIVES[objective]}; " if objective in REFUSED_OBJECTIVES else ""
        problems.append(f"objective.name: {why}a job's is one of {', '.join(OBJECTIVES)}")
    if given.get("method.name") == "full" and not given.get("method.extract"):
        problems.append("method.extract: a full fine-tune cannot be served; give the rank of the LoRA to extract")
    if problems:
        raise InvalidRecipeError("the job cannot be run", problems)


def _training_fields(order: Order, method: str, rows: list[Row]) -> dict[str, Any]:
    """OpenAI's hyperparameters, without those that are left to the method."""
    told = {name: value for name, value in order.hyperparameters.items() if value != AUTO}
    fields: dict[str, Any] = {}
    if "n_epochs" in told:
        fields["training.epochs"] = told["n_epochs"]
    if "batch_size" in told:
        fields["training.batch_tokens"] = max(1, round(told["batch_size"] * _mean_tokens(order, rows)))
    if "learning_rate_multiplier" in told and method in METHOD_PARTS:
        rate = METHOD_PARTS[method].usual_learning_rate
        fields["training.learning_rate"] = float(rate * told["learning_rate_multiplier"])
    return fields


def _mean_tokens(order: Order, rows: list[Row]) -> float:
    """The mean number of tokens in a row's texts, labels included: our batches are counted in tokens."""
    from multigraft_adapters.bases import load_tokenizer, resolve_base  # torch, which wrong rows need not wait for

    tokenizer = load_tokenizer(resolve_base(order.base, Path(order.data_dir)))
    counts = [len(ids) for ids in tokenizer([" ".join(_texts(row.values)) for row in rows])["input_ids"]]
    return sum(counts) / len(counts)


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _texts(child)]


def _rows(file: Path) -> list[Row]:
    problems: list[str] = []
    rows = read_rows(file, problems)
    if not rows and not problems:
        problems.append(f"{file.name}: the file is empty")
    if problems:
        raise InvalidDataError("the data cannot be trained on", problems)
    return rows


def _type_of(row: Row) -> str:
    for fields, task_type in TYPE_OF_FIELDS.items():
        if all(field in row.values for field in fields):
            return task_type
    there = ", ".join(sorted(row.values)) or "no fields"
    known = "; ".join(f"{' and '.join(fields)}: {task_type}" for fields, task_type in TYPE_OF_FIELDS.items())
    raise InvalidDataError(
        "the data does not say what the task is",
        [f"{row.place}: has {there}; known are {known}; or give multigraft.task.type"],
    )


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in fields.items():
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return values
