"""The places that every test of the store runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from multigraft_adapters.store import Store
from tests.s3 import S3
from tests.store.places import FolderPlace, ObjectPlace, Place


@pytest.fixture
def folder(tmp_path: Path) -> FolderPlace:
    return FolderPlace(tmp_path / "store")


@pytest.fixture
def bucket(s3: S3) -> ObjectPlace:
    return ObjectPlace(s3)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()
