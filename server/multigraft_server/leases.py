"""Leases: which adapter versions are in use by requests, from admission to the last byte."""

from __future__ import annotations

import threading
from collections.abc import Callable

from multigraft_adapters.errors import IntegrityError, MultigraftError

VersionKey = tuple[str, int]
"""A task's name and a version's number; the bare base is number 0 under its own name."""


class Lease:
    """One request's hold on a version. Released once; releasing again changes nothing.

    `revoked` is set when the version must not be used any longer; who holds the lease is told by `on_revoke`.
    """

    __slots__ = ("_leases", "_released", "key", "on_revoke", "revoked")

    def __init__(self, leases: Leases, key: VersionKey) -> None:
        self.key = key
        self.revoked: MultigraftError | None = None
        self.on_revoke: Callable[[MultigraftError], None] | None = None
        """Called at most once, from any thread; must not raise."""
        self._leases = leases
        self._released = False

    def release(self) -> None:
        """Give the version back."""
        if not self._released:
            self._released = True
            self._leases._release(self)


class Leases:
    """The leases by version. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[VersionKey, set[Lease]] = {}
        self._acquired = 0
        self._released = 0

    def acquire(self, task: str, version: int) -> Lease:
        """A new lease on the version; the caller releases it."""
        lease = Lease(self, (task, version))
        with self._lock:
            self._held.setdefault(lease.key, set()).add(lease)
            self._acquired += 1
        return lease

    def revoke(self, task: str, version: int, error: MultigraftError) -> int:
        """Tell all who hold a lease on the version to end with this error; how many were told."""
        with self._lock:
            leases = [lease for lease in self._held.get((task, version), ()) if lease.revoked is None]
        for lease in leases:
            lease.revoked = error
            if lease.on_revoke is not None:
                lease.on_revoke(error)
        return len(leases)

    def count(self, task: str, version: int) -> int:
        """How many leases the version has now."""
        with self._lock:
            return len(self._held.get((task, version), ()))

    @property
    def total(self) -> int:
        """How many leases are held now."""
        with self._lock:
            return self._acquired - self._released

    def check_integrity(self) -> None:
        """Raises IntegrityError when the books do not add up."""
        with self._lock:
            held, expected = sum(map(len, self._held.values())), self._acquired - self._released
            if held != expected or not all(self._held.values()):
                raise IntegrityError(f"leases: {held} counted, {expected} acquired and not released")

    def _release(self, lease: Lease) -> None:
        with self._lock:
            held = self._held[lease.key]
            held.discard(lease)
            self._released += 1
            if not held:
                del self._held[lease.key]
