"""Where the store's tests keep adapters: the same tests on a folder and on S3."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from pathlib import Path

from multigraft_adapters.artifact import ARTIFACT_FILES, MANIFEST_FILE, digest_of
from multigraft_adapters.store import FolderStore, ObjectStore, Store
from tests.s3 import S3

PAST_S = 100_000.0


def make_files(content: str) -> dict[str, bytes]:
    return {name: f"{name} of {content}".encode() for name in ARTIFACT_FILES}


def put(store: Store, content: str) -> str:
    """Puts files that are made of `content`; returns their digest."""
    files = make_files(content)
    digest = digest_of(files)
    store.put(digest, files)
    return digest


class Place(ABC):
    """A place for one store, and ways to spoil what lies in it."""

    @abstractmethod
    def open(self) -> Store:
        """A store on this place, as another process would open it."""

    @abstractmethod
    def write(self, path: str, content: bytes) -> None: ...

    @abstractmethod
    def read(self, path: str) -> bytes: ...

    @abstractmethod
    def delete(self, path: str) -> None: ...

    @abstractmethod
    def paths(self) -> list[str]:
        """Everything that lies here, but for a folder's lock."""

    @abstractmethod
    def later(self) -> Store:
        """A store on this place for which all that lies here now was put `PAST_S` ago."""

    def copies(self) -> int:
        """How many manifests of adapters lie here."""
        return sum(path.endswith(f"/{MANIFEST_FILE}") for path in self.paths())

    def path_of(self, digest: str, name: str) -> str:
        """Where a file of an adapter that has one copy lies."""
        digits = digest.removeprefix("sha256:")
        [path] = [path for path in self.paths() if digits in path and path.endswith(f"/{name}")]
        return path


class FolderPlace(Place):
    def __init__(self, root: Path) -> None:
        self.root = root

    def open(self) -> FolderStore:
        return FolderStore(self.root)

    def write(self, path: str, content: bytes) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_bytes(content)

    def read(self, path: str) -> bytes:
        return (self.root / path).read_bytes()

    def delete(self, path: str) -> None:
        (self.root / path).unlink()

    def paths(self) -> list[str]:
        files = [path for path in self.root.rglob("*") if path.is_file() and path != self.root / "lock"]
        return sorted(str(path.relative_to(self.root)) for path in files)

    def later(self) -> FolderStore:
        past = time.time() - PAST_S
        for path in self.root.rglob("*"):
            os.utime(path, (past, past))
        return self.open()


class ObjectPlace(Place):
    def __init__(self, server: S3) -> None:
        self.url = server.new_url()
        self.objects = server.objects(self.url)

    def open(self) -> ObjectStore:
        return ObjectStore.of_s3(self.url, timeout_s=30)

    def write(self, path: str, content: bytes) -> None:
        self.objects.put(path, content)

    def read(self, path: str) -> bytes:
        return self.objects.get(path).bytes().to_bytes()

    def delete(self, path: str) -> None:
        self.objects.delete(path)

    def paths(self) -> list[str]:
        return sorted(found["path"] for page in self.objects.list() for found in page)

    def later(self) -> ObjectStore:
        return ObjectStore.of_s3(self.url, timeout_s=30, now_s=lambda: time.time() + PAST_S)
