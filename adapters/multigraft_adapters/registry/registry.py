"""The registry: which versions a task has, and where its aliases point."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session

from multigraft_adapters.errors import TaskNotFoundError
from multigraft_adapters.manifest import manifest_bytes
from multigraft_adapters.registry import aliases, reading
from multigraft_adapters.registry.database import open_database, writing
from multigraft_adapters.registry.names import (
    PRODUCTION,
    check_alias_name,
    check_task_name,
    parse_reference,
)
from multigraft_adapters.registry.records import Alias, Event, Registrable, Task, Version
from multigraft_adapters.registry.tables import AliasRow, ChangeCounterRow, EventRow, TaskRow, VersionRow


class Registry:
    """Tasks, versions, aliases and events in the data folder's database.

    Safe for several threads, and for several processes on one folder. Every write is one short transaction
    that also records an event and bumps the change counter; a call that changes nothing does neither.
    """

    def __init__(self, engine: Engine, base_name: str) -> None:
        """Takes over an engine that `open_database` made; use `Registry.open`."""
        self._engine = engine
        self._writer = writing(engine)
        self._base_name = base_name

    @classmethod
    def open(cls, data_dir: Path | str, base_name: str) -> Registry:
        """The registry of a data folder, made if it is missing, for a server of this base.

        Raises DataFolderError when the folder cannot be used or was written by a newer multigraft.
        """
        return cls(open_database(Path(data_dir)), base_name)

    def close(self) -> None:
        """Closes the database; nothing may be called afterwards."""
        self._engine.dispose()

    def add_version(
        self, task: str, adapter: Registrable, *, alias: str | None = None, actor: str = ""
    ) -> tuple[Version, bool]:
        """Makes the adapter the task's next version, and the task with its first one.

        An adapter that the task already has (the same digest) answers its existing version and False. `alias`
        is pointed at the version in either case, in the same transaction. Raises InvalidRequestError for a
        name that is not allowed.
        """
        check_task_name(task, self._base_name)
        if alias is not None:
            check_alias_name(alias)
        with self._write() as session:
            row = session.scalar(select(VersionRow).filter_by(task=task, digest=adapter.digest))
            created = row is None
            if row is None:
                row = _insert_version(session, task, adapter)
                detail = {"version": row.number, "digest": row.digest}
                _record(session, actor, "add_version", task, detail)
            if alias is not None:
                self._point(session, task, alias, row.number, None, actor)
            return reading.version(row), created

    def tasks(self) -> list[Task]:
        """Every task, by name."""
        with self._read() as session:
            versions, by_task = defaultdict(list), defaultdict(list)
            for version in session.scalars(select(VersionRow).order_by(VersionRow.number)):
                versions[version.task].append(version)
            for alias in session.scalars(select(AliasRow).order_by(AliasRow.name)):
                by_task[alias.task].append(alias)
            rows = session.scalars(select(TaskRow).order_by(TaskRow.name))
            return [reading.task(row, versions[row.name], by_task[row.name]) for row in rows]

    def task(self, name: str) -> Task:
        """One task; raises TaskNotFoundError naming the close ones."""
        with self._read() as session:
            row = reading.task_row(session, name)
            versions = session.scalars(select(VersionRow).filter_by(task=name).order_by(VersionRow.number))
            present = session.scalars(select(AliasRow).filter_by(task=name).order_by(AliasRow.name))
            return reading.task(row, list(versions), list(present))

    def version(self, task: str, number: int) -> Version:
        """One version; raises TaskNotFoundError or VersionNotFoundError naming what exists."""
        with self._read() as session:
            return reading.version(reading.version_row(session, task, number))

    def resolve(self, ref: str) -> Version:
        """The version that a reference names now: `task` (its production), `task@3`, `task@alias`.

        Raises TaskNotFoundError or VersionNotFoundError naming what exists, InvalidRequestError when the
        reference lacks a part. The bare base is no version: `parse_reference` tells it apart first.
        """
        task, selector = parse_reference(ref, self._base_name)
        if task is None:
            raise TaskNotFoundError(f"{ref!r} is the base, not a task", param="task")
        with self._read() as session:
            return reading.version(reading.selected_row(session, task, selector))

    def set_alias(
        self, task: str, alias: str, version: int, *, if_match: int | None = None, actor: str = ""
    ) -> Alias:
        """Points the alias at the version, making the alias if it is new. Pointing it where it points already
        changes nothing, not even its revision.

        `if_match` is the revision that the caller has seen (0: the alias did not exist); when it is stale,
        ConflictError holds the present state as data (`task`, `alias`, `version`, `revision`).
        """
        check_alias_name(alias)
        with self._write() as session:
            reading.version_row(session, task, version)
            return self._point(session, task, alias, version, if_match, actor)

    def rollback(self, task: str, alias: str = PRODUCTION, *, actor: str = "") -> Alias:
        """Takes the alias back to its state before its last change; again goes further back.

        A change made after a rollback starts from there: rolling it back leads to where it was made. Raises
        ConflictError when the alias had no earlier state.
        """
        with self._write() as session:
            row = reading.alias_row(session, task, alias)
            previous = row.version
            aliases.step_back(session, row)
            _record(session, actor, "rollback", task, _moved(row, previous))
            return reading.alias(row)

    def events(self, task: str | None = None, limit: int = 100) -> list[Event]:
        """The latest changes, newest first, of one task or of all."""
        query = select(EventRow).order_by(EventRow.id.desc()).limit(limit)
        if task is not None:
            query = query.filter_by(task=task)
        with self._read() as session:
            return [reading.event(row) for row in session.scalars(query)]

    def change_counter(self) -> int:
        """A number that grows with every write of any process; while it is the same, nothing has changed."""
        with self._read() as session:
            return session.scalars(select(ChangeCounterRow.value)).one()

    def _point(
        self, session: Session, task: str, alias: str, version: int, if_match: int | None, actor: str
    ) -> Alias:
        row = session.get(AliasRow, (task, alias))
        aliases.check_revision(task, alias, row, if_match)
        previous = row.version if row else None
        if row is None or row.version != version:
            row = aliases.point(session, task, alias, version, row)
            _record(session, actor, "set_alias", task, _moved(row, previous))
        return reading.alias(row)

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with Session(self._engine) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with Session(self._writer) as session, session.begin():
            yield session


def _insert_version(session: Session, task: str, adapter: Registrable) -> VersionRow:
    now = datetime.now(UTC)
    owner = session.get(TaskRow, task)
    if owner is None:
        owner = TaskRow(name=task, next_number=1, created_at=now)
        session.add(owner)
        session.flush()
    row = VersionRow(
        task=task,
        number=owner.next_number,
        digest=adapter.digest,
        task_type=adapter.manifest.task_type,
        manifest=manifest_bytes(adapter.manifest).decode(),
        created_at=now,
    )
    owner.next_number += 1
    session.add(row)
    session.flush()
    return row


def _moved(row: AliasRow, previous: int | None) -> dict[str, Any]:
    return {"alias": row.name, "version": row.version, "previous": previous, "revision": row.revision}


def _record(session: Session, actor: str, action: str, task: str, detail: dict[str, Any]) -> None:
    session.add(EventRow(at=datetime.now(UTC), actor=actor, action=action, task=task, detail=detail))
    session.execute(update(ChangeCounterRow).values(value=ChangeCounterRow.value + 1))
