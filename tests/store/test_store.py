"""The store keeps exactly what it was given, or says so: in a folder and on S3."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from multigraft_adapters.artifact import ARTIFACT_FILES, CONFIG_FILE, TENSORS_FILE, digest_of
from multigraft_adapters.errors import DataFolderError, IntegrityError, NotFoundError, SetupError
from multigraft_adapters.store import FolderStore, Store, open_store
from multigraft_adapters.store.folder import STALE_SECONDS
from tests.s3 import S3
from tests.store.places import PAST_S, FolderPlace, ObjectPlace, Place, make_files, put


def test_what_was_put_is_got(store: Store, place: Place) -> None:
    digest = put(store, "one")
    assert store.get(digest) == make_files("one")
    assert place.open().get(digest) == make_files("one")
    assert sorted(path.rpartition("/")[2] for path in place.paths()) == sorted(ARTIFACT_FILES)


def test_the_store_lists_what_it_holds(store: Store) -> None:
    assert store.digests() == []
    digests = [put(store, content) for content in ("one", "two", "three")]
    assert store.digests() == sorted(digests)
    assert all(digest in store for digest in digests)
    [size] = {one.num_bytes for one in store.stored() if one.digest == digests[0]}
    assert size == sum(map(len, make_files("one").values()))


def test_the_same_digest_again_writes_nothing(store: Store, place: Place) -> None:
    digest = put(store, "one")
    before = place.paths()
    assert put(store, "one") == digest
    assert place.paths() == before
    assert store.digests() == [digest]


@pytest.mark.parametrize(
    "digest", ["", "base", "sha256:", "sha256:../../etc", "sha256:" + "G" * 64, "sha256:" + "0" * 64]
)
def test_an_unknown_digest_is_not_found(store: Store, digest: str) -> None:
    assert digest not in store
    with pytest.raises(NotFoundError):
        store.get(digest)


def test_files_without_this_digest_are_refused(store: Store, place: Place) -> None:
    files = make_files("one")
    for digest in ("sha256:" + "0" * 64, "one"):
        with pytest.raises(IntegrityError):
            store.put(digest, files)
    del files[CONFIG_FILE]
    with pytest.raises(IntegrityError):
        store.put(digest_of(files), files)
    assert place.paths() == []


def test_a_changed_byte_is_noticed(store: Store, place: Place) -> None:
    digest = put(store, "one")
    path = place.path_of(digest, TENSORS_FILE)
    content = bytearray(place.read(path))
    content[3] ^= 1
    place.write(path, bytes(content))
    with pytest.raises(IntegrityError, match="do not have this digest"):
        store.get(digest)


def test_a_missing_and_a_spare_file_are_noticed(store: Store, place: Place) -> None:
    missing, spare = put(store, "one"), put(store, "two")
    place.delete(place.path_of(missing, CONFIG_FILE))
    place.write(place.path_of(spare, CONFIG_FILE).replace(CONFIG_FILE, "README.md"), b"hello")
    for digest in (missing, spare):
        with pytest.raises(IntegrityError, match="in place of"):
            store.get(digest)


def test_putting_again_replaces_what_was_damaged(store: Store, place: Place) -> None:
    digest = put(store, "one")
    place.write(place.path_of(digest, TENSORS_FILE), b"torn")
    assert put(store, "one") == digest
    assert store.get(digest) == make_files("one")
    assert place.open().get(digest) == make_files("one")


def test_many_writers_of_one_digest_leave_one_adapter(place: Place) -> None:
    stores = [place.open() for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        digests = set(pool.map(lambda number: put(stores[number % 4], "one"), range(16)))
    assert len(digests) == 1
    assert stores[0].get(digests.pop()) == make_files("one")
    assert not [path for path in place.paths() if path.startswith("tmp")]


def test_writers_and_cleaners_of_one_folder_do_not_disturb_each_other(folder: FolderPlace) -> None:
    def work(number: int) -> None:
        store = folder.open()
        store.discard(put(store, f"content {number % 3}"), older_than_s=0)
        assert store.sweep(0) == []

    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(work, range(200)))) == 200
    assert list((folder.root / "tmp").iterdir()) == []


def test_what_is_discarded_is_gone_and_can_be_put_again(store: Store, place: Place) -> None:
    digest, other = put(store, "one"), put(store, "two")
    assert not store.discard(digest, older_than_s=3600)
    assert store.get(digest) == make_files("one")
    assert store.discard(digest, older_than_s=0)
    assert digest not in store
    assert store.digests() == [other]
    with pytest.raises(NotFoundError):
        store.get(digest)
    assert store.discard(digest, older_than_s=0)
    put(store, "one")
    assert store.get(digest) == make_files("one")


def test_what_is_put_again_is_young_again(store: Store, place: Place) -> None:
    digest, other = put(store, "one"), put(store, "two")
    later = place.later()
    assert all(one.age_s > PAST_S - 60 for one in later.stored())
    put(later, "one")
    young = {one.digest: one.age_s for one in place.open().stored()}
    assert young[digest] < 60
    assert not place.open().discard(digest, older_than_s=3600)
    assert later.discard(other, older_than_s=3600)
    assert place.open().get(digest) == make_files("one")


def test_what_a_dead_writer_left_is_not_seen_and_is_removed_when_a_folder_is_opened(folder: FolderPlace) -> None:
    store = folder.open()
    digest = put(store, "one")
    folder.write(f"tmp/dead/adapter/{CONFIG_FILE}", b"half")
    folder.write("tmp/dead/lock", b"")
    alive = folder.root / "tmp" / "alive"
    alive.mkdir()
    with FileLock(alive / "lock"):
        assert folder.open().digests() == [digest]
        assert not (folder.root / "tmp" / "dead").exists()
        assert alive.exists()
    assert folder.open().digests() == [digest]
    assert list((folder.root / "tmp").iterdir()) == []


def test_a_temporary_folder_that_nobody_locked_is_removed_when_it_is_old(folder: FolderPlace) -> None:
    folder.write(f"tmp/old/{CONFIG_FILE}", b"half")
    folder.later()
    folder.write(f"tmp/young/{CONFIG_FILE}", b"half")
    store = folder.open()
    assert [path.name for path in (folder.root / "tmp").iterdir()] == ["young"]
    assert store.remains(0) == []
    assert STALE_SECONDS < PAST_S


def test_a_copy_without_its_manifest_is_not_seen_and_is_swept_when_old(bucket: ObjectPlace) -> None:
    store = bucket.open()
    digest = put(store, "one")
    for name in (CONFIG_FILE, TENSORS_FILE):
        half = bucket.path_of(digest, name).replace("sha256/", "sha256/", 1)
        copy = half.split("/")[-2]
        bucket.write(half.replace(copy, "0" * 32), b"half")
    assert store.get(digest) == make_files("one")
    other = "f" * 64
    bucket.write(f"sha256/ff/{other}/{'1' * 32}/{TENSORS_FILE}", b"half")
    assert f"sha256:{other}" not in store
    assert store.digests() == [digest]
    assert store.sweep(older_than_s=3600) == []
    assert len(bucket.later().sweep(older_than_s=3600)) == 2
    assert len(bucket.paths()) == len(ARTIFACT_FILES)


def test_a_copy_that_a_later_one_replaced_is_swept_only_while_that_is_sound(bucket: ObjectPlace) -> None:
    digest = put(bucket.open(), "one")
    first = bucket.path_of(digest, TENSORS_FILE)
    later = bucket.later()
    put(later, "one")
    assert bucket.copies() == 2
    for path in bucket.paths():
        if path.endswith(TENSORS_FILE) and path != first:
            bucket.write(path, b"torn")
    later.sweep(3600)
    assert later.get(digest) == make_files("one")
    put(later, "one")
    assert bucket.copies() > 1
    later.sweep(3600)
    assert later.get(digest) == make_files("one")


def test_a_folder_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataFolderError, match="cannot be used"):
        FolderStore(tmp_path / "file" / "store")


@pytest.mark.parametrize("url", ["", "s3://", "s3:bucket", "/srv/store", "gs://bucket", "s3://bucket?key=1"])
def test_a_url_that_names_no_bucket_is_one_clear_sentence(tmp_path: Path, url: str) -> None:
    with pytest.raises(SetupError, match="s3://bucket/prefix"):
        open_store(tmp_path, url)


def test_a_url_opens_what_lies_there_and_a_bucket_that_is_missing_is_one_clear_sentence(
    s3: S3, bucket: ObjectPlace, tmp_path: Path
) -> None:
    digest = put(bucket.open(), "one")
    assert open_store(tmp_path, bucket.url).get(digest) == make_files("one")
    with pytest.raises(SetupError, match="cannot be used"):
        open_store(tmp_path, "s3://no-such-bucket/some/where")
