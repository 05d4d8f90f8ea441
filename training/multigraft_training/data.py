"""The splits of a run: read, checked all at once, split off where absent, and hashed."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigraft_adapters.errors import InvalidDataError
from multigraft_adapters.manifest import ProblemType, canonical_json
from multigraft_training.examples import Example, PlainText, TextExample, parse_plain_text, parse_row
from multigraft_training.recipe import DataPart, RecipeTaskType
from multigraft_training.rows import find_splits, read_rows

VALIDATION_SHARE = 0.1
"""The share of train that validates where the recipe names no validation split."""

PROBLEMS: dict[type, ProblemType] = {
    str: "single_label_classification",
    tuple: "multi_label_classification",
    float: "regression",
}
KINDS = {str: "strings (one class each)", tuple: "lists (any number of classes)", float: "numbers (regression)"}

MAX_PROBLEMS = 1000
"""How many bad rows one error names."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Checked examples. `test` is None when there is none. `labels` are sorted; empty for generation and where the
    labels are numbers.

    `content_hash` is over the examples of all splits as they are used, wherever their files stand.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...] | None
    labels: tuple[str, ...]
    content_hash: str
    problem: ProblemType
    unlabelled: tuple[PlainText, ...] = ()


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
        problems += _split_problems(splits, task_type)
    if problems:
        raise InvalidDataError("the data cannot be trained on", _capped(problems))
    train, validation = splits["train"], splits.get("validation")
    if validation is None:
        train, validation = split_off(train, seed)
    test = splits.get("test")
    return Dataset(
        train=tuple(train),
        validation=tuple(validation),
        test=None if test is None else tuple(test),
        labels=_labels(splits["train"]),
        problem=PROBLEMS[_kinds(train)[0]] if task_type == "text-classification" else PROBLEMS[str],
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


def _read_split(files: Iterable[Path], task_type: RecipeTaskType, problems: list[str]) -> list[Example]:
    rows = [row for file in files for row in read_rows(file, problems)]
    examples = [parse_row(row, task_type, problems) for row in rows]
    return [example for example in examples if example is not None]


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


def _split_problems(splits: dict[str, list[Example]], task_type: RecipeTaskType) -> list[str]:
    problems = [f"the {name} split is empty" for name, examples in splits.items() if not examples]
    if "validation" not in splits and len(splits["train"]) == 1:
        problems.append("the train split has one row, so no validation share can be split off")
    if task_type != "text-classification" or problems:
        return problems
    if len(kinds := _kinds(example for split in splits.values() for example in split)) > 1:
        said = " and ".join(KINDS[kind] for kind in kinds)
        return [f"the labels are of several kinds: {said}; a task has one"]
    return _label_problems(splits) if kinds[0] is not float else []


def _label_problems(splits: dict[str, list[Example]]) -> list[str]:
    problems: list[str] = []
    labels = _labels(splits["train"])
    counts = Counter(class_of(example) for example in splits["train"])
    is_single = _kinds(splits["train"]) == [str]
    if is_single and len(labels) < 2:
        problems.append(f"the train split has one label only ({labels[0]!r}); a classifier needs two")
    if not labels:
        problems.append("no row of the train split has a label in its list")
    if is_single and "validation" not in splits and max(counts.values()) < 2:
        problems.append("every label has one row only, so no validation share can be split off")
    for name in ("validation", "test"):
        unknown = sorted(set(_labels(splits.get(name, []))) - set(labels))
        problems += [f"the {name} split has the label {label!r}, which train has not" for label in unknown]
    return problems


def _kinds(examples: Iterable[Example]) -> list[type]:
    """The kinds of label there are: strings, lists or numbers."""
    return sorted({type(one.label) for one in examples if isinstance(one, TextExample)}, key=list(KINDS).index)


def class_of(example: Example) -> str:
    """The class that a split keeps in proportion; all examples are one where there are no classes."""
    return example.label if isinstance(example, TextExample) and isinstance(example.label, str) else ""


def _labels(examples: Iterable[Example]) -> tuple[str, ...]:
    labels = [example.label for example in examples if isinstance(example, TextExample)]
    names = [label if isinstance(label, tuple) else (label,) for label in labels if not isinstance(label, float)]
    return tuple(sorted({name for of_one in names for name in of_one}))


def _content_hash(splits: Mapping[str, Sequence[Example | PlainText]]) -> str:
    values = {name: [_values(example) for example in split] for name, split in splits.items()}
    return f"sha256:{hashlib.sha256(canonical_json(values)).hexdigest()}"


def _values(example: Example | PlainText) -> dict[str, Any]:
    """The example's fields; a weight is one only where its row has one."""
    values = dataclasses.asdict(example)
    return {name: value for name, value in values.items() if name != "weight" or value is not None}


def _capped(problems: list[str]) -> list[str]:
    rest = len(problems) - MAX_PROBLEMS
    return problems if rest <= 0 else [*problems[:MAX_PROBLEMS], f"and {rest} more"]
