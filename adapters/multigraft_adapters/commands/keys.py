"""`multigraft keys`: who may call the server, for what, until when and how much."""

from __future__ import annotations

import re
from typing import Any

import click
from rich.table import Table

from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import connected, json_option, show
from multigraft_adapters.errors import InvalidRequestError

UNITS = {"m": 60, "h": 3600, "d": 86_400}


@click.group()
def keys() -> None:
    """Make, list and revoke keys; a key with the scope admin is needed.

    \b
    multigraft keys create shop --scope infer:support-* --expires 90d
    multigraft keys list
    multigraft keys revoke 3f2a90c1d0be
    """


@keys.command()
@click.argument("name")
@click.option(
    "--scope", "scopes", multiple=True, required=True, metavar="SCOPE", help="What it is for; repeat it."
)
@click.option("--tenant", metavar="NAME", help="It sees this tenant's tasks only.")
@click.option("--expires", metavar="90d", help="After how long it ends: a number and m, h or d.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), help="Requests that may begin in a minute.")
@click.option("--tokens-per-minute", type=click.IntRange(min=1), help="Tokens read and written in a minute.")
@click.option("--max-concurrent", type=click.IntRange(min=1), help="Requests at once.")
@json_option
@connected
def create(
    client: Client, /, name: str, scopes: tuple[str, ...], expires: str | None, json_file: str | None, **more: Any
) -> None:
    """Make a key and print it, once: only a hash of it is kept.

    Scopes: infer, infer:PATTERN (of task names), upload, promote, train, metrics, admin.

    \b
    multigraft keys create dashboard --scope metrics
    multigraft keys create acme --scope infer --scope upload --tenant acme
    """
    made = client.create_key(name=name, scopes=list(scopes), expires_in=_seconds(expires), **more)
    show(made["key"], made, json_file)


@keys.command(name="list")
@json_option
@connected
def listing(client: Client, json_file: str | None) -> None:
    """Show every key, without its secret.

    \b
    multigraft keys list
    """
    found = client.keys()
    table = Table("id", "name", "scopes", "tenant", "limits", "ends")
    for key in found:
        table.add_row(key["id"], key["name"], " ".join(key["scopes"]), key["tenant"], _limits(key), _end(key))
    show(table, {"keys": found}, json_file)


@keys.command()
@click.argument("id")
@connected
def revoke(client: Client, id: str) -> None:
    """Let a key open nothing any more.

    \b
    multigraft keys revoke 3f2a90c1d0be
    """
    revoked = client.revoke_key(id)
    click.echo(f"key {revoked['id']} ({revoked['name']}) opens nothing any more")


def _seconds(text: str | None) -> int | None:
    """How long `90d` is. Raises InvalidRequestError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if found is None or int(found[1]) == 0:
        raise InvalidRequestError(f"--expires: {text!r} is not a number and m, h or d, as in 90d", param="expires")
    return int(found[1]) * UNITS[found[2]]


def _limits(key: dict[str, Any]) -> str:
    told = (
        ("requests_per_minute", "requests/min"),
        ("tokens_per_minute", "tokens/min"),
        ("max_concurrent", "at once"),
    )
    return ", ".join(f"{key[field]} {unit}" for field, unit in told if key[field] is not None)


def _end(key: dict[str, Any]) -> str:
    if key["revoked_at"]:
        return f"revoked {str(key['revoked_at'])[:10]}"
    return str(key["expires_at"])[:16].replace("T", " ") if key["expires_at"] else ""
