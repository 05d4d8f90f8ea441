"""What two versions of a task differ in, by what `GET /v1/tasks/{task}/versions/{number}` tells of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

NOT_COMPARED = ("task", "version", "leases", "tier", "manifest")
"""What a version's answer has beside what belongs to the version; a manifest is compared field by field."""


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each field that differs, by its dotted name, with both values, and the `change` of what are numbers."""
    first, second = _fields(a), _fields(b)
    names = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
    rows = [{"field": name, "a": first.get(name), "b": second.get(name)} for name in names]
    return [row | _change(row["a"], row["b"]) for row in rows]


def _fields(version: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about a version by dotted names, metrics first, then the manifest's fields."""
    manifest = {name: value for name, value in version["manifest"].items() if name != "metrics"}
    own = {name: value for name, value in version.items() if name not in NOT_COMPARED and name not in manifest}
    return dict(_flat(own)) | dict(_flat(manifest))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    elif name and value != {}:
        yield name, value


def _change(a: Any, b: Any) -> dict[str, float]:
    numbers = [one for one in (a, b) if isinstance(one, int | float) and not isinstance(one, bool)]
    return {"change": numbers[1] - numbers[0]} if len(numbers) == 2 else {}
