"""One task of a run: its data, checked and as tokens, and what its type means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from multigraft_adapters.bases import BaseSpec
from multigraft_adapters.errors import InvalidDataError
from multigraft_training.batches import Encoded
from multigraft_training.data import Dataset, load_dataset
from multigraft_training.examples import Example
from multigraft_training.objectives import ObjectiveSetup, augmented, check_fields
from multigraft_training.packing import check_packing
from multigraft_training.recipe import Recipe, RecipeSource
from multigraft_training.report import Report
from multigraft_training.tasks import TaskSetup, TrainingTask, make_task


@dataclass(frozen=True, slots=True)
class TaskData:
    """A task with its examples, as rows and as tokens. `learnt` are the rows that `train` was made of, changed
    copies of them included; `encode` makes tokens of further ones and tells, under a name, how many were cut.

    `test` is None where there is none; `max_length` is in tokens.
    """

    recipe: Recipe
    task: TrainingTask
    dataset: Dataset
    learnt: Sequence[Example]
    train: Sequence[Encoded]
    validation: Sequence[Encoded]
    test: Sequence[Encoded] | None
    encode: Callable[[str, Sequence[Example]], list[Encoded]]
    max_length: int

    @property
    def measured(self) -> Sequence[Encoded]:
        """What the final metrics are of."""
        return self.test or self.validation

    @property
    def told(self) -> Sequence[Example]:
        """The rows of `measured`."""
        return self.dataset.test or self.dataset.validation


def read_data(recipe: Recipe, report: Report) -> Dataset:
    """A recipe's data; tells what a person should know of it. Raises InvalidDataError."""
    dataset = load_dataset(recipe.data, recipe.task.type, recipe.training.seed)
    for note in dataset.notes:
        report.note(note)
    return dataset


def prepare(
    recipe: Recipe,
    source: RecipeSource,
    spec: BaseSpec,
    folder: Path,
    reader: Any,
    dataset: Dataset,
    report: Report,
) -> TaskData:
    """The data of a recipe's task as tokens. `reader` is the base's tokenizer or image processor.

    Raises InvalidRecipeError, InvalidDataError and UnsupportedBaseError.
    """
    max_length = _max_length(recipe, source, spec)
    task = _task(recipe, source, spec, reader, dataset, max_length)
    check_fields(recipe, source, task)
    check_packing(recipe, source)
    learnt = augmented(dataset.train, recipe.objective.augmentation, folder, recipe.training.seed, report)
    encode = partial(_encode, task=task, report=report)
    return TaskData(
        recipe=recipe,
        task=task,
        dataset=dataset,
        learnt=learnt,
        train=encode("train", learnt),
        validation=encode("validation", dataset.validation),
        test=None if dataset.test is None else encode("test", dataset.test),
        encode=encode,
        max_length=max_length,
    )


def setup_of(
    data: TaskData, source: RecipeSource, spec: BaseSpec, folder: Path, data_dir: Path, report: Report
) -> ObjectiveSetup:
    """What an objective on the task is made from."""
    return ObjectiveSetup(
        recipe=data.recipe,
        source=source,
        spec=spec,
        folder=folder,
        data_dir=data_dir,
        task=data.task,
        dataset=data.dataset,
        examples=data.learnt,
        train=data.train,
        validation=data.validation,
        encode=data.encode,
        report=report,
    )


def _task(
    recipe: Recipe, source: RecipeSource, spec: BaseSpec, reader: Any, dataset: Dataset, max_length: int
) -> TrainingTask:
    setup = TaskSetup(
        spec=spec,
        tokenizer=reader,
        max_length=max_length,
        labels=(recipe.task.name,) if dataset.problem == "regression" else dataset.labels,
        problem=dataset.problem,
        prompt=recipe.task.prompt,
    )
    task = make_task(recipe.task.type, setup)
    if recipe.training.head_learning_rate is not None and not task.head_modules:
        raise source.error("training.head_learning_rate", f"{recipe.task.type} trains no head")
    return task


def _max_length(recipe: Recipe, source: RecipeSource, spec: BaseSpec) -> int:
    """The tokens that an example may have: virtual tokens take theirs of the base's."""
    virtual = recipe.method.num_virtual_tokens
    if virtual and spec.image is not None:
        raise source.error("method.name", "its virtual tokens are put before tokens, and this base reads images")
    room = spec.max_length - virtual
    if room < 1:
        raise source.error("method.virtual_tokens", f"{virtual} leave no room in the base's {spec.max_length}")
    wanted = recipe.training.max_length
    if wanted is not None and spec.image is not None:
        raise source.error("training.max_length", "every image has the same length: leave it out")
    if wanted is not None and wanted > room:
        less = f" less {virtual} virtual ones" if virtual else ""
        raise source.error(
            "training.max_length", f"{wanted} is more than the base's {spec.max_length} tokens{less}"
        )
    return wanted or room


def _encode(split: str, examples: Sequence[Example], task: TrainingTask, report: Report) -> list[Encoded]:
    """The split as tokens; tells how many examples were cut, and leaves out those of which nothing is left."""
    encoded = [_weighed(task.encode(example), example) for example in examples]
    windows = [window for first in encoded for window in (first, *first.more)]
    # NOTE: a window of which nothing is learnt is part of what the other splits measure.
    kept = [one for one in windows if one.num_targets or (one.about is not None and split != "train")]
    cut = sum(example.is_cut for example in encoded)
    if cut:
        report.note(f"{split}: {cut} of {len(encoded)} examples were cut to training.max_length")
    if len(windows) > len(encoded):
        report.note(f"{split}: {len(encoded)} examples are read in {len(windows)} windows")
    if len(kept) < len(windows):
        lost = f"{len(windows) - len(kept)} of {len(windows)}"
        report.note(f"{split}: {lost} were left out, for nothing of their answers is in them")
    if not kept:
        problem = f"the {split} split: nothing to learn is left within training.max_length"
        raise InvalidDataError("the data cannot be trained on", [problem])
    return kept


def _weighed(encoded: Encoded, example: Example) -> Encoded:
    return encoded if example.weight is None else replace(encoded, weight=example.weight)
