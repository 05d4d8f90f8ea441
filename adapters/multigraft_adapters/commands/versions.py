"""`multigraft retire` and `multigraft diff`: a version that goes, and what two of them differ in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from rich.table import Table

from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import connected, json_option, short_digest, show
from multigraft_adapters.errors import InvalidRequestError

NOT_COMPARED = ("task", "version", "leases", "tier", "manifest")
"""What a version's answer has beside what belongs to the version; a manifest is compared field by field."""


@click.command()
@click.argument("task")
@click.argument("version", type=click.IntRange(min=1))
@connected
def retire(client: Client, task: str, version: int) -> None:
    """Serve a version of a task no longer.

    Refused while an alias points to it. Requests under way end on it.

    \b
    multigraft retire sentiment 2
    """
    client.retire(task, version)
    click.echo(f"{task}: version {version} is retired")


@click.command()
@click.argument("task")
@click.argument("a")
@click.argument("b")
@json_option
@connected
def diff(client: Client, task: str, a: str, b: str, json_file: str | None) -> None:
    """Show what two versions of a task differ in: their manifests and what they measured.

    A and B are numbers of versions, or aliases.

    \b
    multigraft diff sentiment 3 4
    multigraft diff sentiment production canary --json -
    """
    numbers = [_number(client, task, name) for name in (a, b)]
    first, second = (_fields(client.version(task, number)) for number in numbers)
    names = [name for name in dict.fromkeys([*first, *second]) if first.get(name) != second.get(name)]
    rows = [{"field": name, "a": first.get(name), "b": second.get(name)} for name in names]
    for row in rows:
        row |= _change(row["a"], row["b"])
    show(
        _table(task, numbers, rows),
        {"task": task, "a": numbers[0], "b": numbers[1], "differences": rows},
        json_file,
    )


def _number(client: Client, task: str, name: str) -> int:
    """The version that a number or an alias means; raises InvalidRequestError for an alias of several."""
    if name.isdecimal():
        return int(name)
    aliases = {alias["name"]: alias for alias in client.task(task)["aliases"]}
    if name not in aliases:
        known = ", ".join(aliases) or "none"
        raise InvalidRequestError(f"task {task!r} has no alias {name!r}; it has: {known}")
    if aliases[name].get("weights"):
        raise InvalidRequestError(f"alias {name!r} of task {task!r} is split; name one of its versions")
    return int(aliases[name]["version"])


def _fields(version: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about a version by dotted names, metrics first, then the manifest's fields."""
    manifest = {name: value for name, value in version["manifest"].items() if name != "metrics"}
    own = {name: value for name, value in version.items() if name not in NOT_COMPARED and name not in manifest}
    return dict(_flat(own)) | dict(_flat(manifest))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, one in value.items():
            yield from _flat(one, f"{name}.{key}" if name else str(key))
    elif name:
        yield name, value


def _change(a: Any, b: Any) -> dict[str, float]:
    numbers = [one for one in (a, b) if isinstance(one, int | float) and not isinstance(one, bool)]
    return {"change": numbers[1] - numbers[0]} if len(numbers) == 2 else {}


def _table(task: str, numbers: list[int], rows: list[dict[str, Any]]) -> Table | str:
    if not rows:
        return f"{task}: versions {numbers[0]} and {numbers[1]} do not differ"
    table = Table("field", *(f"{task}@{number}" for number in numbers), "change")
    for row in rows:
        change = f"{row['change']:+.4g}" if "change" in row else ""
        table.add_row(row["field"], _shown(row["a"]), _shown(row["b"]), change)
    return table


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "" if value is None else str(value)
    return short_digest(text) if text.startswith("sha256:") else text
