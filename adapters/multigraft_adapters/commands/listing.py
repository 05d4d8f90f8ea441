"""`multigraft tasks`: what a running server has, and where it is resident."""

from __future__ import annotations

from typing import Any

import click
from rich.tree import Tree

from multigraft_adapters.client import Client
from multigraft_adapters.commands.options import connected, json_option, short_digest, show


@click.command()
@click.argument("task", required=False)
@json_option
@connected
def tasks(client: Client, task: str | None, json_file: str | None) -> None:
    """List the tasks of a server with their versions and aliases, a split one with its shares.

    Each version is shown with its adapter's digest and the nearest tier in which it is resident: device, host
    or store. With TASK, only that one.

    \b
    multigraft tasks
    multigraft tasks sentiment --json -
    """
    listed = client.tasks() if task is None else [client.task(task)]
    show(_tree(listed), {"tasks": listed}, json_file)


def _tree(listed: list[dict[str, Any]]) -> Tree:
    tree = Tree("tasks" if listed else "no tasks yet; multigraft push adds one")
    for task in listed:
        branch = tree.add(str(task["name"]))
        for version in task["versions"]:
            branch.add(_line(version, _aliases_of(task, version["version"])))
    return tree


def _line(version: dict[str, Any], aliases: list[str]) -> str:
    parts = [str(version["version"]), version["task_type"], short_digest(version["digest"])]
    parts += [f"on {version['tier']}"] if version.get("tier") else []
    parts += ["merged"] if version.get("merged") else []
    parts += ["retired"] if version.get("retired_at") else []
    parts += (
        [", ".join(f"{name}={value}" for name, value in version["tags"].items())] if version.get("tags") else []
    )
    parts += [f"<- {', '.join(aliases)}"] if aliases else []
    return "  ".join(parts)


def _aliases_of(task: dict[str, Any], version: int) -> list[str]:
    """The aliases that point to a version, those of a split with its share."""
    found = []
    for alias in task["aliases"]:
        weights = alias.get("weights") or {str(alias["version"]): 1}
        share = weights.get(str(version))
        if share is not None:
            found.append(alias["name"] if share == 1 else f"{alias['name']} ({share:.4g})")
    return found
