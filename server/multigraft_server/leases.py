"""Leases: which adapter versions are in use by requests, from admission to the last byte."""

from __future__ import annotations

import threading
from collections import Counter

from multigraft_adapters.errors import IntegrityError

VersionKey = tuple[str, int]
"""A task's name and a version's number; the bare base is number 0 under its own name."""


class Lease:
    """One request's hold on a version. Released once; releasing again changes nothing."""

    __slots__ = ("_leases", "_released", "key")

    def __init__(self, leases: Leases, key: VersionKey) -> None:
        self.key = key
        self._leases = leases
        self._released = False

    def release(self) -> None:
        """Give the version back."""
        if not self._released:
            self._released = True
            self._leases._release(self.key)


class Leases:
    """The counts of leases by version. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[VersionKey] = Counter()
        self._acquired = 0
        self._released = 0

    def acquire(self, task: str, version: int) -> Lease:
        """A new lease on the version; the caller releases it."""
        with self._lock:
            self._counts[task, version] += 1
            self._acquired += 1
        return Lease(self, (task, version))

    def count(self, task: str, version: int) -> int:
        """How many leases the version has now."""
        with self._lock:
            return self._counts[task, version]

    @property
    def total(self) -> int:
        """How many leases are held now."""
        with self._lock:
            return self._counts.total()

    def check_integrity(self) -> None:
        """Raises IntegrityError when the books do not add up."""
        with self._lock:
            held, expected = self._counts.total(), self._acquired - self._released
            if held != expected or any(count < 1 for count in self._counts.values()):
                raise IntegrityError(f"leases: {held} counted, {expected} acquired and not released")

    def _release(self, key: VersionKey) -> None:
        with self._lock:
            self._released += 1
            self._counts[key] -= 1
            if self._counts[key] == 0:
                del self._counts[key]
