"""`multigraft retire` and `multigraft diff`: a version that goes, and what two of them differ in."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import connected, json_option, short_digest, show
from multigraft_adapters.differences import differences
from multigraft_adapters.errors import InvalidRequestError


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
    rows = differences(*(client.version(task, number) for number in numbers))
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
