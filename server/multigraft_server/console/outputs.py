"""What a task said, as the playground shows it: plain things that a template can write."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from multigraft_adapters.errors import InvalidRequestError
from multigraft_server.calls import Target
from multigraft_server.console.marks import Mark, Piece, marked

TOP_LABELS = 10
TOP_ANSWERS = 3
FIRST_VALUES = 8


@dataclass(frozen=True, slots=True)
class Label:
    """A label with its score; `share` is the score where it is one of 0 to 1, as all but a regression's are."""

    name: str
    score: float
    share: float | None


@dataclass(frozen=True, slots=True)
class Vector:
    """An embedding in short; `similarity` is the cosine with that of the second text."""

    size: int
    norm: float
    first: Sequence[float]
    similarity: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """One output. What its task type has is there."""

    labels: Sequence[Label] = ()
    pieces: Sequence[Piece] = ()
    marks: Sequence[Mark] = field(default=())
    answers: Sequence[Label] = ()
    vector: Vector | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What tasks are asked: a text, with a second one where there is one, or a `picture` as base64."""

    text: str = ""
    second: str = ""
    picture: str = ""


def inputs_of(target: Target, asked: Question) -> tuple[Any, dict[str, Any]]:
    """The `inputs` and `parameters` of a task's type. Raises InvalidRequestError for what cannot be asked here."""
    if asked.picture:
        if target.task_type != "image-classification":
            raise _not_asked(target, "a picture")
        return asked.picture, {"top_k": TOP_LABELS}
    text, second = asked.text, asked.second
    match target.task_type:
        case "text-classification":
            return ({"text": text, "text_pair": second} if second else text), {"top_k": TOP_LABELS}
        case "token-classification":
            return text, {"aggregation_strategy": "simple"}
        case "question-answering":
            if not second:
                raise InvalidRequestError("it answers questions: write one into the second field")
            return {"question": second, "context": text}, {"top_k": TOP_ANSWERS}
        case "feature-extraction":
            return ([text, second] if second else text), {}
    raise _not_asked(target, "text")


def _not_asked(target: Target, kind: str) -> InvalidRequestError:
    return InvalidRequestError(f"{target.task_type or 'the bare base'} is not asked with {kind} on this page")


def shown_of(target: Target, text: str, output: Any) -> Shown:
    """The output of a task that was asked with `inputs_of`."""
    match target.task_type:
        case "text-classification" | "image-classification":
            return Shown(labels=_labels(target, output[0] if isinstance(output[0], list) else output))
        case "token-classification":
            marks = [Mark(one["start"], one["end"], one["entity_group"], one["score"]) for one in output]
            return Shown(pieces=marked(text, marks), marks=marks)
        case "question-answering":
            return _answers(text, output if isinstance(output, list) else [output])
    return Shown(vector=vector_of(output))


def _labels(target: Target, scores: Sequence[Mapping[str, Any]]) -> list[Label]:
    is_number = target.version is not None and target.version.manifest.problem_type == "regression"
    return [Label(one["label"], one["score"], None if is_number else one["score"]) for one in scores]


def _answers(text: str, found: Sequence[Mapping[str, Any]]) -> Shown:
    """The best answer is marked in the text; all of them are listed."""
    best = [Mark(one["start"], one["end"], "answer", one["score"]) for one in found[:1]]
    return Shown(
        pieces=marked(text, best), answers=[Label(one["answer"], one["score"], one["score"]) for one in found]
    )


def vector_of(output: Any) -> Vector:
    """A vector, or the first of several, compared with the second."""
    first, *others = output if isinstance(output[0], list) else [output]
    return Vector(len(first), _norm(first), first[:FIRST_VALUES], _cosine(first, others[0]) if others else None)


def _norm(vector: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in vector))


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    norms = _norm(one) * _norm(other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / norms if norms else 0.0
