"""Brings a database up to this code's tables."""

from __future__ import annotations

from pathlib import Path
from threading import Lock

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from multigraft_adapters.errors import DataFolderError

_ALEMBIC = Lock()  # its environment is a global of the process, whichever database it works on


def migrate(connection: Connection, name: str) -> None:
    """Runs the migrations that are missing, in the connection's transaction.

    Raises DataFolderError when the tables of the registry called `name` were written by a newer multigraft.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if present is not None and present not in known:
        raise DataFolderError(
            f"the registry {name} was written by a newer multigraft (its tables are at {present}, this one "
            f"knows {scripts.get_current_head()}); upgrade multigraft or use another registry"
        )
    if present != scripts.get_current_head():
        with _ALEMBIC:
            command.upgrade(config, "head")
