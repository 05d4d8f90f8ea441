"""What the sub-commands share: the connection's options, `--json FILE`, and how digests look in a table."""

from __future__ import annotations

import functools
import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
from rich.console import Console, RenderableType

from multigraft_adapters.client import DEFAULT_URL, Client
from multigraft_adapters.errors import InvalidRequestError

P = ParamSpec("P")
T = TypeVar("T")

STDOUT = "-"
MAX_ACTOR_CHARS = 128

json_option = click.option(
    "--json", "json_file", metavar="FILE", help="Write the same content as JSON; - is the standard output."
)


def connected(command: Callable[Concatenate[Client, P], T]) -> Callable[P, T]:
    """Gives a command the options `--url` and `--api-key`, and the client made of them as first argument."""

    @click.option(
        "--url",
        envvar="MULTIGRAFT_URL",
        default=DEFAULT_URL,
        show_default=True,
        show_envvar=True,
        help="The server.",
    )
    @click.option("--api-key", envvar="MULTIGRAFT_API_KEY", show_envvar=True, help="The server's key.")
    @functools.wraps(command)
    def with_client(*args: P.args, **kwargs: P.kwargs) -> T:
        with Client(str(kwargs.pop("url")), _key(kwargs.pop("api_key")), actor=_login()) as client:
            return command(client, *args, **kwargs)

    return with_client


def show(table: RenderableType, content: Any, json_file: str | None) -> None:
    """Prints the table, and writes its content as JSON where `--json` says; `-` prints the JSON alone."""
    if json_file == STDOUT:
        click.echo(_text(content))
        return
    Console(markup=False, highlight=False, emoji=False).print(table)
    if json_file is not None:
        write_json(content, json_file)


def write_json(content: Any, json_file: str) -> None:
    """Writes `content` to the file; raises InvalidRequestError when it cannot be written."""
    try:
        Path(json_file).write_text(_text(content) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidRequestError(f"{json_file} cannot be written: {error.strerror or error}") from error


def short_digest(digest: str) -> str:
    """A digest as tables show it: `sha256:` and 12 hex digits."""
    kind, _, digits = digest.partition(":")
    return f"{kind}:{digits[:12]}" if digits else digest


def _key(value: object) -> str | None:
    return str(value) if value else None


def _login() -> str | None:
    """The user's name, for the server's events; None where there is none that a header can carry."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        return None
    return name if 0 < len(name) <= MAX_ACTOR_CHARS and name.isascii() and name.isprintable() else None


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False)
