"""Opening a data folder: migrations from nothing, again, from the future, and folders that cannot be used."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from multigraft_adapters.errors import DataFolderError
from multigraft_adapters.registry import Registry
from multigraft_adapters.registry.database import open_database
from multigraft_adapters.registry.sqlite import FILE_NAME
from multigraft_adapters.registry.tables import Table
from tests.registry.conftest import Place
from tests.registry.parts import make_adapter


def run_sql(folder: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(folder / FILE_NAME)) as connection:
        rows = connection.execute(statement).fetchall()
        connection.commit()
        return rows


def test_the_migrations_make_the_tables_of_the_code(place: Place) -> None:
    database = open_database(place)
    with database.reading() as session:
        assert compare_metadata(MigrationContext.configure(session.connection()), Table.metadata) == []
    database.close()


def test_the_file_is_in_wal_mode(tmp_path: Path) -> None:
    Registry.open(tmp_path / "data", "smollm2").close()
    assert run_sql(tmp_path / "data", "PRAGMA journal_mode") == [("wal",)]


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    registry = Registry.open(tmp_path, "smollm2")
    registry.add_version("topic", make_adapter("one"), alias="production")
    tasks, counter = registry.tasks(), registry.change_counter()
    registry.close()
    before = run_sql(tmp_path, "SELECT * FROM alembic_version")
    again = Registry.open(tmp_path, "smollm2")
    assert (again.tasks(), again.change_counter()) == (tasks, counter)
    assert run_sql(tmp_path, "SELECT * FROM alembic_version") == before
    again.close()


def test_a_registry_of_a_newer_multigraft_is_refused(tmp_path: Path) -> None:
    Registry.open(tmp_path, "smollm2").close()
    run_sql(tmp_path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(DataFolderError, match="written by a newer multigraft"):
        Registry.open(tmp_path, "smollm2")
    assert run_sql(tmp_path, "SELECT version_num FROM alembic_version") == [("9999",)]


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(DataFolderError, match="cannot be used") as caught:
            Registry.open(folder, "smollm2")
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("content", [b"not a database" * 100, None])
def test_a_registry_that_is_no_database_is_one_clear_sentence(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        (tmp_path / FILE_NAME).mkdir()
    else:
        (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(DataFolderError, match="cannot be used") as caught:
        Registry.open(tmp_path, "smollm2")
    assert "\n" not in caught.value.message


def test_an_alias_cannot_point_at_nothing(place: Place) -> None:
    registry = Registry.open(place, "smollm2")
    registry.add_version("topic", make_adapter("one"), alias="production")
    registry.close()
    database = open_database(place)
    with pytest.raises(IntegrityError, match="(?i)foreign key"), database.writing() as session:
        session.execute(text("UPDATE aliases SET version = 7"))
    database.close()


def test_folders_with_odd_names_open_in_many_threads_at_once(tmp_path: Path) -> None:
    folders = [tmp_path / f"a folder?{number}#%20=&" for number in range(6)]

    def fill(folder: Path) -> int:
        registry = Registry.open(folder, "smollm2")
        registry.add_version("topic", make_adapter("one"))
        registry.close()
        return len(run_sql(folder, "SELECT * FROM versions"))

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(fill, folders)) == [1] * 6
