"""What no version needs is collected after its grace time, and nothing else ever is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from multigraft_adapters.artifact import digest_of
from multigraft_adapters.errors import ConflictError
from multigraft_adapters.registry import NewJob, Registry, new_file
from multigraft_adapters.store import ObjectStore, Store, collect
from tests.registry.parts import Adapter, make_adapter
from tests.store.places import PAST_S, FolderPlace, ObjectPlace, Place, make_files, put

GRACE_S = 3600.0
LAST_LOOK = 3
"""A collection looks whether the registry is empty, what it needs, and again before it deletes."""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    opened = Registry.open(tmp_path / "data", "smollm2")
    yield opened
    opened.close()


def upload(store: Store, registry: Registry, content: str, task: str = "topic") -> str:
    """What an upload does: the store first, then the registry."""
    digest = put(store, content)
    registry.add_version(task, Adapter(digest, make_adapter(content).manifest))
    return digest


def collected(store: Store, registry: Registry, **options: bool) -> list[str]:
    return [one.digest for one in collect(store, registry, grace_s=GRACE_S, **options).adapters]


def test_what_no_version_needs_is_deleted_after_the_grace_time(place: Place, registry: Registry) -> None:
    store = place.open()
    kept, garbage = upload(store, registry, "one"), put(store, "two")
    assert collected(store, registry) == []
    later = place.later()
    assert collected(later, registry) == [garbage]
    assert later.digests() == [kept]
    assert later.get(kept) == make_files("one")


def test_a_dry_run_says_the_same_and_deletes_nothing(place: Place, registry: Registry) -> None:
    store = place.open()
    upload(store, registry, "one")
    garbage = put(store, "two")
    later = place.later()
    before = place.paths()
    [would] = collect(later, registry, grace_s=GRACE_S, dry_run=True).adapters
    assert would.digest == garbage
    assert would.num_bytes == sum(map(len, make_files("two").values()))
    assert place.paths() == before
    assert collected(later, registry) == [garbage]


def test_an_empty_registry_deletes_nothing(place: Place, registry: Registry) -> None:
    put(place.open(), "one")
    with pytest.raises(ConflictError, match="may not be the store's registry"):
        collected(place.later(), registry)
    assert place.copies() == 1


def test_what_dead_writers_left_is_swept(bucket: ObjectPlace, registry: Registry) -> None:
    upload(bucket.open(), registry, "one")
    half = f"sha256/ff/{'f' * 64}/{'1' * 32}/adapter_config.json"
    bucket.write(half, b"half")
    swept = collect(bucket.later(), registry, grace_s=GRACE_S)
    assert swept.adapters == ()
    assert swept.remains == (half.rpartition("/")[0],)
    assert half not in bucket.paths()


def test_a_retired_version_s_adapter_is_kept_for_the_grace_time_and_while_another_version_has_it(
    place: Place, registry: Registry
) -> None:
    store = place.open()
    shared, own = upload(store, registry, "one"), upload(store, registry, "two")
    upload(store, registry, "one", task="other")
    registry.retire("topic", 1)
    registry.retire("topic", 2)
    later = place.later()
    assert collected(later, registry) == []
    assert [one.digest for one in collect(later, registry, grace_s=0).adapters] == [own]
    assert later.digests() == [shared]


class AtTheLastLook(Registry):
    """A registry at whose last look before a collection deletes something happens."""

    happens: Callable[[], object]
    looks = 0

    def digests(self) -> dict[str, datetime | None]:
        found = super().digests()
        self.looks += 1
        if self.looks == LAST_LOOK:
            self.happens()
        return found


def check_upload_wins(tmp_path: Path, uploads: Store, collector: Store, grace_s: float) -> None:
    """An upload stores its adapter after the collection's last look at the registry, and registers it later."""
    registry = AtTheLastLook.open(tmp_path / "data", "smollm2")
    assert isinstance(registry, AtTheLastLook)
    upload(uploads, registry, "kept")
    registry.happens = lambda: put(uploads, "one")
    collect(collector, registry, grace_s=grace_s)
    assert registry.looks == LAST_LOOK
    digest = digest_of(make_files("one"))
    registry.add_version("topic", Adapter(digest, make_adapter("one").manifest))
    registry.close()
    assert collector.get(digest) == make_files("one")


def test_an_upload_of_what_is_being_collected_wins(folder: FolderPlace, tmp_path: Path) -> None:
    put(folder.open(), "one")
    later = folder.later()
    check_upload_wins(tmp_path, folder.open(), later, GRACE_S)


def test_an_upload_of_what_is_being_collected_wins_on_s3(bucket: ObjectPlace, tmp_path: Path) -> None:
    put(bucket.open(), "one")
    now_s = time.time() + PAST_S
    collector = ObjectStore.of_s3(bucket.url, timeout_s=30, now_s=lambda: now_s)
    [garbage] = collector.stored()
    time.sleep(1.01)  # S3's times are whole seconds
    check_upload_wins(tmp_path, bucket.later(), collector, garbage.age_s - 0.5)


def test_blobs_that_no_file_and_no_unfinished_job_needs_are_deleted_after_the_grace_time(
    place: Place, registry: Registry
) -> None:
    store = place.open()
    upload(store, registry, "one")
    file = registry.files.add(new_file("sha256:" + "a" * 64, "rows.jsonl", "fine-tune", 3))
    request = {"seed": 0, "hyperparameters": {}, "metadata": None, "suffix": None, "promote": "never"}
    jobs = [registry.jobs.create(NewJob("topic", "smollm2", file.id, None, request))[0] for _ in range(2)]
    registry.jobs.cancel(jobs[1].id)
    needed = [file.key, f"jobs/{jobs[0].id}/1/checkpoint.pt"]
    orphans = ["files/b/file-gone", f"jobs/{jobs[1].id}/1/checkpoint.pt", "jobs/ftjob-gone/2/metrics.jsonl"]
    for key in (*needed, *orphans):
        store.blobs.put(key, b"abc")
    assert collect(store, registry, grace_s=GRACE_S).blobs == ()
    later = place.later()
    would = collect(later, registry, grace_s=GRACE_S, dry_run=True)
    assert [blob.key for blob in would.blobs] == sorted(orphans) and would.num_bytes == 9
    gone = collect(later, registry, grace_s=GRACE_S)
    assert [blob.key for blob in gone.blobs] == sorted(orphans)
    assert [*later.blobs.keys("files"), *later.blobs.keys("jobs")] == needed


def test_a_registry_without_a_version_deletes_no_blob(place: Place, registry: Registry) -> None:
    place.open().blobs.put("files/b/file-gone", b"abc")
    assert collect(place.later(), registry, grace_s=GRACE_S).blobs == ()
