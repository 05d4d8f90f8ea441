"""A registry in a fresh data folder, and one in a fresh schema of PostgreSQL's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from multigraft_adapters.registry import Registry
from tests.postgresql import PostgresServer

Place = Path | str
"""A data folder, or a URL."""


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where a registry may be opened, nothing in it yet."""
    if request.param == "sqlite":
        return tmp_path / "data"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_place()


@pytest.fixture
def registry(place: Place) -> Iterator[Registry]:
    opened = Registry.open(place, "smollm2")
    yield opened
    opened.close()
