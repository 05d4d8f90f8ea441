"""The registry's database, SQLite or PostgreSQL: opening it, and its two kinds of transaction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from multigraft_adapters.errors import RegistryUnavailableError
from multigraft_adapters.registry import postgresql, sqlite
from multigraft_adapters.registry.tables import ChangeCounterRow

WAIT_SECONDS = 10.0
"""How long a writer waits for another one."""
_LEVELS = ("REPEATABLE READ", "READ COMMITTED")
"""PostgreSQL's, of readers and of writers, who begin by waiting for each other and then read what is newest."""


class Database:
    """An engine over up-to-date tables, and what it is called in errors. Thread-safe."""

    def __init__(self, reader: Engine, writer: Engine, name: str) -> None:
        """Takes over the engines, which share their connections; use `open_database`."""
        self._reader = reader
        self._writer = writer
        self._name = name

    def close(self) -> None:
        """Closes every connection."""
        self._reader.dispose()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the database, whoever writes meanwhile."""
        with self._telling(), Session(self._reader) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in a transaction that waits for every other writer's, and commits at the end.

        Raises RegistryUnavailableError when it could not begin or commit; then nothing was changed.
        """
        with self._telling(), Session(self._writer) as session, session.begin():
            session.execute(select(ChangeCounterRow.value).with_for_update())  # PostgreSQL's writers queue here
            yield session

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (OperationalError, PoolTimeoutError) as error:
            cause = error.orig if isinstance(error, OperationalError) else error
            reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
            raise RegistryUnavailableError(
                f"the registry {self._name} cannot be used now: {reason}", param=None
            ) from error


def open_database(place: Path | str, wait_seconds: float = WAIT_SECONDS) -> Database:
    """The registry of a data folder (a path), or at a URL of PostgreSQL's (a text), its tables brought up to date.

    Safe when several processes open one registry at once. Writers wait `wait_seconds` for each other. Raises
    DataFolderError when the folder, the file or the server cannot be used, or when the tables were written by a
    newer multigraft; SetupError when the URL is none, or the driver is not installed.
    """
    if isinstance(place, str):
        engine, name = postgresql.open_engine(place, wait_seconds)
        reader, writer = (engine.execution_options(isolation_level=level) for level in _LEVELS)
        return Database(reader, writer, name)
    engine, name = sqlite.open_engine(place, wait_seconds)
    return Database(engine, sqlite.writing(engine), name)
