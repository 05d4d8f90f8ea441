"""Rows as examples of a task type; what is wrong with a row is said with its line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from multigraft_training.fields import Label, label_field, text_field, weight_field
from multigraft_training.recipe import RecipeTaskType
from multigraft_training.rows import Row
from multigraft_training.structured import (
    ImageExample,
    PairExample,
    QuestionExample,
    TaggedExample,
    parse_image,
    parse_pair,
    parse_question,
    parse_tagged,
)

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TextExample:
    """A text, or a pair of texts, and its label. `weight` is a factor of its loss, where its row gives one."""

    text: str
    text_pair: str | None
    label: Label
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text, or a pair of texts, without a label."""

    text: str
    text_pair: str | None = None


@dataclass(frozen=True, slots=True)
class CompletionExample:
    """A raw prompt and what must follow it. `weight` is as in TextExample."""

    prompt: str
    completion: str
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; `role` is one of ROLES."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatExample:
    """A chat whose assistant turns must be learnt. `weight` is as in TextExample."""

    messages: tuple[Message, ...]
    weight: float | None = None


GenerationExample = CompletionExample | ChatExample
StructuredExample = TaggedExample | QuestionExample | ImageExample | PairExample
Example = TextExample | GenerationExample | StructuredExample


def parse_row(row: Row, task_type: RecipeTaskType, problems: list[str]) -> Example | None:
    """The example in a row; None, with every problem of the row noted, when it is not one.

    Fields that the task type does not know, such as an id, are left alone.
    """
    found: list[str] = []
    example = _parser(row, task_type)(row.values, found)
    problems += [f"{row.place}: {problem}" for problem in found]
    return None if found else example


def parse_plain_text(row: Row, problems: list[str]) -> PlainText | None:
    """The text in a row, whatever else it holds; None, with its problem noted, where there is none."""
    found: list[str] = []
    text = text_field(row.values, "text", found)
    pair = text_field(row.values, "text_pair", found) if row.values.get("text_pair") is not None else None
    problems += [f"{row.place}: {problem}" for problem in found]
    return None if text is None else PlainText(text, pair)


def _parser(row: Row, task_type: RecipeTaskType) -> Callable[[dict[str, Any], list[str]], Example | None]:
    if task_type == "text-generation":
        return _chat if "messages" in row.values else _completion
    if task_type == "image-classification":
        return partial(_image, row)
    return _PARSERS[task_type]


def _image(row: Row, values: dict[str, Any], problems: list[str]) -> ImageExample | None:
    return parse_image(values, row.folder, problems)


def _classification(values: dict[str, Any], problems: list[str]) -> TextExample | None:
    text = text_field(values, "text", problems)
    pair = text_field(values, "text_pair", problems) if values.get("text_pair") is not None else None
    label = label_field(values.get("label"), problems)
    weight = weight_field(values, problems)
    return None if text is None or label is None else TextExample(text, pair, label, weight)


def _completion(values: dict[str, Any], problems: list[str]) -> CompletionExample | None:
    if "prompt" not in values and "completion" not in values:
        problems.append("has neither messages nor prompt and completion")
        return None
    prompt, completion = text_field(values, "prompt", problems), text_field(values, "completion", problems)
    weight = weight_field(values, problems)
    return None if prompt is None or completion is None else CompletionExample(prompt, completion, weight)


def _chat(values: dict[str, Any], problems: list[str]) -> ChatExample | None:
    given = values["messages"]
    if not isinstance(given, list) or not given:
        problems.append("messages: is not a list of turns")
        return None
    messages = [_message(index, turn, problems) for index, turn in enumerate(given)]
    complete = [message for message in messages if message is not None]
    if len(complete) == len(messages):
        _check_roles([message.role for message in complete], problems)
    return ChatExample(tuple(complete), weight_field(values, problems))


def _check_roles(roles: list[str], problems: list[str]) -> None:
    if "assistant" not in roles:
        problems.append("messages: has no assistant turn to learn")
    if "system" in roles[1:]:
        problems.append("messages: a system turn must be the first")
    if next((role for role in roles if role != "system"), "user") != "user":
        problems.append("messages: the first turn must be the user's")


def _message(index: int, turn: Any, problems: list[str]) -> Message | None:
    if not isinstance(turn, dict):
        problems.append(f"messages[{index}]: is not an object with role and content")
        return None
    role = turn.get("role")
    if role not in ROLES:
        problems.append(f"messages[{index}].role: {role!r} is none of {', '.join(ROLES)}")
    content = text_field(turn, "content", problems, f"messages[{index}].")
    return None if role not in ROLES or content is None else Message(role, content)


_PARSERS: dict[str, Callable[[dict[str, Any], list[str]], Example | None]] = {
    "text-classification": _classification,
    "token-classification": parse_tagged,
    "question-answering": parse_question,
    "feature-extraction": parse_pair,
}
"""Those that a row's fields alone decide."""
