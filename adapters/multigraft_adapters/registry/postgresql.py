"""The registry in a PostgreSQL database, for several servers on several machines."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from sqlalchemy import Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from multigraft_adapters.errors import DataFolderError, SetupError
from multigraft_adapters.registry.migrating import migrate

SCHEMES = ("postgresql", "postgres")
CONNECT_SECONDS = 10
_CONNECTION: dict[str, Any] = {
    "application_name": "multigraft",
    "connect_timeout": CONNECT_SECONDS,
    # A server that fell silent is given up soon, not when the kernel's default hours are over.
    "tcp_user_timeout": CONNECT_SECONDS * 1000,
    "keepalives_idle": CONNECT_SECONDS,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
_MIGRATING = 0x6D67_7265
"""The advisory lock that openers take, one after the other."""


def open_engine(url: str, wait_seconds: float) -> tuple[Engine, str]:
    """The engine of the URL's database, migrated, and its name without the password; raises as `open_database`."""
    engine, name = _make_engine(url, wait_seconds)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATING})")
            migrate(connection, name)
    except DatabaseError as error:
        engine.dispose()
        reason = str(error.orig).strip().splitlines()[0]
        raise DataFolderError(f"the registry {name} cannot be used: {reason}") from error
    except BaseException:
        engine.dispose()
        raise
    return engine, name


def _make_engine(url: str, wait_seconds: float) -> tuple[Engine, str]:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the latter for a port that is none
        parsed = None
    if parsed is None or parsed.drivername not in SCHEMES:
        raise SetupError("the registry's URL must be like postgresql://user:password@host:5432/database")
    if find_spec("psycopg") is None:
        raise SetupError("a registry in PostgreSQL needs a driver: pip install 'multigraft[postgresql]'")
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,  # a server that was restarted is found again
        connect_args=_CONNECTION,
    )

    def on_connect(connection: Any, _record: Any) -> None:
        connection.execute(f"SET lock_timeout = {round(wait_seconds * 1000)}")
        connection.execute("SET TIME ZONE 'UTC'")
        connection.commit()

    event.listen(engine, "connect", on_connect)
    return engine, parsed.render_as_string(hide_password=True)
