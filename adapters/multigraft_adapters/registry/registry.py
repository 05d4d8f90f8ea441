"""The registry: which versions a task has, and where its aliases point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import ConflictError, TaskNotFoundError
from multigraft_adapters.registry import aliases, reading
from multigraft_adapters.registry.database import WAIT_SECONDS, Database, open_database
from multigraft_adapters.registry.files import Files
from multigraft_adapters.registry.job_leases import JobLeases
from multigraft_adapters.registry.jobs import Jobs
from multigraft_adapters.registry.keys import Keys
from multigraft_adapters.registry.lookups import Listing, Lookups
from multigraft_adapters.registry.names import (
    PRODUCTION,
    check_alias_name,
    check_tag,
    check_task_name,
    is_name,
    parse_reference,
)
from multigraft_adapters.registry.records import Alias, AliasState, Event, Registrable, Routed, Task, Version
from multigraft_adapters.registry.splits import Weights, spelled, weights_of
from multigraft_adapters.registry.tables import ChangeCounterRow, EventRow, TagRow, TaskRow, VersionRow
from multigraft_adapters.registry.writing import CHANGED, insert_version, moved, record, state_of, write_tag

MAX_READ_AGAIN = 500
"""Of so many changed tasks a listing reads each again; of more, all tasks."""


class Registry:
    """Tasks, versions, aliases and events in one database.

    Safe for several threads, and for several processes on one database. Every write is one short transaction
    that also records an event and bumps the change counter; a call that changes nothing does neither. A database
    that is locked or cannot be reached raises RegistryUnavailableError, and nothing was changed.
    """

    def __init__(self, database: Database, base_name: str) -> None:
        """Takes over a database that `open_database` made; use `Registry.open`."""
        self._database = database
        self._base_name = base_name
        self._lookups = Lookups()
        self._counter: int | None = None
        self._newest = 0
        self.files = Files(database)
        self.jobs = Jobs(database)
        self.keys = Keys(database)

    @classmethod
    def open(cls, place: Path | str, base_name: str, *, wait_seconds: float = WAIT_SECONDS) -> Registry:
        """The registry in a data folder (a path), or at a URL of PostgreSQL's (a text), for servers of this base.

        It is made if it is missing. Raises DataFolderError when it cannot be used or was written by a newer
        multigraft, SetupError for a URL that is none.
        """
        return cls(open_database(place, wait_seconds), base_name)

    def close(self) -> None:
        """Closes the database; nothing may be called afterwards."""
        self._database.close()

    def job_leases(self, lease_s: float) -> JobLeases:
        """The training jobs for a worker whose leases are of so many seconds."""
        return JobLeases(self._database, lease_s)

    def add_version(
        self,
        task: str,
        adapter: Registrable,
        *,
        alias: str | None = None,
        if_match: int | None = None,
        tenant: str | None = None,
        actor: str = "",
        also: Callable[[Session, Version], None] | None = None,
    ) -> tuple[Version, bool]:
        """Makes the adapter the task's next version, and the task with its first one.

        An adapter that the task already has (the same digest) answers its existing version and False; one that
        was retired is served again. `alias` is pointed at the version in either case, in the same transaction
        (`if_match` as in `set_alias`), and `also` is done, which may refuse all of it by raising.
        A new task is the `tenant`'s. Raises InvalidRequestError for a name that is not allowed, ConflictError for
        a tenant's upload to a task that is not its own.
        """
        check_task_name(task, self._base_name)
        if alias is not None:
            check_alias_name(alias)
        with self._write() as session:
            _check_owner(session, task, tenant)
            row = session.scalar(select(VersionRow).filter_by(task=task, digest=adapter.digest))
            created = row is None
            if row is None:
                row = insert_version(session, task, adapter, tenant)
                record(session, actor, "add_version", task, {"version": row.number, "digest": row.digest})
            elif row.retired_at is not None:
                row.retired_at = None
                record(session, actor, "restore_version", task, {"version": row.number, "digest": row.digest})
            if alias is not None:
                self._point(session, task, alias, weights_of(row.number), if_match, actor)
            version = reading.version(row)
            if also is not None:
                also(session, version)
            return version, created

    def retire(self, task: str, number: int, *, actor: str = "") -> Version:
        """Marks the version as no longer served: references to it are answered as to one that does not exist.

        Again changes nothing. What holds a lease on it is not this class's business. Raises TaskNotFoundError,
        VersionNotFoundError, or ConflictError (with the data `aliases`) while an alias points to it.
        """
        with self._write() as session:
            row = reading.version_row(session, task, number)
            pointing = aliases.pointing_at(session, task, number)
            if pointing:
                names = " and ".join(f"alias {name!r}" for name in pointing)
                raise ConflictError(
                    f"version {number} of task {task!r} is in use by {names}; move it first", aliases=pointing
                )
            if row.retired_at is None:
                row.retired_at = datetime.now(UTC)
                record(session, actor, "retire", task, {"version": number, "digest": row.digest})
            return reading.version(row)

    def set_tag(self, task: str, number: int, name: str, value: str | None, *, actor: str = "") -> Version:
        """Sets a tag of a version, or removes it where `value` is None.

        Raises TaskNotFoundError, VersionNotFoundError, InvalidRequestError for a name or a value that cannot be.
        """
        check_tag(name, value)
        with self._write() as session:
            row = reading.version_row(session, task, number)
            if write_tag(session, task, number, name, value):
                detail = {"version": number, "tag": name, "value": value}
                record(session, actor, "set_tag", task, detail)
            return self._with_tags(session, row)

    def pin(self, task: str, wanted: bool, *, actor: str = "") -> Task:
        """Notes that the task is to stay in memory, or need not any longer; again changes nothing.

        Raises TaskNotFoundError.
        """
        with self._write() as session:
            row = reading.task_row(session, task)
            if (row.pinned_at is not None) != wanted:
                row.pinned_at = datetime.now(UTC) if wanted else None
                record(session, actor, "pin" if wanted else "unpin", task, {})
                session.flush()
            return reading.tasks(session, task)[0]

    def note(self, task: str, action: str, detail: Mapping[str, Any], *, actor: str = "") -> None:
        """Leaves an event of what a server did with a task and the registry has no state of, such as a merge.

        Raises TaskNotFoundError.
        """
        with self._write() as session:
            reading.task_row(session, task)
            record(session, actor, action, task, dict(detail))

    def pinned_tasks(self) -> list[Task]:
        """The tasks that are to stay in memory, by name."""
        with self._read() as session:
            names = session.scalars(select(TaskRow.name).where(TaskRow.pinned_at.is_not(None))).all()
            return reading.tasks(session, *names) if names else []

    def tasks(self) -> list[Task]:
        """Every task, by name."""
        with self._read() as session:
            counter = session.scalars(select(ChangeCounterRow.value)).one()
            listing = self._lookups.listing
            if listing is None or listing.counter != counter:
                listing = self._lookups.listing = _list(session, counter, listing)
            return list(listing.tasks)

    def task(self, name: str) -> Task:
        """One task; raises TaskNotFoundError naming the close ones."""
        with self._read() as session:
            reading.task_row(session, name)
            return reading.tasks(session, name)[0]

    def version(self, task: str, number: int) -> Version:
        """One version, retired ones too; raises TaskNotFoundError or VersionNotFoundError naming what exists."""
        with self._read() as session:
            return self._with_tags(session, reading.version_row(session, task, number))

    def digests(self) -> dict[str, datetime | None]:
        """Every adapter that a version has: None while one of them is served, else when the last was retired."""
        found: dict[str, datetime | None] = {}
        with self._read() as session:
            for digest, at in session.execute(select(VersionRow.digest, VersionRow.retired_at)):
                other = found.get(digest, at)
                found[digest] = None if at is None or other is None else max(at, other)
        return found

    def retired(self) -> list[tuple[str, int]]:
        """The task and number of every version that is retired."""
        query = select(VersionRow.task, VersionRow.number).where(VersionRow.retired_at.is_not(None))
        with self._read() as session:
            return [(task, number) for task, number in session.execute(query)]

    def kept(self, task: str, selector: int | str) -> Routed | None:
        """What `look_up` answers, if no look into the database is needed for it."""
        return self._lookups.routed(task, selector)

    def look_up(self, task: str, selector: int | str) -> Routed:
        """What a version's number or an alias names now.

        The answer is kept until `refresh` notices another process's change, or this one makes one. Raises
        TaskNotFoundError or VersionNotFoundError naming what exists, for a retired version too.
        """
        kept = self._lookups.routed(task, selector)
        if kept is None:
            generation = self._lookups.generation
            with self._read() as session:
                kept = reading.routed(session, task, selector)
            self._lookups.keep(generation, task, selector, kept)
        return kept

    def resolve(self, ref: str) -> Version:
        """The version that a reference names now (`task`, `task@3`, `task@alias`), of a split the heaviest.

        Always looks into the database. Raises as `look_up`, and InvalidRequestError when the reference lacks a
        part. The bare base is no version: `parse_reference` tells it apart first.
        """
        task, selector = parse_reference(ref, self._base_name)
        if task is None:
            raise TaskNotFoundError(f"{ref!r} is the base, not a task", param="task")
        with self._read() as session:
            return reading.routed(session, task, selector).heaviest

    def refresh(self) -> bool:
        """Forgets what references named to tasks that have changed since the last call; whether any have."""
        with self._read() as session:
            counter = session.scalars(select(ChangeCounterRow.value)).one()
            if counter == self._counter:
                return False
            newest = reading.newest_event(session)
            changed = None if self._counter is None else reading.changed_since(session, self._newest)
        if changed is None:
            self._lookups.forget_all()
        else:
            self._lookups.forget(changed)
        self._counter, self._newest = counter, newest
        return True

    def set_alias(
        self,
        task: str,
        alias: str,
        target: int | Mapping[int, float],
        *,
        if_match: int | None = None,
        actor: str = "",
    ) -> Alias:
        """Points the alias at a version, or splits it over several by weight, making the alias if it is new.

        Pointing it where it points already changes nothing, not even its revision. `if_match` is the revision
        that the caller has seen (0: the alias did not exist); when it is stale, ConflictError holds the present
        state as data (`task`, `alias`, `version`, `revision`, and `weights` of a split). Raises ConflictError for
        a retired version, InvalidRequestError for weights that are no split.
        """
        check_alias_name(alias)
        weights = weights_of(target)
        with self._write() as session:
            for number, _ in weights:
                reading.version_row(session, task, number)
            return self._point(session, task, alias, weights, if_match, actor)

    def rollback(
        self, task: str, alias: str = PRODUCTION, *, if_match: int | None = None, actor: str = ""
    ) -> Alias:
        """Takes the alias back to its state before its last change, weights too; again goes further back.

        A change made after a rollback starts from there: rolling it back leads to where it was made. Raises
        ConflictError when the alias had no earlier state, when a version of that state is retired, or when
        `if_match` is stale.
        """
        with self._write() as session:
            row = reading.alias_row(session, task, alias)
            aliases.check_revision(task, alias, row, if_match)
            before = state_of(row)
            aliases.step_back(session, row)
            record(session, actor, "rollback", task, moved(row, before))
            return reading.alias(row)

    def remove_alias(self, task: str, alias: str, *, if_match: int | None = None, actor: str = "") -> None:
        """Removes the alias; set again, it goes on with its history. Raises as `rollback`."""
        with self._write() as session:
            row = reading.alias_row(session, task, alias)
            aliases.check_revision(task, alias, row, if_match)
            aliases.remove(session, row)
            detail = {"alias": alias, "previous": row.version, "revision": row.revision}
            record(session, actor, "remove_alias", task, detail)

    def alias(self, task: str, alias: str) -> tuple[Alias, list[AliasState]]:
        """The alias, and the states that rollback leads to, newest first, the present one first of all."""
        with self._read() as session:
            row = reading.alias_row(session, task, alias)
            return reading.alias(row), [reading.alias_state(state) for state in aliases.history(session, row)]

    def events(self, task: str | None = None, limit: int = 100, before: int | None = None) -> list[Event]:
        """The latest changes, newest first, of one task or of all; with `before`, those of smaller ids."""
        wanted: list[ColumnElement[bool]] = []
        if task is not None and not is_name(task):
            return []
        if task is not None:
            wanted.append(EventRow.task == task)
        if before is not None:
            wanted.append(EventRow.id < before)
        query = select(EventRow).where(*wanted).order_by(EventRow.id.desc()).limit(limit)
        with self._read() as session:
            return [reading.event(row) for row in session.scalars(query)]

    def change_counter(self) -> int:
        """A number that grows with every write of any process; while it is the same, nothing has changed."""
        with self._read() as session:
            return session.scalars(select(ChangeCounterRow.value)).one()

    def _point(
        self, session: Session, task: str, alias: str, weights: Weights, if_match: int | None, actor: str
    ) -> Alias:
        row = aliases.present(session, task, alias)
        aliases.check_revision(task, alias, row, if_match)
        retired = aliases.retired_among(session, task, weights)
        if retired:
            raise ConflictError(
                f"alias {alias!r} of task {task!r} cannot point at {spelled(weights)}: version {retired[0]} is "
                "retired"
            )
        before = state_of(row)
        if row is None or before != weights:
            row = aliases.point(session, task, alias, weights)
            record(session, actor, "set_alias", task, moved(row, before))
        return reading.alias(row)

    def _with_tags(self, session: Session, row: VersionRow) -> Version:
        session.flush()
        tags = reading.tags(session, TagRow.task == row.task, TagRow.number == row.number)
        return reading.version(row, tags.get((row.task, row.number)))

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with self._database.reading() as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with self._database.writing() as session:
            yield session
        self._lookups.forget(session.info.get(CHANGED, ()))


def _check_owner(session: Session, task: str, tenant: str | None) -> None:
    """Raises ConflictError when a tenant's upload would go to a task that is not its own."""
    owner = session.get(TaskRow, task)
    if tenant is not None and owner is not None and owner.tenant != tenant:
        raise ConflictError(f"the name {task!r} is taken; choose another", param="task")


def _list(session: Session, counter: int, before: Listing | None) -> Listing:
    """Every task now; of a listing made before, those that have not changed since."""
    newest = reading.newest_event(session)
    changed = reading.changed_since(session, before.newest) if before else set()
    if before is None or len(changed) > MAX_READ_AGAIN:
        return Listing(counter, newest, tuple(reading.tasks(session)))
    return before.updated(counter, newest, reading.tasks(session, *changed) if changed else [])
