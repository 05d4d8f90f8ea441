"""Rows as examples of a task type; what is wrong with a row is said with its line."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multigraft_training.recipe import RecipeTaskType
from multigraft_training.rows import Row

Label = str | tuple[str, ...] | float
"""One class, several classes, or a number."""

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
Example = TextExample | CompletionExample | ChatExample


def parse_row(row: Row, task_type: RecipeTaskType, problems: list[str]) -> Example | None:
    """The example in a row; None, with every problem of the row noted, when it is not one.

    Fields that the task type does not know, such as an id, are left alone.
    """
    found: list[str] = []
    parse: Callable[[dict[str, Any], list[str]], Example | None]
    if task_type == "text-classification":
        parse = _classification
    elif "messages" in row.values:
        parse = _chat
    else:
        parse = _completion
    example = parse(row.values, found)
    problems += [f"{row.place}: {problem}" for problem in found]
    return None if found else example


def parse_plain_text(row: Row, problems: list[str]) -> PlainText | None:
    """The text in a row, whatever else it holds; None, with its problem noted, where there is none."""
    found: list[str] = []
    text = _text(row.values, "text", found)
    pair = _text(row.values, "text_pair", found) if row.values.get("text_pair") is not None else None
    problems += [f"{row.place}: {problem}" for problem in found]
    return None if text is None else PlainText(text, pair)


def _classification(values: dict[str, Any], problems: list[str]) -> TextExample | None:
    text = _text(values, "text", problems)
    pair = _text(values, "text_pair", problems) if values.get("text_pair") is not None else None
    label = _label(values.get("label"), problems)
    weight = _weight(values, problems)
    return None if text is None or label is None else TextExample(text, pair, label, weight)


def _weight(values: dict[str, Any], problems: list[str]) -> float | None:
    """The row's `weight`, a number of at least 0, or None where it has none; CSV holds it as a string."""
    value = values.get("weight")
    if value is None:
        return None
    try:
        number = float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if math.isfinite(number) and number >= 0:
        return number
    problems.append(f"weight: {value!r} is not a number of at least 0")
    return None


def _label(value: Any, problems: list[str]) -> Label | None:
    if value is None:
        problems.append("label: is missing")
    elif isinstance(value, list):
        return _labels(value, problems)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
        problems.append(f"label: {value!r} is not a number to learn")
    elif not isinstance(value, str):
        problems.append(f"label: {value!r} is neither a string (a class), a list of strings, nor a number")
    elif not value.strip():
        problems.append("label: is empty")
    else:
        return value.strip()
    return None


def _labels(values: list[Any], problems: list[str]) -> Label | None:
    names = tuple(value.strip() for value in values if isinstance(value, str) and value.strip())
    if len(names) < len(values):
        problems.append("label: the list holds something that is not a class")
    elif len(set(names)) < len(names):
        problems.append("label: the list has a class twice")
    else:
        return names
    return None


def _completion(values: dict[str, Any], problems: list[str]) -> CompletionExample | None:
    if "prompt" not in values and "completion" not in values:
        problems.append("has neither messages nor prompt and completion")
        return None
    prompt, completion = _text(values, "prompt", problems), _text(values, "completion", problems)
    weight = _weight(values, problems)
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
    return ChatExample(tuple(complete), _weight(values, problems))


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
    content = _text(turn, "content", problems, f"messages[{index}].")
    return None if role not in ROLES or content is None else Message(role, content)


def _text(values: dict[str, Any], field: str, problems: list[str], prefix: str = "") -> str | None:
    value = values.get(field)
    if value is None:
        problems.append(f"{prefix}{field}: is missing")
    elif not isinstance(value, str):
        problems.append(f"{prefix}{field}: is not a string")
    elif not value.strip():
        problems.append(f"{prefix}{field}: is empty")
    else:
        return value
    return None
