"""The splits of a run: read, checked all at once, split off where absent, and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigraft_adapters.errors import InvalidDataError
from multigraft_adapters.manifest import CLASSIFICATIONS, ProblemType, canonical_json
from multigraft_training.examples import Example, PlainText, parse_plain_text, parse_row
from multigraft_training.recipe import DataPart, RecipeTaskType
from multigraft_training.rows import Row, find_splits, read_rows
from multigraft_training.split_checks import (
    Split,
    class_of,
    column_problems,
    duplicate_notes,
    kinds_of,
    labels_of,
    split_problems,
)

VALIDATION_SHARE = 0.1
"""The share of train that validates where the recipe names no validation split."""

PROBLEMS: dict[type, ProblemType] = {
    str: "single_label_classification",
    tuple: "multi_label_classification",
    float: "regression",
}
MAX_PROBLEMS = 1000
"""How many bad rows one error names."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Checked examples. `test` is None when there is none. `labels` are sorted; empty for generation and where the
    labels are numbers. `notes` are what a person should know of it.

    `content_hash` is over the examples of all splits as they are used, wherever their files stand.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...] | None
    labels: tuple[str, ...]
    content_hash: str
    problem: ProblemType
    unlabelled: tuple[PlainText, ...] = ()
    notes: tuple[str, ...] = ()


def load_dataset(data: DataPart, task_type: RecipeTaskType, seed: int) -> Dataset:
    """Read and check every split; `seed` chooses the validation share.

    Raises InvalidDataError with every bad row of every file and its line.
    """
    problems: list[str] = []
    splits = {
        name: _read_split(files, task_type, problems) for name, files in _split_files(data, problems).items()
    }
    unlabelled = _read_unlabelled(data.unlabelled, problems)
    if not problems:
        problems += split_problems(splits, task_type)
    if problems:
        raise InvalidDataError("the data cannot be trained on", _capped(problems))
    train, test = splits["train"].examples, splits["test"].examples if "test" in splits else None
    validation = splits["validation"].examples if "validation" in splits else None
    if validation is None:
        train, validation = split_off(train, seed)
    return Dataset(
        train=tuple(train),
        validation=tuple(validation),
        test=None if test is None else tuple(test),
        labels=labels_of(splits["train"].examples),
        problem=PROBLEMS[kinds_of(train)[0]] if task_type in CLASSIFICATIONS else PROBLEMS[str],
        notes=tuple(duplicate_notes(splits)),
        content_hash=_content_hash(
            {"train": train, "validation": validation, "test": test or []}
            | ({"unlabelled": unlabelled} if unlabelled else {})
        ),
        unlabelled=tuple(unlabelled),
    )


def split_off(examples: Sequence[Example], seed: int) -> tuple[list[Example], list[Example]]:
    """(the rest, the validation share), chosen by seed and, for classes, with each class in proportion.

    Every class keeps at least one example in the rest.
    """
    groups: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        groups.setdefault(class_of(example), []).append(index)
    chooser = random.Random(seed)
    chosen: set[int] = set()
    for label in sorted(groups):
        count = min(max(1, round(len(groups[label]) * VALIDATION_SHARE)), len(groups[label]) - 1)
        chosen.update(chooser.sample(groups[label], count))
    rest = [example for index, example in enumerate(examples) if index not in chosen]
    return rest, [examples[index] for index in sorted(chosen)]


def _split_files(data: DataPart, problems: list[str]) -> dict[str, list[Path]]:
    """The files of each split that there is. A folder given for train may bring the other splits."""
    train = Path(data.train)
    files = find_splits(train) if train.is_dir() else {"train": [train]}
    for name, given in (("validation", data.validation), ("test", data.test)):
        if given is None:
            continue
        if Path(given).is_dir():
            problems.append(f"data.{name}: {given} is a folder: give a file, or a dataset folder as data.train")
            continue
        files[name] = [Path(given)]
    return files


def _read_split(files: Sequence[Path], task_type: RecipeTaskType, problems: list[str]) -> Split:
    split = Split(files)
    for file in files:
        rows = read_rows(file, problems)
        columns = column_problems(file, rows, task_type)
        problems += columns.values()
        for row in rows:
            found: list[str] = []
            example = parse_row(row, task_type, found)
            problems += [one for one in found if one not in _said_of_columns(row, columns)]
            if example is not None:
                split.examples.append(example)
                split.places.append(row.place)
    return split


def _read_unlabelled(file: str | None, problems: list[str]) -> list[PlainText]:
    if file is None:
        return []
    if Path(file).is_dir():
        problems.append(f"data.unlabelled: {file} is a folder: give a file")
        return []
    before = len(problems)
    texts = [parse_plain_text(row, problems) for row in read_rows(Path(file), problems)]
    found = [text for text in texts if text is not None]
    if not found and len(problems) == before:
        problems.append("data.unlabelled: the file has no rows")
    return found


def _said_of_columns(row: Row, columns: Iterable[str]) -> set[str]:
    """What is a problem of every row is told once."""
    return {f"{row.place}: {name}: is missing" for name in columns}


def _content_hash(splits: Mapping[str, Sequence[Example | PlainText]]) -> str:
    values = {name: [_values(example) for example in split] for name, split in splits.items()}
    return f"sha256:{hashlib.sha256(canonical_json(values)).hexdigest()}"


def _values(example: Example | PlainText) -> dict[str, Any]:
    """What an example says: an image by its bytes, not by where they are; a weight only where its row has one."""
    values = dataclasses.asdict(example)
    return {
        name: value
        for name, value in values.items()
        if not isinstance(value, Path) and (name != "weight" or value is not None)
    }


def _capped(problems: list[str]) -> list[str]:
    rest = len(problems) - MAX_PROBLEMS
    return problems if rest <= 0 else [*problems[:MAX_PROBLEMS], f"and {rest} more"]
