"""A store in a local folder: `sha256/<ab>/<hex>/` holds one adapter's three files."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from multigraft_adapters.artifact import write_folder
from multigraft_adapters.durable import sync
from multigraft_adapters.errors import (
    DataFolderError,
    IntegrityError,
    NotFoundError,
    StoreUnavailableError,
)
from multigraft_adapters.store.blobs import PLACE, FolderBlobs
from multigraft_adapters.store.store import Store, Stored, check_content, hex_of, not_held

STALE_SECONDS = 3600.0
"""A temporary folder that nobody ever locked belongs to a dead writer when it is older than this."""
LOCK_SECONDS = 30.0
"""How long a writer waits for another one's look at a folder, which takes no longer than a rename."""
POLL_SECONDS = 0.005

_LOCK = "lock"
_PREFIX = re.compile(r"[0-9a-f]{2}")
_HEX = re.compile(r"[0-9a-f]{64}")


class FolderStore(Store):
    """An adapter is written into a temporary folder, synced, and renamed to its place.

    The time of its folder is when it was last put. A lock on the whole store, held for no longer than a rename,
    orders those who find an adapter there, and touch it, against those who discard it. A writer locks its
    temporary folder while it lives, so that what dead ones left can be told and is cleaned as a store is opened.
    """

    def __init__(self, root: Path) -> None:
        """Opens the folder, making it if it is missing; raises DataFolderError when that cannot be done."""
        self._root = root
        self._adapters = root / "sha256"
        self._temporary = root / "tmp"
        self.blobs = FolderBlobs(root / PLACE)
        try:
            self._adapters.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)
            self.sweep(0)
        except (OSError, StoreUnavailableError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataFolderError(f"the adapter store {root} cannot be used: {reason}") from error

    def get(self, digest: str) -> dict[str, bytes]:
        place = self._place(digest)
        if place is None or not place.is_dir():
            raise not_held(digest)
        with _told(f"adapter {digest} cannot be read"):
            try:
                files = {path.name: path.read_bytes() for path in place.iterdir()}
            except FileNotFoundError:  # discarded meanwhile
                raise not_held(digest) from None
        check_content(digest, files)
        return files

    def __contains__(self, digest: str) -> bool:
        place = self._place(digest)
        return place is not None and place.is_dir()

    def stored(self) -> list[Stored]:
        with _told("the store cannot be listed"):
            found = [_stored(path) for path in self._adapters.glob("??/*") if _is_adapter(path)]
        return sorted((one for one in found if one is not None), key=lambda one: one.digest)

    def discard(self, digest: str, older_than_s: float) -> bool:
        place = self._place(digest)
        if place is None:
            return True
        with _told(f"adapter {digest} cannot be discarded"), self._staging() as aside:
            with self._locked():
                if not place.is_dir():
                    return True
                if _age_s(place) < older_than_s:
                    return False
                place.rename(aside / "adapter")
            sync(place.parent)
        return True

    def remains(self, older_than_s: float) -> list[str]:
        with _told("the store cannot be listed"), self._locked():
            return [path.name for path in self._temporary.iterdir() if _is_left(path, older_than_s)]

    def sweep(self, older_than_s: float) -> list[str]:
        with _told("the store cannot be cleaned"), self._locked():
            left = [path for path in self._temporary.iterdir() if _is_left(path, older_than_s)]
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
        return [path.name for path in left]

    def strays(self) -> list[str]:
        with _told("the store cannot be listed"):
            found = [path for path in self._root.iterdir() if path.name not in ("sha256", "tmp", PLACE, _LOCK)]
            for path in self._adapters.iterdir():
                is_prefix = path.is_dir() and _PREFIX.fullmatch(path.name)
                found += [one for one in path.iterdir() if not _is_adapter(one)] if is_prefix else [path]
            return sorted(str(path.relative_to(self._root)) for path in found)

    def _keep(self, digest: str, files: Mapping[str, bytes]) -> None:
        place = self._place(digest)
        assert place is not None  # `put` sees to it
        with _told(f"adapter {digest} cannot be kept"):
            if self._is_intact(digest) and self._touch(place):
                return
            with self._staging() as aside:
                write_folder(aside / "adapter", files)
                self._publish(aside, place, digest)

    def _place(self, digest: str) -> Path | None:
        digits = hex_of(digest)
        return self._adapters / digits[:2] / digits if digits else None

    def _is_intact(self, digest: str) -> bool:
        try:
            return bool(self.get(digest))
        except (NotFoundError, IntegrityError):
            return False

    def _touch(self, place: Path) -> bool:
        """Count what is there as put now; False where it has been discarded meanwhile."""
        with self._locked():
            if place.is_dir():
                os.utime(place)
                return True
        return False

    def _publish(self, aside: Path, place: Path, digest: str) -> None:
        place.parent.mkdir(exist_ok=True)
        while not self._rename(aside / "adapter", place):
            if self._is_intact(digest):  # another writer of the same content was first
                if self._touch(place):
                    return
            else:
                self._rename(place, aside / uuid.uuid4().hex)
        sync(place.parent)
        sync(self._adapters)

    def _rename(self, source: Path, target: Path) -> bool:
        """Whether `target` was free, or is again; a folder that is published counts as put now."""
        with self._locked():
            if target.is_dir():
                return False
            if source.is_dir():
                os.utime(source)
                source.rename(target)
        return True

    @contextmanager
    def _staging(self) -> Iterator[Path]:
        """A temporary folder, locked while its writer lives and gone when it is done."""
        folder = self._temporary / uuid.uuid4().hex
        with self._locked():
            folder.mkdir()
            held = FileLock(folder / _LOCK)
            held.acquire()
        try:
            yield folder
        finally:
            with self._locked():  # who looks for what dead writers left sees it whole, or not at all
                shutil.rmtree(folder, ignore_errors=True)
                held.release()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            with FileLock(self._root / _LOCK, timeout=LOCK_SECONDS, poll_interval=POLL_SECONDS):
                yield
        except Timeout:
            raise StoreUnavailableError("the store is locked by another process") from None


@contextmanager
def _told(problem: str) -> Iterator[None]:
    """What the file system refuses, as one sentence without its paths."""
    try:
        yield
    except OSError as error:
        raise StoreUnavailableError(f"{problem}: {error.strerror or error}") from error
    except DataFolderError as error:
        cause = error.__cause__
        reason = cause.strerror if isinstance(cause, OSError) else error.message
        raise StoreUnavailableError(f"{problem}: {reason}") from error


def _is_adapter(path: Path) -> bool:
    return path.is_dir() and bool(_HEX.fullmatch(path.name)) and path.name.startswith(path.parent.name)


def _stored(path: Path) -> Stored | None:
    try:
        num_bytes = sum(file.stat().st_size for file in path.iterdir())
        return Stored(f"sha256:{path.name}", num_bytes, _age_s(path))
    except FileNotFoundError:  # discarded meanwhile
        return None


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _is_left(path: Path, older_than_s: float) -> bool:
    """Whether a temporary folder's writer has died, and longer ago than that. Asked under the store's lock."""
    try:
        age_s = _age_s(path)
        if not (path / _LOCK).exists():
            return age_s >= max(older_than_s, STALE_SECONDS)
        with FileLock(path / _LOCK, timeout=0):
            return age_s >= older_than_s
    except (FileNotFoundError, Timeout):
        return False
