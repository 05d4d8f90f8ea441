"""Reads rows, or says what exists instead, and turns them into records."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from sqlalchemy import select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import VersionNotFoundError
from multigraft_adapters.manifest import Manifest
from multigraft_adapters.registry.names import unknown_selector, unknown_task
from multigraft_adapters.registry.records import Alias, Event, Task, Version
from multigraft_adapters.registry.tables import AliasRow, EventRow, TaskRow, VersionRow

_MAX_INTEGER = 2**63 - 1


def task_row(session: Session, name: str) -> TaskRow:
    """The task's row; raises TaskNotFoundError."""
    row = session.get(TaskRow, name)
    if row is None:
        raise unknown_task(name, session.scalars(select(TaskRow.name)))
    return row


def version_row(session: Session, task: str, number: int) -> VersionRow:
    """The version's row; raises TaskNotFoundError or VersionNotFoundError."""
    row = session.get(VersionRow, (task, number)) if 0 < number <= _MAX_INTEGER else None
    if row is None:
        raise _unknown(session, task, number)
    return row


def alias_row(session: Session, task: str, alias: str) -> AliasRow:
    """The alias' row; raises TaskNotFoundError or VersionNotFoundError."""
    row = session.get(AliasRow, (task, alias))
    if row is None:
        raise _unknown(session, task, alias)
    return row


def selected_row(session: Session, task: str, selector: int | str) -> VersionRow:
    """The version that a number or an alias names now, in one query; raises as `version_row`."""
    if isinstance(selector, int):
        return version_row(session, task, selector)
    onto = (AliasRow.task == VersionRow.task) & (AliasRow.version == VersionRow.number)
    query = select(VersionRow).join(AliasRow, onto).where(AliasRow.task == task, AliasRow.name == selector)
    row = session.scalar(query)
    if row is None:
        raise _unknown(session, task, selector)
    return row


def version(row: VersionRow) -> Version:
    return Version(
        task=row.task,
        number=row.number,
        digest=row.digest,
        task_type=row.task_type,
        manifest=_manifest(row.manifest),
        created_at=row.created_at,
    )


def alias(row: AliasRow) -> Alias:
    return Alias(task=row.task, name=row.name, version=row.version, revision=row.revision)


def task(row: TaskRow, versions: Iterable[VersionRow], aliases: Iterable[AliasRow]) -> Task:
    return Task(
        name=row.name,
        versions=tuple(map(version, versions)),
        aliases=tuple(map(alias, aliases)),
        created_at=row.created_at,
    )


def event(row: EventRow) -> Event:
    return Event(id=row.id, at=row.at, actor=row.actor, action=row.action, task=row.task, detail=row.detail)


def _unknown(session: Session, task: str, selector: int | str) -> VersionNotFoundError:
    task_row(session, task)
    numbers = session.scalars(select(VersionRow.number).filter_by(task=task))
    names = session.scalars(select(AliasRow.name).filter_by(task=task))
    return unknown_selector(task, selector, numbers, names)


@lru_cache(maxsize=1024)
def _manifest(text: str) -> Manifest:
    return Manifest.model_validate_json(text)
