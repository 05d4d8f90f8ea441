"""Adapter files by digest, in a local folder: `sha256/<ab>/<hex>/` holds one adapter's three files."""

from __future__ import annotations

import re
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from multigraft_adapters.artifact import ARTIFACT_FILES, digest_of, write_folder
from multigraft_adapters.durable import sync
from multigraft_adapters.errors import DataFolderError, IntegrityError, NotFoundError

STALE_SECONDS = 3600.0
"""A temporary folder older than this belongs to a writer that died."""

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Store:
    """Immutable adapters, keyed by their content. Safe for several threads and processes on one folder.

    An adapter is written into a temporary folder, synced, and renamed to its place: it is there completely or
    not at all.
    """

    def __init__(self, root: Path) -> None:
        """Opens the folder, making it if it is missing; raises DataFolderError when that cannot be done."""
        self._adapters = root / "sha256"
        self._temporary = root / "tmp"
        try:
            self._adapters.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir(exist_ok=True)
            _remove_stale(self._temporary)
        except OSError as error:
            raise DataFolderError(f"the adapter store {root} cannot be used: {error.strerror or error}") from error

    def put(self, digest: str, files: Mapping[str, bytes]) -> None:
        """Keeps the files under their digest. The same digest again changes nothing, unless what is kept has
        been damaged: then it is replaced. Raises IntegrityError when the files do not have this digest.
        """
        _check_content(digest, files)
        place = self._place(digest)
        if place is None:
            raise IntegrityError(f"{digest!r} is not a digest of the form sha256:<64 hex digits>")
        if place.is_dir() and self._is_intact(digest):
            return
        written = self._write_aside(files)
        try:
            self._publish(written, place, digest)
        finally:
            shutil.rmtree(written, ignore_errors=True)

    def get(self, digest: str) -> dict[str, bytes]:
        """The adapter's files by name. Raises NotFoundError when no adapter has this digest, IntegrityError
        when what is kept is not exactly what was put.
        """
        place = self._place(digest)
        if place is None or not place.is_dir():
            raise NotFoundError(f"the store holds no adapter {digest!r}")
        files = _read_exactly(place, digest)
        _check_content(digest, files)
        return files

    def __contains__(self, digest: str) -> bool:
        place = self._place(digest)
        return place is not None and place.is_dir()

    def digests(self) -> list[str]:
        """What the store holds, sorted."""
        found = (f"sha256:{path.name}" for path in self._adapters.glob("??/*") if path.is_dir())
        return sorted(digest for digest in found if digest in self)

    def _place(self, digest: str) -> Path | None:
        match = _DIGEST.fullmatch(digest)
        return self._adapters / match[1][:2] / match[1] if match else None

    def _is_intact(self, digest: str) -> bool:
        try:
            self.get(digest)
        except IntegrityError:
            return False
        return True

    def _write_aside(self, files: Mapping[str, bytes]) -> Path:
        folder = self._temporary / uuid.uuid4().hex
        write_folder(folder, files)
        return folder

    def _publish(self, written: Path, place: Path, digest: str) -> None:
        place.parent.mkdir(exist_ok=True)
        try:
            written.rename(place)
        except OSError:
            if not place.is_dir():
                raise
            if self._is_intact(digest):  # another writer of the same content was first
                return
            self._replace_damaged(written, place)
        sync(place.parent)
        sync(self._adapters)

    def _replace_damaged(self, written: Path, place: Path) -> None:
        damaged = self._temporary / uuid.uuid4().hex
        place.rename(damaged)
        written.rename(place)
        shutil.rmtree(damaged, ignore_errors=True)


def _check_content(digest: str, files: Mapping[str, bytes]) -> None:
    present = digest_of(files) if set(files) == set(ARTIFACT_FILES) else None
    if present != digest:
        raise IntegrityError(f"the files of adapter {digest} do not have this digest", digest=digest)


def _read_exactly(place: Path, digest: str) -> dict[str, bytes]:
    names = sorted(path.name for path in place.iterdir())
    if names != sorted(ARTIFACT_FILES):
        raise IntegrityError(
            f"adapter {digest} in the store has the files {', '.join(names) or 'none'}, "
            f"not {', '.join(sorted(ARTIFACT_FILES))}",
            digest=digest,
        )
    return {name: (place / name).read_bytes() for name in ARTIFACT_FILES}


def _remove_stale(folder: Path) -> None:
    oldest = time.time() - STALE_SECONDS
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process cleans, or its writer has just published it
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)
