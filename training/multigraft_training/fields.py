"""The fields of a row that several task types have; what is wrong with one is noted."""

from __future__ import annotations

import math
from typing import Any

Label = str | tuple[str, ...] | float
"""One class, several classes, or a number."""


def text_field(values: dict[str, Any], field: str, problems: list[str], prefix: str = "") -> str | None:
    """The text in a field, which must have some."""
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


def text_list(values: dict[str, Any], field: str, problems: list[str]) -> tuple[str, ...] | None:
    """The texts in a field that holds a list of them, none of which may be empty."""
    value = values.get(field)
    if value is None:
        problems.append(f"{field}: is missing")
    elif not isinstance(value, list) or not value:
        problems.append(f"{field}: is not a list of strings")
    elif wrong := [i for i, one in enumerate(value) if not isinstance(one, str) or not one.strip()]:
        problems.append(f"{field}[{wrong[0]}]: {value[wrong[0]]!r} is not a string with something in it")
    else:
        return tuple(value)
    return None


def label_field(value: Any, problems: list[str]) -> Label | None:
    """A row's label."""
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


def weight_field(values: dict[str, Any], problems: list[str]) -> float | None:
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


def _labels(values: list[Any], problems: list[str]) -> Label | None:
    names = tuple(value.strip() for value in values if isinstance(value, str) and value.strip())
    if len(names) < len(values):
        problems.append("label: the list holds something that is not a class")
    elif len(set(names)) < len(names):
        problems.append("label: the list has a class twice")
    else:
        return names
    return None
