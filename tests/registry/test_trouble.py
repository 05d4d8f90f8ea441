"""A database that is locked, restarted or not there: one clear error, nothing lost, and on it goes afterwards."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from multigraft_adapters.errors import DataFolderError, MultigraftError, RegistryUnavailableError, SetupError
from multigraft_adapters.registry import Registry
from multigraft_adapters.registry.sqlite import FILE_NAME
from tests.postgresql import PostgresServer
from tests.registry.conftest import Place
from tests.registry.parts import make_adapter


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Another process is in the middle of a change."""
    if isinstance(place, Path):
        with closing(sqlite3.connect(place / FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
    else:
        with closing(psycopg.connect(place)) as other:
            other.execute("SELECT * FROM change_counter FOR UPDATE")
            yield


@pytest.fixture
def impatient(place: Place) -> Iterator[Registry]:
    """A registry whose writers wait a moment only, with one version in production."""
    registry = Registry.open(place, "smollm2", wait_seconds=0.1)
    registry.add_version("topic", make_adapter("one"), alias="production")
    yield registry
    registry.close()


def test_a_locked_registry_refuses_changes_answers_and_goes_on(impatient: Registry, place: Place) -> None:
    tasks, counter = impatient.tasks(), impatient.change_counter()
    with locked(place):
        for _ in range(2):
            with pytest.raises(RegistryUnavailableError, match="lock") as caught:
                impatient.add_version("topic", make_adapter("two"), alias="production")
            assert "\n" not in caught.value.message
        assert impatient.tasks() == tasks
        assert impatient.look_up("topic", "production").heaviest.number == 1
        assert not impatient.refresh() or impatient.change_counter() == counter
    assert (impatient.tasks(), impatient.change_counter()) == (tasks, counter)
    version, created = impatient.add_version("topic", make_adapter("two"), alias="production")
    assert (version.number, created) == (2, True)


def test_a_server_that_dropped_its_connections_is_found_again(postgres: PostgresServer) -> None:
    place = postgres.new_place()
    registry = Registry.open(place, "smollm2")
    registry.add_version("topic", make_adapter("one"), alias="production")
    with closing(psycopg.connect(postgres.url, autocommit=True)) as other:
        dropped = other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'multigraft'"
        ).fetchall()
    assert dropped
    assert registry.resolve("topic").number == 1
    assert registry.add_version("topic", make_adapter("two"))[0].number == 2
    registry.close()


def test_what_a_connection_was_in_the_middle_of_is_undone_and_told(postgres: PostgresServer) -> None:
    registry = Registry.open(postgres.new_place(), "smollm2")
    registry.add_version("topic", make_adapter("one"))
    before = registry.tasks()
    with (
        closing(psycopg.connect(postgres.url, autocommit=True)) as other,
        pytest.raises(RegistryUnavailableError),
        registry._database.writing() as session,
    ):
        session.connection().exec_driver_sql("UPDATE tasks SET next_number = 7")
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in tr%'")
        session.connection().exec_driver_sql("SELECT 1")
    assert registry.tasks() == before
    assert registry.add_version("topic", make_adapter("two"))[0].number == 2
    registry.close()


@pytest.mark.parametrize(
    ("url", "kind", "told"),
    [
        (
            "postgresql://ann:secret@127.0.0.1:1/database",
            DataFolderError,
            "ann:***@127.0.0.1:1/database cannot",
        ),
        ("postgres://ann:secret@127.0.0.1:1/database", DataFolderError, "cannot be used"),
        ("mysql://ann:secret@host/database", SetupError, "postgresql://user:password@host"),
        ("secret", SetupError, "postgresql://user:password@host"),
        ("://secret", SetupError, "postgresql://user:password@host"),
        ("postgresql://ann:secret@host:port/database", SetupError, "postgresql://user:password@host"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_without_its_password(
    url: str, kind: type[MultigraftError], told: str
) -> None:
    with pytest.raises(kind) as caught:
        Registry.open(url, "smollm2")
    assert told in caught.value.message
    assert "secret" not in caught.value.message
    assert "\n" not in caught.value.message
