"""`multigraft events`: who changed what, and when."""

from __future__ import annotations

from typing import Any

import click
from rich.table import Table

from multigraft_adapters.client import Client
from multigraft_adapters.commands.aliases import shares
from multigraft_adapters.commands.options import connected, json_option, short_digest, show


@click.command()
@click.argument("task", required=False)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, at most.")
@json_option
@connected
def events(client: Client, task: str | None, limit: int, json_file: str | None) -> None:
    """Show who changed what, and when, the latest first; with TASK, of that one alone.

    \b
    multigraft events
    multigraft events sentiment --limit 100 --json -
    """
    found = client.events(task, limit)
    table = Table("when", "who", "what", "task", "")
    for event in found:
        when = str(event["at"])[:19].replace("T", " ")
        table.add_row(when, event["actor"], event["action"], event["task"], _detail(event["detail"]))
    show(table, {"events": found}, json_file)


def _detail(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in detail.items() if value is not None)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return shares(value)
    return short_digest(value) if str(value).startswith("sha256:") else str(value)
