"""JSON that came from outside: one object, no duplicate keys, no NaN, nothing that cannot be written again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from multigraft_adapters.manifest import canonical_json

MAX_DEPTH = 64


class _Refused(ValueError):
    """What the parser's hooks raise; the message is the problem."""


def parse_object(name: str, data: bytes, problems: list[str]) -> dict[str, Any] | None:
    """The JSON object in `data`; None, with a problem noted under `name`, when it is anything else."""
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
        )
        if _is_deep(value):
            raise RecursionError
        canonical_json(value)  # finds infinite numbers and half surrogate pairs
    except _Refused as error:
        problems.append(f"{name}: {error}")
    except UnicodeError:
        problems.append(f"{name} is not UTF-8 text")
    except RecursionError:
        problems.append(f"{name} is nested too deeply")
    except ValueError as error:
        problems.append(f"{name} is not JSON: {error}")
    else:
        if isinstance(value, dict):
            return value
        problems.append(f"{name} is not a JSON object")
    return None


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise _Refused(f"the key {key[:100]!r} appears twice")
        value[key] = item
    return value


def _refuse_constant(constant: str) -> None:
    raise _Refused(f"{constant} is not a JSON number")


def _is_deep(value: Any) -> bool:
    """Whether lists and objects are nested more than MAX_DEPTH times; walks level by level, not recursively."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(item: Any) -> Iterable[Any]:
    if isinstance(item, dict):
        return item.values()
    return item if isinstance(item, list) else ()
