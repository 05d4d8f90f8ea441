"""`multigraft promote` and `multigraft rollback`: move an alias forth and back."""

from __future__ import annotations

from typing import Any

import click

from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import connected
from multigraft_adapters.errors import InvalidRequestError

alias_option = click.option(
    "--alias", default="production", show_default=True, metavar="NAME", help="The alias to move."
)
if_match_option = click.option(
    "--if-match",
    type=click.IntRange(min=0),
    metavar="REVISION",
    help="Only if the alias is still at this revision; 0: only if there is none yet.",
)


@click.command()
@click.argument("task")
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.option("--split", metavar="3=0.9,4=0.1", help="Versions with their shares, which add up to 1.")
@alias_option
@if_match_option
@connected
def promote(
    client: Client, task: str, version: int | None, split: str | None, alias: str, if_match: int | None
) -> None:
    """Point an alias at a version of a task, or split it over several.

    Requests under way end on the version that they began with; new ones go to this one.

    \b
    multigraft promote sentiment 3
    multigraft promote sentiment 4 --alias canary
    multigraft promote sentiment --split 3=0.9,4=0.1
    """
    if (version is None) == (split is None):
        raise InvalidRequestError("give either a version or --split")
    target = version if version is not None else _read_split(split or "")
    click.echo(_sentence(client.set_alias(task, alias, target, if_match), task, alias))


@click.command()
@click.argument("task")
@alias_option
@if_match_option
@connected
def rollback(client: Client, task: str, alias: str, if_match: int | None) -> None:
    """Take an alias back to where it was before its last change, a split to its shares.

    Again goes further back.

    \b
    multigraft rollback sentiment
    """
    click.echo(_sentence(client.rollback(task, alias, if_match), task, alias))


def shares(weights: dict[str, float]) -> str:
    """A split as tables and sentences show it: `3 (0.9) and 4 (0.1)`."""
    numbers = sorted(weights, key=int)
    return " and ".join(f"{number} ({weights[number]:.4g})" for number in numbers)


def _read_split(text: str) -> dict[int, float]:
    """The shares by version. Raises InvalidRequestError for what is not written as in the help."""
    split: dict[int, float] = {}
    for part in text.split(","):
        number, equals, share = part.partition("=")
        try:
            version, weight = int(number), float(share)
        except ValueError:
            equals = ""
        if not equals or version in split:
            raise InvalidRequestError(
                f"--split takes each version with its share, such as 3=0.9,4=0.1: not {text!r}"
            )
        split[version] = weight
    return split


def _sentence(answer: dict[str, Any], task: str, alias: str) -> str:
    weights = answer.get("weights")
    where = f"split over the versions {shares(weights)}" if weights else f"version {answer.get('version')}"
    return f"{task}: {alias} is now {where}"
