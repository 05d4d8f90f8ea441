"""Loads that failed: remembered for a while, longer each time; a broken adapter costs its own callers only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from multigraft_adapters.errors import AdapterLoadError, MultigraftError, UnavailableError


@dataclass(frozen=True, slots=True)
class FailedLoad:
    """How often in a row an adapter could not be loaded, why, and until when it is not tried again."""

    attempts: int
    until: float
    error: MultigraftError


class FailedLoads:
    """After the n-th failure in a row a load is not tried for `first_s` times 2^(n-1) seconds, at most `most_s`.

    A failure is forgotten when a load succeeds, or `most_s` after it might have been tried again.
    """

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._failed: dict[str, FailedLoad] = {}

    def note(self, digest: str, error: MultigraftError, now: float) -> None:
        """A load has failed."""
        attempts = self._failed[digest].attempts + 1 if digest in self._failed else 1
        wait = min(self._most_s, self._first_s * 2.0 ** min(attempts - 1, 60))
        self._failed[digest] = FailedLoad(attempts, now + wait, error)
        for old in [name for name, failed in self._failed.items() if failed.until + self._most_s < now]:
            del self._failed[old]

    def forget(self, digest: str) -> None:
        """A load has succeeded, or nobody will ask for the adapter again."""
        self._failed.pop(digest, None)

    def error(self, digest: str, now: float) -> MultigraftError | None:
        """What to tell those who ask for an adapter that is not to be tried yet."""
        failed = self._failed.get(digest)
        if failed is None or now >= failed.until:
            return None
        wait = f"it is tried again in {failed.until - now:.1f} s"
        return type(failed.error)(f"{failed.error.message} (attempt {failed.attempts}; {wait})", digest=digest)

    def all(self) -> Mapping[str, FailedLoad]:
        """The failures that are remembered, by digest."""
        return dict(self._failed)


def load_error(digest: str, error: Exception) -> MultigraftError:
    """Why an adapter could not be loaded: its own fault, or a store that is not there, which may be later."""
    kind = type(error) if isinstance(error, UnavailableError) else AdapterLoadError
    reason = error.message if isinstance(error, MultigraftError) else str(error)
    return kind(f"adapter {digest} cannot be loaded: {reason}", digest=digest)
