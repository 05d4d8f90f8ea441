"""`multigraft promote` and `multigraft rollback`: move an alias forth and back."""

from __future__ import annotations

from typing import Any

import click

from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import connected

alias_option = click.option(
    "--alias", default="production", show_default=True, metavar="NAME", help="The alias to move."
)


@click.command()
@click.argument("task")
@click.argument("version", type=click.IntRange(min=1))
@alias_option
@connected
def promote(client: Client, task: str, version: int, alias: str) -> None:
    """Point an alias at a version of a task.

    Requests under way end on the version that they began with; new ones go to this one.

    \b
    multigraft promote sentiment 3
    multigraft promote sentiment 4 --alias canary
    """
    click.echo(_sentence(client.set_alias(task, alias, version), task, alias))


@click.command()
@click.argument("task")
@alias_option
@connected
def rollback(client: Client, task: str, alias: str) -> None:
    """Take an alias back to where it was before its last change.

    Again goes further back.

    \b
    multigraft rollback sentiment
    """
    click.echo(_sentence(client.rollback(task, alias), task, alias))


def _sentence(answer: dict[str, Any], task: str, alias: str) -> str:
    return f"{task}: {alias} is now version {answer.get('version')}"
