"""`multigraft store`: whether what is stored is sound, and deleting what nothing needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from multigraft_adapters.commands.options import json_option, short_digest, show
from multigraft_adapters.errors import DataFolderError, StoreUnavailableError
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import DEFAULT_GRACE_S, Collected, Problem, Store, check, collect, open_store

SHORTEST_GRACE_S = 600


def _located(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say where store and registry are."""
    options = (
        click.option(
            "--data-dir",
            type=click.Path(file_okay=False, path_type=Path),
            default=Path("multigraft-data"),
            show_default=True,
            help="The server's data folder.",
        ),
        click.option("--store", "store_url", metavar="URL", help="As the server's: s3://bucket/prefix."),
        click.option(
            "--registry",
            "registry_url",
            metavar="URL",
            envvar="MULTIGRAFT_REGISTRY",
            show_envvar=True,
            help="As the server's: a PostgreSQL database.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group()
def store() -> None:
    """Look after the store of adapters, also while a server runs on it."""


@store.command("check")
@_located
@json_option
def check_command(data_dir: Path, store_url: str | None, registry_url: str | None, json_file: str | None) -> None:
    """Read every adapter of the store and name what is wrong: damaged, missing or stray files.

    Exits with 1 when something is wrong. A damaged or missing adapter is whole again when it is pushed again.

    \b
    multigraft store check
    multigraft store check --data-dir /var/lib/multigraft --store s3://bucket/adapters
    """
    with _opened(data_dir, store_url, registry_url) as (opened, registry):
        problems = list(check(opened, registry))
        content = {"adapters": len(opened.digests()), "problems": [asdict(problem) for problem in problems]}
    show(_problems(problems, content["adapters"]), content, json_file)
    if problems:
        raise click.exceptions.Exit(1)


@store.command("gc")
@_located
@click.option(
    "--grace",
    "grace_s",
    type=click.IntRange(SHORTEST_GRACE_S),
    default=int(DEFAULT_GRACE_S),
    show_default=True,
    help="Seconds for which what nothing needs is kept: longer than any request's deadline.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@json_option
def gc_command(
    data_dir: Path,
    store_url: str | None,
    registry_url: str | None,
    grace_s: int,
    dry_run: bool,
    json_file: str | None,
) -> None:
    """Delete the adapters that no version needs any longer, the files and checkpoints that no training job needs,
    and what dead writers left.

    \b
    multigraft store gc --dry-run
    multigraft store gc --grace 3600
    """
    with _opened(data_dir, store_url, registry_url) as (opened, registry):
        collected = collect(opened, registry, grace_s=grace_s, dry_run=dry_run)
    content = {
        "dry_run": dry_run,
        "adapters": [asdict(stored) for stored in collected.adapters],
        "remains": list(collected.remains),
        "blobs": [asdict(blob) for blob in collected.blobs],
        "num_bytes": collected.num_bytes,
    }
    show(_collected(collected, dry_run), content, json_file)


@contextmanager
def _opened(data_dir: Path, store_url: str | None, registry_url: str | None) -> Iterator[tuple[Store, Registry]]:
    if not data_dir.is_dir() and (store_url is None or registry_url is None):
        raise DataFolderError(f"there is no data folder {data_dir}; name the server's with --data-dir")
    registry = Registry.open(registry_url or data_dir, base_name="")
    try:
        yield open_store(data_dir, store_url), registry
    except StoreUnavailableError as error:
        reason = error.data.get("reason")
        raise StoreUnavailableError(f"{error.message} ({reason})" if reason else error.message) from error
    finally:
        registry.close()


def _problems(problems: list[Problem], num_adapters: Any) -> Table | str:
    if not problems:
        return f"{num_adapters} adapters, nothing wrong"
    table = Table("problem", "where", "what")
    for problem in problems:
        where = problem.where if problem.kind == "stray" else short_digest(problem.where)
        table.add_row(problem.kind, where, problem.reason)
    return table


def _collected(collected: Collected, dry_run: bool) -> Table | str:
    done = "would be deleted" if dry_run else "deleted"
    if not collected.adapters and not collected.remains and not collected.blobs:
        return f"nothing {'to delete' if dry_run else 'was deleted'}"
    table = Table(done, "bytes", "last put")
    for stored in collected.adapters:
        table.add_row(short_digest(stored.digest), str(stored.num_bytes), f"{stored.age_s / 3600:.1f} h ago")
    for blob in collected.blobs:
        table.add_row(blob.key, str(blob.num_bytes), f"{blob.age_s / 3600:.1f} h ago")
    for name in collected.remains:
        table.add_row(name, "", "left by a writer that died")
    return table
