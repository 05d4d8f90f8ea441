"""What a store is to the rest, wherever it keeps its files."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from multigraft_adapters.artifact import ARTIFACT_FILES, digest_of
from multigraft_adapters.errors import IntegrityError, NotFoundError
from multigraft_adapters.store.blobs import Blobs

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Stored:
    """One adapter as it lies in a store: the bytes of its files, and the seconds since it was last put."""

    digest: str
    num_bytes: int
    age_s: float


class Store(ABC):
    """Immutable adapters, keyed by their content. Safe for several threads and processes on one place.

    An adapter is there completely or not at all. Where the place itself fails (a full disk, a store that is
    slow or down), every method raises StoreUnavailableError, and nothing half-written is ever seen.
    """

    blobs: Blobs
    """What is kept in the same place beside adapters."""

    def put(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Keeps the files under their digest, durably. What is there already counts as put now, which keeps it
        from being discarded, and is replaced only where it has been damaged. Raises IntegrityError when the
        files do not have this digest.
        """
        check_content(digest, files)
        if hex_of(digest) is None:
            raise IntegrityError(f"{digest!r} is not a digest of the form sha256:<64 hex digits>")
        self._keep(digest, files)

    @abstractmethod
    def get(self, digest: str) -> dict[str, bytes]:
        """The adapter's files by name. Raises NotFoundError when no adapter has this digest, IntegrityError
        when what is kept is not exactly what was put.
        """

    @abstractmethod
    def __contains__(self, digest: str) -> bool: ...

    @abstractmethod
    def stored(self) -> list[Stored]:
        """What the store holds, by digest; whether it is undamaged, `get` says."""

    @abstractmethod
    def discard(self, digest: str, older_than_s: float) -> bool:
        """Deletes an adapter, unless it was put within the last `older_than_s` seconds; whether it is gone."""

    @abstractmethod
    def remains(self, older_than_s: float) -> list[str]:
        """What writers that died left behind longer ago than that, and copies that later ones replaced."""

    @abstractmethod
    def sweep(self, older_than_s: float) -> list[str]:
        """Deletes `remains`; returns what was deleted."""

    @abstractmethod
    def strays(self) -> list[str]:
        """What lies in the store's place and is neither an adapter nor a writer's."""

    def digests(self) -> list[str]:
        """What the store holds, sorted."""
        return [stored.digest for stored in self.stored()]

    @abstractmethod
    def _keep(self, digest: str, files: Mapping[str, bytes]) -> None:
        """`put`, of files that have this digest."""


def hex_of(digest: str) -> str | None:
    """The hex digits of a digest; None where it is not one."""
    match = _DIGEST.fullmatch(digest)
    return match[1] if match else None


def check_content(digest: str, files: Mapping[str, bytes]) -> None:
    """Raises IntegrityError, its data the `reason`, unless these are an adapter's files with this digest."""
    if set(files) != set(ARTIFACT_FILES):
        there = ", ".join(sorted(files)) or "no files"
        reason = f"it has {there} in place of {', '.join(sorted(ARTIFACT_FILES))}"
    elif digest_of(files) != digest:
        reason = "its files do not have this digest"
    else:
        return
    raise IntegrityError(f"adapter {digest} is damaged: {reason}", digest=digest, reason=reason)


def not_held(digest: str) -> NotFoundError:
    return NotFoundError(f"the store holds no adapter {digest!r}")
