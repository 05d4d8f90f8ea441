"""Reads rows, or says what exists instead, and turns them into records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from multigraft_adapters.errors import VersionNotFoundError
from multigraft_adapters.manifest import Manifest
from multigraft_adapters.registry import aliases
from multigraft_adapters.registry.names import is_name, unknown_selector, unknown_task
from multigraft_adapters.registry.records import Alias, AliasState, Event, Routed, Task, Version
from multigraft_adapters.registry.splits import Weights
from multigraft_adapters.registry.tables import (
    AliasChangeRow,
    AliasRow,
    EventRow,
    Table,
    TagRow,
    TaskRow,
    VersionRow,
)

Row = TypeVar("Row", bound=Table)
_MAX_INTEGER = 2**63 - 1


def task_row(session: Session, name: str) -> TaskRow:
    """The task's row; raises TaskNotFoundError."""
    row = session.get(TaskRow, name) if is_name(name) else None
    if row is None:
        raise unknown_task(name, session.scalars(select(TaskRow.name)))
    return row


def version_row(session: Session, task: str, number: int) -> VersionRow:
    """The version's row; raises TaskNotFoundError or VersionNotFoundError."""
    row = session.get(VersionRow, (task, number)) if is_name(task) and 0 < number <= _MAX_INTEGER else None
    if row is None:
        raise _unknown(session, task, number)
    return row


def alias_row(session: Session, task: str, alias: str) -> AliasRow:
    """The alias' row; raises TaskNotFoundError or VersionNotFoundError."""
    row = aliases.present(session, task, alias)
    if row is None:
        raise _unknown(session, task, alias)
    return row


def routed(session: Session, task: str, selector: int | str) -> Routed:
    """What a number or an alias names now; raises as `version_row`, also for a retired version."""
    if isinstance(selector, int):
        row = version_row(session, task, selector)
        if row.retired_at is not None:
            raise retired(row)
        return Routed(((version(row), 1.0),))
    if not (is_name(task) and is_name(selector)):
        raise _unknown(session, task, selector)
    onto = (AliasRow.task == VersionRow.task) & (AliasRow.version == VersionRow.number)
    query = select(VersionRow, AliasRow).join(AliasRow, onto)
    found = session.execute(query.filter(AliasRow.task == task, AliasRow.name == selector)).first()
    if found is None or found[1].removed_at is not None:
        raise _unknown(session, task, selector)
    weights = aliases.weights_at(found[1])
    return Routed(tuple((version(version_row(session, task, number)), weight) for number, weight in weights))


def retired(row: VersionRow) -> VersionNotFoundError:
    """The error for a version that is no longer served."""
    at = f"{row.retired_at:%Y-%m-%d %H:%M:%S} UTC"
    return VersionNotFoundError(f"version {row.number} of task {row.task!r} was retired at {at}", param="version")


def version(row: VersionRow, tags: Mapping[str, str] | None = None) -> Version:
    """The version as others see it; its tags where the caller has read them."""
    return Version(
        task=row.task,
        number=row.number,
        digest=row.digest,
        task_type=row.task_type,
        manifest=Manifest.model_validate_json(row.manifest),
        created_at=row.created_at,
        retired_at=row.retired_at,
        tags=tags or {},
    )


def tags(session: Session, *where: ColumnElement[bool]) -> dict[tuple[str, int], dict[str, str]]:
    """The tags by task and version."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for row in session.scalars(select(TagRow).where(*where).order_by(TagRow.name)):
        found.setdefault((row.task, row.number), {})[row.name] = row.value
    return found


def alias(row: AliasRow) -> Alias:
    """The alias as others see it."""
    weights = _split(aliases.weights_at(row))
    return Alias(task=row.task, name=row.name, version=row.version, revision=row.revision, weights=weights)


def alias_state(row: AliasChangeRow) -> AliasState:
    """A state of an alias as others see it."""
    return AliasState(version=row.version, weights=_split(aliases.weights_at(row)), at=row.created_at)


def tasks(session: Session, *names: str) -> list[Task]:
    """These tasks, or all, by name: one query for each kind of row, however many there are."""
    versions: dict[str, list[Version]] = defaultdict(list)
    found: dict[str, list[Alias]] = defaultdict(list)
    tagged = tags(session, *_among(TagRow.task, names))
    for row in _plain(session, VersionRow, *_among(VersionRow.task, names)):
        versions[row.task].append(version(row, tagged.get((row.task, row.number))))
    present = AliasRow.removed_at.is_(None)
    for one in _plain(session, AliasRow, *_among(AliasRow.task, names), present):
        found[one.task].append(alias(one))
    rows = _plain(session, TaskRow, *_among(TaskRow.name, names))
    listed = [_task(row, versions[row.name], found[row.name]) for row in rows]
    return sorted(listed, key=_name)  # databases sort by rules of their own


def newest_event(session: Session) -> int:
    """The largest id of an event; 0 where there is none."""
    return session.scalar(select(func.max(EventRow.id))) or 0


def changed_since(session: Session, newest: int) -> set[str]:
    """The tasks that events after this one are about: ids are in the order in which changes were made."""
    return set(session.scalars(select(EventRow.task).where(EventRow.id > newest)))


def event(row: EventRow) -> Event:
    return Event(id=row.id, at=row.at, actor=row.actor, action=row.action, task=row.task, detail=row.detail)


def _unknown(session: Session, task: str, selector: int | str) -> VersionNotFoundError:
    task_row(session, task)
    numbers = session.scalars(select(VersionRow.number).filter_by(task=task, retired_at=None))
    names = session.scalars(select(AliasRow.name).filter_by(task=task, removed_at=None))
    return unknown_selector(task, selector, numbers, names)


def _task(row: TaskRow, versions: list[Version], found: list[Alias]) -> Task:
    versions.sort(key=_number)
    return Task(row.name, tuple(versions), tuple(sorted(found, key=_name)), row.created_at, row.pinned_at)


def _name(one: Task | Alias) -> str:
    return one.name


def _number(one: Version) -> int:
    return one.number


def _plain(session: Session, kind: type[Row], *where: ColumnElement[bool]) -> Iterable[Row]:
    """Rows with the attributes of `kind` that the session does not keep track of, at half the time each."""
    rows: Any = session.execute(select(kind.__table__).where(*where))
    return cast(Iterable[Row], rows)


def _split(weights: Weights) -> Weights | None:
    return weights if len(weights) > 1 else None


def _among(column: InstrumentedAttribute[str], names: tuple[str, ...]) -> list[ColumnElement[bool]]:
    return [column.in_(names)] if names else []
