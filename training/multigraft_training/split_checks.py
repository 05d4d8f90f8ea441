"""What is wrong with the splits of a run, beside single rows; and what a person should know of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multigraft_adapters.manifest import CLASSIFICATIONS, LABELLED_TASKS
from multigraft_training.examples import ChatExample, CompletionExample, Example, TextExample
from multigraft_training.recipe import RecipeTaskType
from multigraft_training.rows import Row
from multigraft_training.structured import ImageExample, PairExample, QuestionExample, TaggedExample

KINDS = {str: "strings (one class each)", tuple: "lists (any number of classes)", float: "numbers (regression)"}
REQUIRED: dict[str, tuple[str, ...]] = {
    "text-classification": ("text", "label"),
    "token-classification": ("tokens", "tags"),
    "question-answering": ("question", "context", "answers"),
    "feature-extraction": ("text", "text_pair"),
    "image-classification": ("image", "label"),
}
"""The fields that every row must have; text generation takes rows of two kinds."""
NAMED_PLACES = 3
"""How many duplicates a note names."""


@dataclass(slots=True)
class Split:
    """The examples of one split and where each stands."""

    files: Sequence[Path]
    examples: list[Example] = field(default_factory=list)
    places: list[str] = field(default_factory=list)


def column_problems(file: Path, rows: Sequence[Row], task_type: RecipeTaskType) -> dict[str, str]:
    """The required fields that no row of a file has, each with its problem."""
    there = sorted({name for row in rows for name in row.values})
    said = f"its fields are {', '.join(there)}" if there else "it has no fields"
    absent = [name for name in REQUIRED.get(task_type, ()) if rows and name not in there]
    return {name: f"{file.name}: no row has the field {name!r}; {said}" for name in absent}


def split_problems(splits: Mapping[str, Split], task_type: RecipeTaskType) -> list[str]:
    """What cannot be trained on, with its place."""
    problems = [
        f"the {name} split is empty: {', '.join(file.name for file in split.files)}"
        for name, split in splits.items()
        if not split.examples
    ]
    train = splits["train"].examples
    if "validation" not in splits and len(train) == 1:
        problems.append("the train split has one row, so no validation share can be split off")
    if problems:
        return problems
    if task_type == "question-answering" and not any(
        one.answers for one in train if isinstance(one, QuestionExample)
    ):
        return ["no row of the train split has an answer"]
    if task_type == "feature-extraction":
        return _score_problems(splits)
    return _label_problems(splits, task_type) if task_type in LABELLED_TASKS else []


def duplicate_notes(splits: Mapping[str, Split]) -> Iterator[str]:
    """One sentence for each split whose inputs stand in train, or validation, too."""
    seen: dict[Any, str] = {}
    for name in ("train", "validation", "test"):
        split = splits.get(name)
        if split is None:
            continue
        keys = [_inputs_of(example) for example in split.examples]
        again = [(place, seen[key]) for key, place in zip(keys, split.places, strict=True) if key in seen]
        if again:
            shown = ", ".join(f"{place} is {first}" for place, first in again[:NAMED_PLACES])
            more = ", ..." if len(again) > NAMED_PLACES else ""
            yield (
                f"{name}: the inputs of {len(again)} of {len(keys)} examples are in an earlier split too, so its "
                f"metrics flatter ({shown}{more})"
            )
        seen |= {key: place for key, place in zip(keys, split.places, strict=True) if key not in seen}


def kinds_of(examples: Iterable[Example]) -> list[type]:
    """The kinds of label there are: strings, lists or numbers."""
    kinds = {type(one.label) for one in examples if isinstance(one, TextExample | ImageExample)}
    return sorted(kinds, key=list(KINDS).index)


def labels_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """The classes or tags that there are, sorted; none where labels are numbers."""
    return tuple(sorted({name for example in examples for name in _names(example)}))


def class_of(example: Example) -> str:
    """The class that a split keeps in proportion; all examples are one where there are no classes."""
    label = example.label if isinstance(example, TextExample | ImageExample) else ""
    return label if isinstance(label, str) else ""


def _label_problems(splits: Mapping[str, Split], task_type: RecipeTaskType) -> list[str]:
    train = splits["train"].examples
    kinds = kinds_of(example for split in splits.values() for example in split.examples)
    if len(kinds) > 1:
        said = " and ".join(KINDS[kind] for kind in kinds)
        return [f"the labels are of several kinds: {said}; a task has one"]
    if kinds == [float]:
        return []
    labels = labels_of(train)
    problems = _few_labels(train, labels, is_single=kinds != [tuple], word="tag" if not kinds else "label")
    if kinds == [str] and "validation" not in splits and max(Counter(map(class_of, train)).values()) < 2:
        problems.append("every label has one row only, so no validation share can be split off")
    for name in ("validation", "test"):
        split = splits.get(name, Split(()))
        for place, example in zip(split.places, split.examples, strict=True):
            unknown = [one for one in dict.fromkeys(_names(example)) if one not in labels]
            word = "label" if task_type in CLASSIFICATIONS else "tags"
            problems += [f"{place}: {word}: no row of train has {one!r}" for one in unknown]
    return problems


def _few_labels(train: Sequence[Example], labels: Sequence[str], *, is_single: bool, word: str) -> list[str]:
    if not labels:
        return ["no row of the train split has a label in its list"]
    if is_single and len(labels) < 2:
        return [f"the train split has one {word} only ({labels[0]!r}); a classifier needs two"]
    return []


def _score_problems(splits: Mapping[str, Split]) -> list[str]:
    scored = [
        (place, one.score is not None)
        for split in splits.values()
        for place, one in zip(split.places, split.examples, strict=True)
        if isinstance(one, PairExample)
    ]
    is_scored = scored[0][1]
    other = [place for place, has_score in scored if has_score != is_scored]
    said = "has no score" if is_scored else "has a score"
    return [f"{other[0]}: {said}, unlike {scored[0][0]}; all rows of a task have one, or none"] if other else []


def _names(example: Example) -> tuple[str, ...]:
    if isinstance(example, TaggedExample):
        return example.tags
    if not isinstance(example, TextExample | ImageExample) or isinstance(example.label, float):
        return ()
    return (example.label,) if isinstance(example.label, str) else example.label


def _inputs_of(example: Example) -> Any:
    """What a server would be asked."""
    if isinstance(example, ChatExample):
        answer = max(i for i, message in enumerate(example.messages) if message.role == "assistant")
        return example.messages[:answer]
    if isinstance(example, CompletionExample):
        return example.prompt
    if isinstance(example, TaggedExample):
        return example.tokens
    if isinstance(example, QuestionExample):
        return example.question, example.context
    return example.sha256 if isinstance(example, ImageExample) else (example.text, example.text_pair)
