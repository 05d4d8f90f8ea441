"""`multigraft push`: upload an adapter and hold the server's answers against the stored ones."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from multigraft_adapters.artifact import MANIFEST_FILE
from multigraft_adapters.client import Client, Pushed
from multigraft_adapters.commands.options import connected, json_option, short_digest, show
from multigraft_adapters.commands.samples import DEFAULT_TOLERANCE, Comparison, compare
from multigraft_adapters.errors import InvalidAdapterError
from multigraft_adapters.manifest import Manifest, parse_manifest


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--task", required=True, metavar="NAME", help="The task that gets the new version.")
@click.option("--alias", metavar="NAME", help="Point this alias at the version, if its answers are right.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0.0),
    default=DEFAULT_TOLERANCE,
    show_default=True,
    help="How far a score or a vector's direction may be from the stored one.",
)
@json_option
@connected
def push(
    client: Client, folder: Path, task: str, alias: str | None, tolerance: float, json_file: str | None
) -> None:
    """Upload an adapter as a task's new version and check its answers.

    DIR is the folder that training wrote. The server verifies the files; then each sample of the manifest is
    asked of the new version and compared with the answer that the trainer stored. Only when all agree is the
    alias moved; otherwise the exit code is 1. Generated texts must begin with the same word.

    \b
    multigraft push runs/sentiment/adapter --task sentiment --alias production
    """
    manifest = _read_manifest(folder)
    pushed = client.push(folder, task)
    comparisons = _check_samples(client, pushed, manifest, tolerance) if manifest else []
    failed = sum(not comparison.agrees for comparison in comparisons)
    moved = alias if alias and not failed else None
    if moved:
        client.set_alias(task, moved, pushed.version)
    show(_table(pushed, comparisons, moved), _content(pushed, comparisons, moved), json_file)
    if failed:
        raise click.ClickException(_disagreement(pushed, failed, len(comparisons), alias))


def _read_manifest(folder: Path) -> Manifest | None:
    path = folder / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidAdapterError(f"{path} cannot be read", [str(error)]) from error
    if not isinstance(value, dict):
        raise InvalidAdapterError(f"{path} cannot be read", ["it is not a JSON object"])
    return parse_manifest(value)


def _check_samples(client: Client, pushed: Pushed, manifest: Manifest, tolerance: float) -> list[Comparison]:
    ref = f"{pushed.task}@{pushed.version}"
    comparisons = []
    for sample in manifest.samples:
        served, _ = client.predict(ref, sample.inputs, sample.parameters)
        comparisons.append(compare(manifest.task_type, sample.output, served, tolerance))
    return comparisons


def _largest(comparisons: list[Comparison]) -> float | None:
    return max((c.difference for c in comparisons if c.difference is not None), default=None)


def _table(pushed: Pushed, comparisons: list[Comparison], alias: str | None) -> Table:
    largest = _largest(comparisons)
    agreed = sum(comparison.agrees for comparison in comparisons)
    table = Table("task", "version", "digest", "samples that agree", "largest difference", "alias")
    table.add_row(
        pushed.task,
        str(pushed.version) if pushed.created else f"{pushed.version} (was there)",
        short_digest(pushed.digest),
        f"{agreed} of {len(comparisons)}" if comparisons else "none stored",
        "" if largest is None else f"{largest:.4f}",
        alias or "",
    )
    notes = [f"sample {i + 1}: {c.note}" for i, c in enumerate(comparisons) if c.note]
    if pushed.left_out:
        notes.insert(0, f"left in the folder: {', '.join(pushed.left_out)}")
    table.caption = "\n".join(notes)
    table.caption_justify = "left"
    return table


def _content(pushed: Pushed, comparisons: list[Comparison], alias: str | None) -> dict[str, Any]:
    return asdict(pushed) | {
        "alias": alias,
        "samples": [asdict(comparison) for comparison in comparisons],
        "largest_difference": _largest(comparisons),
    }


def _disagreement(pushed: Pushed, failed: int, total: int, alias: str | None) -> str:
    kept = f"; alias {alias} was not moved" if alias else ""
    return (
        f"{failed} of {total} samples are not answered by {pushed.task}@{pushed.version} as they were in "
        f"training{kept}"
    )
