"""The registry in an SQLite file of the data folder: pragmas, transactions, and opening it alone."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from multigraft_adapters.errors import DataFolderError
from multigraft_adapters.registry.migrating import migrate

FILE_NAME = "registry.sqlite"
OPEN_SECONDS = 30.0
"""How long an opener waits for another one's migrations."""

_BEGIN = "sqlite_begin"


def open_engine(data_dir: Path, wait_seconds: float) -> tuple[Engine, str]:
    """The engine of the folder's registry, migrated, and its name; raises DataFolderError."""
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / f"{FILE_NAME}.lock", timeout=OPEN_SECONDS):
            return _migrated(_make_engine(path, wait_seconds), path), str(path)
    except Timeout as error:
        raise DataFolderError(f"the registry {path} is locked by another process") from error
    except OSError as error:
        reason = error.strerror or error
        raise DataFolderError(f"the data folder {data_dir} cannot be used: {reason}") from error
    except (DatabaseError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DatabaseError) else error
        raise DataFolderError(f"the registry {path} cannot be used: {cause}") from error


def writing(engine: Engine) -> Engine:
    """The same engine, its transactions taking the write lock as they begin, not at their first write."""
    return engine.execution_options(**{_BEGIN: "IMMEDIATE"})


def _make_engine(path: Path, wait_seconds: float) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": wait_seconds})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # the driver begins no transactions of its own, `_on_begin` does
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")


def _on_begin(connection: Connection) -> None:
    kind = connection.get_execution_options().get(_BEGIN, "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {kind}")


def _migrated(engine: Engine, path: Path) -> Engine:
    try:
        _set_wal(engine)
        with writing(engine).begin() as connection:
            migrate(connection, str(path))
    except BaseException:
        engine.dispose()
        raise
    return engine


def _set_wal(engine: Engine) -> None:
    connection = engine.raw_connection()
    try:
        connection.cursor().execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
