"""What a store keeps beside adapters: files of training jobs, each a blob under a key."""

from __future__ import annotations

import os
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import Any

from obstore.exceptions import BaseError

from multigraft_adapters.durable import sync
from multigraft_adapters.errors import NotFoundError, StoreUnavailableError

PLACE = "training"
"""Where in a store's place its blobs are."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob as it lies in a store: its bytes, and the seconds since it was put."""

    key: str
    num_bytes: int
    age_s: float


class Blobs(ABC):
    """Bytes by key, a path of plain names. Safe for several threads and processes on one place.

    A blob is there completely or not at all; the last one put under a key stays. Where the place itself fails,
    every method raises StoreUnavailableError. No key ever comes from a request as it is.
    """

    @abstractmethod
    def put(self, key: str, content: bytes) -> None:
        """Keeps the bytes, durably."""

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The bytes; raises NotFoundError."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes a blob; one that is not there is deleted already."""

    @abstractmethod
    def stored(self, prefix: str) -> list[StoredBlob]:
        """What is below a path, sorted by key."""

    def keys(self, prefix: str) -> list[str]:
        """The keys below a path, sorted."""
        return [found.key for found in self.stored(prefix)]


class FolderBlobs(Blobs):
    """In a local folder: written aside, synced, renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._aside = root / ".tmp"

    def put(self, key: str, content: bytes) -> None:
        place = self._place(key)
        with _told("a file cannot be kept"):
            self._aside.mkdir(parents=True, exist_ok=True)
            place.parent.mkdir(parents=True, exist_ok=True)
            written = self._aside / uuid.uuid4().hex
            try:
                with written.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                written.replace(place)
            finally:
                written.unlink(missing_ok=True)
            sync(place.parent)

    def get(self, key: str) -> bytes:
        with _told("a file cannot be read"):
            try:
                return self._place(key).read_bytes()
            except FileNotFoundError:
                raise _not_kept(key) from None

    def delete(self, key: str) -> None:
        with _told("a file cannot be deleted"):
            self._place(key).unlink(missing_ok=True)

    def stored(self, prefix: str) -> list[StoredBlob]:
        with _told("files cannot be listed"):
            found = [blob for path in self._place(prefix).rglob("*") if (blob := self._blob(path)) is not None]
            return sorted(found, key=lambda blob: blob.key)

    def _blob(self, path: Path) -> StoredBlob | None:
        """The file at a path; None for a folder, and for a file that somebody has deleted by now."""
        try:
            known = path.stat()
        except FileNotFoundError:
            return None
        if not S_ISREG(known.st_mode):
            return None
        age_s = max(0.0, time.time() - known.st_mtime)
        return StoredBlob(path.relative_to(self._root).as_posix(), known.st_size, age_s)

    def _place(self, key: str) -> Path:
        return self._root / _checked(key)


class ObjectBlobs(Blobs):
    """On S3, where a put is all or nothing."""

    def __init__(self, objects: Any, url: str, now_s: Callable[[], float]) -> None:
        """Over an obstore store; `now_s` is the clock of `ObjectStore`."""
        self._now_s = now_s
        self._objects = objects
        self._url = url

    def put(self, key: str, content: bytes) -> None:
        with self._telling("a file cannot be kept"):
            self._objects.put(f"{PLACE}/{_checked(key)}", content)

    def get(self, key: str) -> bytes:
        with self._telling("a file cannot be read"):
            try:
                content: bytes = self._objects.get(f"{PLACE}/{_checked(key)}").bytes().to_bytes()
                return content
            except FileNotFoundError:
                raise _not_kept(key) from None

    def delete(self, key: str) -> None:
        with self._telling("a file cannot be deleted"):
            try:
                self._objects.delete(f"{PLACE}/{_checked(key)}")
            except FileNotFoundError:
                return

    def stored(self, prefix: str) -> list[StoredBlob]:
        with self._telling("files cannot be listed"):
            pages = self._objects.list(f"{PLACE}/{_checked(prefix)}/")
            return sorted((self._blob(found) for page in pages for found in page), key=lambda blob: blob.key)

    def _blob(self, found: Mapping[str, Any]) -> StoredBlob:
        age_s = max(0.0, self._now_s() - found["last_modified"].timestamp())
        return StoredBlob(found["path"].removeprefix(f"{PLACE}/"), found["size"], age_s)

    @contextmanager
    def _telling(self, problem: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            reason = f"{self._url}: {str(error).partition(chr(10))[0][:300]}"
            raise StoreUnavailableError(f"{problem}: the object store fails", reason=reason) from error


@contextmanager
def _told(problem: str) -> Iterator[None]:
    """What the file system refuses, as one sentence without its paths."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailableError(f"{problem}: {error.strerror or error}") from error


def _checked(key: str) -> str:
    assert _KEY.fullmatch(key), key  # ours, never a caller's
    return key


def _not_kept(key: str) -> NotFoundError:
    return NotFoundError(f"the store keeps no file {key!r}")
