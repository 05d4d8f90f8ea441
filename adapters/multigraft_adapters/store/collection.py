"""Garbage collection: what no version refers to is deleted, a grace time after it was last put."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from multigraft_adapters.errors import ConflictError, NotFoundError
from multigraft_adapters.registry import Registry
from multigraft_adapters.registry.job_records import UNFINISHED
from multigraft_adapters.store.blobs import StoredBlob
from multigraft_adapters.store.store import Store, Stored

LONGEST_DEADLINE_S = 86_400.0
"""The longest deadline of a request that a server can be set to."""
DEFAULT_GRACE_S = LONGEST_DEADLINE_S + 3_600.0


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection deleted, or would delete: adapters, what dead writers left, and blobs of training jobs."""

    adapters: tuple[Stored, ...]
    remains: tuple[str, ...]
    blobs: tuple[StoredBlob, ...]

    @property
    def num_bytes(self) -> int:
        """The bytes of the adapters and the blobs."""
        of_adapters = sum(stored.num_bytes for stored in self.adapters)
        return of_adapters + sum(blob.num_bytes for blob in self.blobs)


def collect(store: Store, registry: Registry, *, grace_s: float, dry_run: bool = False) -> Collected:
    """Deletes the adapters that no version needs and the blobs that no file and no unfinished job needs, if they
    were not put within the grace time.

    Safe beside servers that upload the same content at this moment: an upload puts the adapter, which makes it
    young, before it registers the version, and what is young is never deleted. So `grace_s` must be longer
    than an upload takes to be registered, and longer than the deadline of any request, which may still wait
    for a version that was retired. Raises ConflictError when the registry is empty and the store is not.
    """
    stored, has_versions = store.stored(), bool(registry.digests())
    if stored and not has_versions:
        raise ConflictError(
            f"the registry has no version, while the store holds {len(stored)} adapters: nothing is deleted, "
            "since this may not be the store's registry"
        )
    needed = needed_digests(registry, grace_s)
    garbage = [one for one in stored if one.age_s >= grace_s and one.digest not in needed]
    blobs = tuple(orphans(store, registry, grace_s)) if has_versions else ()
    if dry_run:
        return Collected(tuple(garbage), tuple(store.remains(grace_s)), blobs)
    gone = [one for one in garbage if _discard(store, registry, one.digest, grace_s)]
    for blob in blobs:
        store.blobs.delete(blob.key)
    return Collected(tuple(gone), tuple(store.sweep(grace_s)), blobs)


def orphans(store: Store, registry: Registry, grace_s: float) -> list[StoredBlob]:
    """The blobs past the grace time whose file the registry does not know, or whose job has ended. A blob is put
    under a key of its own once, so what is an orphan stays one. Only for a registry that has a version."""
    kept = [blob for prefix in ("files", "jobs") for blob in store.blobs.stored(prefix)]
    return [blob for blob in kept if blob.age_s >= grace_s and not _is_needed(registry, blob.key)]


def _is_needed(registry: Registry, key: str) -> bool:
    kind, first, *_, last = key.split("/")
    try:
        if kind == "jobs":
            return registry.jobs.get(first).status in UNFINISHED
        return registry.files.get(last).key == key
    except NotFoundError:
        return False


def needed_digests(registry: Registry, grace_s: float) -> set[str]:
    """The adapters of versions that are served, or were retired within the grace time."""
    recently = datetime.now(UTC) - timedelta(seconds=grace_s)
    retired = registry.digests()
    return {digest for digest, at in retired.items() if at is None or at > recently}


def _discard(store: Store, registry: Registry, digest: str, grace_s: float) -> bool:
    """Deletes one adapter, if it is still garbage."""
    return digest not in needed_digests(registry, grace_s) and store.discard(digest, grace_s)
