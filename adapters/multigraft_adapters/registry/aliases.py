"""How an alias moves: each state it was set to is a change that knows its parent, where rollback leads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import ConflictError
from multigraft_adapters.registry.names import is_name
from multigraft_adapters.registry.splits import Weights, heaviest, restored, spelled, stored
from multigraft_adapters.registry.tables import AliasChangeRow, AliasRow, VersionRow

MAX_HISTORY = 100
"""How many states back an alias' history is told."""


def present(session: Session, task: str, alias: str) -> AliasRow | None:
    """The alias' row unless it was removed."""
    row = session.get(AliasRow, (task, alias)) if is_name(task) and is_name(alias) else None
    return None if row is None or row.removed_at is not None else row


def point(session: Session, task: str, alias: str, weights: Weights) -> AliasRow:
    """Sets the alias to these weights: a new change, whose parent is the state that it was in."""
    row = session.get(AliasRow, (task, alias))
    change = AliasChangeRow(
        task=task,
        alias=alias,
        version=heaviest(weights),
        weights=stored(weights),
        parent=row.change if row else None,
        created_at=datetime.now(UTC),
    )
    session.add(change)
    session.flush()
    if row is None:
        row = AliasRow(task=task, name=alias, revision=0)
        session.add(row)
    _move(row, change)
    session.flush()
    return row


def step_back(session: Session, row: AliasRow) -> None:
    """Moves the alias to the parent of its present change.

    Raises ConflictError when there is none, or when a version there is retired.
    """
    change = session.get_one(AliasChangeRow, row.change)
    if change.parent is None:
        raise _conflict(row.task, row.name, row, f"has no state before {spelled(weights_at(row))}")
    parent = session.get_one(AliasChangeRow, change.parent)
    retired = retired_among(session, row.task, weights_at(parent))
    if retired:
        problem = f"cannot go back to {spelled(weights_at(parent))}: version {retired[0]} is retired"
        raise _conflict(row.task, row.name, row, problem)
    _move(row, parent)
    session.flush()


def remove(session: Session, row: AliasRow) -> None:
    """Marks the alias as removed; its history and its revisions go on if it is set again."""
    row.removed_at = datetime.now(UTC)
    row.revision += 1
    session.flush()


def history(session: Session, row: AliasRow) -> list[AliasChangeRow]:
    """The alias' present state and those that rollback leads to, newest first, at most MAX_HISTORY."""
    found = [session.get_one(AliasChangeRow, row.change)]
    while found[-1].parent is not None and len(found) < MAX_HISTORY:
        found.append(session.get_one(AliasChangeRow, found[-1].parent))
    return found


def weights_at(row: AliasRow | AliasChangeRow) -> Weights:
    """Where the alias points in this state."""
    return restored(row.version, row.weights)


def retired_among(session: Session, task: str, weights: Weights) -> list[int]:
    """Which of these versions are retired."""
    numbers = [number for number, _ in weights]
    query = select(VersionRow.number).where(
        VersionRow.task == task, VersionRow.number.in_(numbers), VersionRow.retired_at.is_not(None)
    )
    return sorted(session.scalars(query))


def pointing_at(session: Session, task: str, number: int) -> list[str]:
    """The aliases that point at a version, alone or in a split, by name."""
    rows = session.scalars(select(AliasRow).filter_by(task=task, removed_at=None).order_by(AliasRow.name))
    return [row.name for row in rows if number in dict(weights_at(row))]


def check_revision(task: str, alias: str, row: AliasRow | None, if_match: int | None) -> None:
    """Raises ConflictError with the present state when `if_match` is not the alias' revision (0 for none)."""
    revision = row.revision if row else 0
    if if_match is None or if_match == revision:
        return
    where = f"is at {spelled(weights_at(row))}, revision {revision}" if row else "does not exist"
    raise _conflict(task, alias, row, f"{where}, not at revision {if_match}")


def _move(row: AliasRow, change: AliasChangeRow) -> None:
    row.version = change.version
    row.weights = change.weights
    row.change = change.id
    row.removed_at = None
    row.revision += 1


def _conflict(task: str, alias: str, row: AliasRow | None, problem: str) -> ConflictError:
    data: dict[str, Any] = {"task": task, "alias": alias, "version": None, "revision": 0}
    if row is not None:
        data |= {"version": row.version, "revision": row.revision}
        data |= {"weights": dict(weights_at(row))} if row.weights is not None else {}
    return ConflictError(f"alias {alias!r} of task {task!r} {problem}", **data)
