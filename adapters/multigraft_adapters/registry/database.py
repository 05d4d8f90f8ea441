"""Opens the registry's SQLite file: pragmas, transactions, and the migrations up to this code's tables."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from threading import Lock
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

from multigraft_adapters.errors import DataFolderError

FILE_NAME = "registry.sqlite"
BUSY_SECONDS = 30.0
"""How long a writer waits for another one, and an opener for another one's migrations."""

_BEGIN = "sqlite_begin"
_ALEMBIC = Lock()  # its environment is a global of the process, whichever database it works on


def open_database(data_dir: Path) -> Engine:
    """The engine of the folder's registry, its tables made or brought up to date.

    Safe when several processes open one folder at once. Raises DataFolderError when the folder or the file
    cannot be made, read or written, or when the file was written by a newer multigraft.
    """
    path = data_dir / FILE_NAME
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        with FileLock(data_dir / f"{FILE_NAME}.lock", timeout=BUSY_SECONDS):
            return _migrated(_make_engine(path), path)
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


def _make_engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)), connect_args={"timeout": BUSY_SECONDS})
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
            _migrate(connection, path)
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


def _migrate(connection: Connection, path: Path) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if present is not None and present not in known:
        raise DataFolderError(
            f"the registry {path} was written by a newer multigraft (its tables are at {present}, this one "
            f"knows {scripts.get_current_head()}); upgrade multigraft or use another data folder"
        )
    if present != scripts.get_current_head():
        with _ALEMBIC:
            command.upgrade(config, "head")
