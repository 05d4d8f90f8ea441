"""The store keeps exactly what it was given, or says so."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from multigraft_adapters.artifact import ARTIFACT_FILES, CONFIG_FILE, TENSORS_FILE, digest_of
from multigraft_adapters.errors import DataFolderError, IntegrityError, NotFoundError
from multigraft_adapters.store import STALE_SECONDS, Store


def make_files(content: str) -> dict[str, bytes]:
    return {name: f"{name} of {content}".encode() for name in ARTIFACT_FILES}


def put(store: Store, content: str) -> str:
    files = make_files(content)
    digest = digest_of(files)
    store.put(digest, files)
    return digest


def place_of(root: Path, digest: str) -> Path:
    digits = digest.removeprefix("sha256:")
    return root / "sha256" / digits[:2] / digits


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_what_was_put_is_got(store: Store, tmp_path: Path) -> None:
    digest = put(store, "one")
    assert store.get(digest) == make_files("one")
    assert Store(tmp_path).get(digest) == make_files("one")
    assert sorted(path.name for path in place_of(tmp_path, digest).iterdir()) == sorted(ARTIFACT_FILES)


def test_the_store_lists_what_it_holds(store: Store) -> None:
    assert store.digests() == []
    digests = [put(store, content) for content in ("one", "two", "three")]
    assert store.digests() == sorted(digests)
    assert all(digest in store for digest in digests)


def test_the_same_digest_again_changes_nothing(store: Store, tmp_path: Path) -> None:
    digest = put(store, "one")
    before = place_of(tmp_path, digest).stat().st_mtime_ns
    assert put(store, "one") == digest
    assert place_of(tmp_path, digest).stat().st_mtime_ns == before
    assert store.digests() == [digest]


@pytest.mark.parametrize(
    "digest", ["", "base", "sha256:", "sha256:../../etc", "sha256:" + "G" * 64, "sha256:" + "0" * 64]
)
def test_an_unknown_digest_is_not_found(store: Store, digest: str) -> None:
    assert digest not in store
    with pytest.raises(NotFoundError):
        store.get(digest)


def test_files_without_this_digest_are_refused(store: Store, tmp_path: Path) -> None:
    files = make_files("one")
    for digest in ("sha256:" + "0" * 64, "one"):
        with pytest.raises(IntegrityError):
            store.put(digest, files)
    del files[CONFIG_FILE]
    with pytest.raises(IntegrityError):
        store.put(digest_of(files), files)
    assert store.digests() == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_changed_byte_is_noticed(store: Store, tmp_path: Path) -> None:
    digest = put(store, "one")
    path = place_of(tmp_path, digest) / TENSORS_FILE
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="do not have this digest"):
        store.get(digest)


def test_a_missing_and_a_spare_file_are_noticed(store: Store, tmp_path: Path) -> None:
    missing, spare = put(store, "one"), put(store, "two")
    (place_of(tmp_path, missing) / CONFIG_FILE).unlink()
    (place_of(tmp_path, spare) / "README.md").write_text("hello")
    for digest in (missing, spare):
        with pytest.raises(IntegrityError, match="has the files"):
            store.get(digest)


def test_putting_again_replaces_what_was_damaged(store: Store, tmp_path: Path) -> None:
    digest = put(store, "one")
    (place_of(tmp_path, digest) / TENSORS_FILE).write_bytes(b"torn")
    assert put(store, "one") == digest
    assert store.get(digest) == make_files("one")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_what_a_dead_writer_left_is_not_seen_and_is_removed_when_old(store: Store, tmp_path: Path) -> None:
    old, young = tmp_path / "tmp" / "old", tmp_path / "tmp" / "young"
    for folder in (old, young):
        folder.mkdir()
        (folder / CONFIG_FILE).write_text("half")
    past = time.time() - STALE_SECONDS - 60
    os.utime(old, (past, past))
    again = Store(tmp_path)
    assert again.digests() == []
    assert not old.exists()
    assert young.exists()


def test_many_writers_of_one_digest_leave_one_adapter(tmp_path: Path) -> None:
    stores = [Store(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda number: put(stores[number % 4], "one"), range(32)))
    assert len(digests) == 1
    assert stores[0].get(digests.pop()) == make_files("one")
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFolderError, match="cannot be used"):
        Store(tmp_path / "file" / "store")
