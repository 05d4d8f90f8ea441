"""Examples that are more than a text and its label: tagged words, questions, images, pairs of texts alike."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.pictures import open_picture
from multigraft_training.fields import Label, label_field, text_field, text_list, weight_field


@dataclass(frozen=True, slots=True)
class TaggedExample:
    """The words of a text and a tag for each."""

    tokens: tuple[str, ...]
    tags: tuple[str, ...]
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class GivenAnswer:
    """A passage of a context, which begins at character `start`."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True, slots=True)
class QuestionExample:
    """A question, a context, and the passages that answer it: none where the context holds no answer."""

    question: str
    context: str
    answers: tuple[GivenAnswer, ...]
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class ImageExample:
    """An image's file, the sha256 of its bytes, and its label."""

    file: Path
    sha256: str
    label: Label
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class PairExample:
    """Two texts that are alike, or, with a `score` of -1 to 1, as alike as it says."""

    text: str
    text_pair: str
    score: float | None
    weight: float | None = None


def parse_tagged(values: dict[str, Any], problems: list[str]) -> TaggedExample | None:
    """The example in a row with `tokens` and `tags`; None, with every problem noted, when it is none."""
    tokens, tags = text_list(values, "tokens", problems), text_list(values, "tags", problems)
    if tokens is None or tags is None:
        return None
    if len(tokens) != len(tags):
        problems.append(f"tags: there are {len(tags)}, for {len(tokens)} tokens")
    return TaggedExample(tokens, tags, weight_field(values, problems))


def parse_question(values: dict[str, Any], problems: list[str]) -> QuestionExample | None:
    """The example in a row with `question`, `context` and `answers`: a list of objects with `text` and
    `answer_start`, or, as SQuAD's rows have them, one object with a list of each."""
    question, context = text_field(values, "question", problems), text_field(values, "context", problems)
    answers = _answers(values.get("answers"), problems)
    if question is None or context is None or answers is None:
        return None
    problems += [
        f"answers: the context does not read {one.text!r} from character {one.start} on"
        for one in answers
        if context[max(one.start, 0) : one.end] != one.text
    ]
    return QuestionExample(question, context, answers, weight_field(values, problems))


def parse_image(values: dict[str, Any], folder: Path, problems: list[str]) -> ImageExample | None:
    """The example in a row with `image`, the path of a file relative to `folder`, and `label`."""
    path, label = text_field(values, "image", problems), label_field(values.get("label"), problems)
    if path is None:
        return None
    file = folder / path
    try:
        data = file.read_bytes()
        open_picture(data, "the file")
    except OSError as error:
        problems.append(f"image: {path}: {error.strerror}")
    except InvalidRequestError as error:
        problems.append(f"image: {path}: {error.message}")
    else:
        weight, sha256 = weight_field(values, problems), hashlib.sha256(data).hexdigest()
        return None if label is None else ImageExample(file, sha256, label, weight)
    return None


def parse_pair(values: dict[str, Any], problems: list[str]) -> PairExample | None:
    """The example in a row with `text`, `text_pair` and, optionally, `score`."""
    text, pair = text_field(values, "text", problems), text_field(values, "text_pair", problems)
    score = values.get("score")
    if score is not None and not _is_cosine(score):
        problems.append(f"score: {score!r} is not a number from -1 (opposite) to 1 (alike)")
        return None
    if text is None or pair is None:
        return None
    return PairExample(text, pair, None if score is None else float(score), weight_field(values, problems))


def _answers(given: Any, problems: list[str]) -> tuple[GivenAnswer, ...] | None:
    if isinstance(given, dict):
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            problems.append("answers: text and answer_start are not two lists of the same length")
            return None
        given = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(given, list):
        problems.append("answers: is missing" if given is None else "answers: is not a list of answers")
        return None
    answers = [_answer(index, one, problems) for index, one in enumerate(given)]
    complete = tuple(one for one in answers if one is not None)
    return complete if len(complete) == len(answers) else None


def _answer(index: int, given: Any, problems: list[str]) -> GivenAnswer | None:
    place = f"answers[{index}]"
    if not isinstance(given, dict):
        problems.append(f"{place}: is not an object with text and answer_start")
        return None
    text, start = text_field(given, "text", problems, f"{place}."), given.get("answer_start")
    if type(start) is not int:
        problems.append(f"{place}.answer_start: {start!r} is not a whole number")
        return None
    return None if text is None else GivenAnswer(text, start)


def _is_cosine(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and -1 <= value <= 1
