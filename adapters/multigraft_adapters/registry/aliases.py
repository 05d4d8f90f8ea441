"""How an alias moves: each state it was set to is a change that knows its parent, where rollback leads."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy.orm import Session

from multigraft_adapters.errors import ConflictError
from multigraft_adapters.registry.tables import AliasChangeRow, AliasRow


def point(session: Session, task: str, alias: str, version: int, row: AliasRow | None) -> AliasRow:
    """Sets the alias to a version: a new change, whose parent is the state that `row` is in."""
    change = AliasChangeRow(
        task=task,
        alias=alias,
        version=version,
        parent=row.change if row else None,
        created_at=datetime.now(UTC),
    )
    session.add(change)
    session.flush()
    if row is None:
        row = AliasRow(task=task, name=alias, version=version, revision=1, change=change.id)
        session.add(row)
    else:
        _move(row, change)
    session.flush()
    return row


def step_back(session: Session, row: AliasRow) -> None:
    """Moves the alias to the parent of its present change; raises ConflictError when there is none."""
    change = session.get_one(AliasChangeRow, row.change)
    if change.parent is None:
        problem = f"has no state before version {row.version}"
        raise _conflict(row.task, row.name, row, problem)
    _move(row, session.get_one(AliasChangeRow, change.parent))
    session.flush()


def check_revision(task: str, alias: str, row: AliasRow | None, if_match: int | None) -> None:
    """Raises ConflictError with the present state when `if_match` is not the alias' revision (0 for none)."""
    present = row.revision if row else 0
    if if_match is None or if_match == present:
        return
    where = f"is at version {row.version}, revision {present}" if row else "does not exist"
    raise _conflict(task, alias, row, f"{where}, not at revision {if_match}")


def _move(row: AliasRow, change: AliasChangeRow) -> None:
    row.version = change.version
    row.change = change.id
    row.revision += 1


def _conflict(task: str, alias: str, row: AliasRow | None, problem: str) -> ConflictError:
    return ConflictError(
        f"alias {alias!r} of task {task!r} {problem}",
        task=task,
        alias=alias,
        version=row.version if row else None,
        revision=row.revision if row else 0,
    )
