"""Requests whose adapter is on its way to host memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from multigraft_server.engine.requests import Request


class ParkedRequests:
    """Owns them, by the digest that they wait for."""

    def __init__(self) -> None:
        self._by_digest: dict[str, list[Request]] = defaultdict(list)

    def __iter__(self) -> Iterator[Request]:
        return (request for parked in self._by_digest.values() for request in parked)

    def add(self, request: Request) -> None:
        """Park a request."""
        self._by_digest[request.digest].append(request)

    def take(self, request_id: str) -> Request | None:
        """Take one out; None when it is not here."""
        request = next((request for request in self if request.id == request_id), None)
        if request is not None:
            self._by_digest[request.digest].remove(request)
        return request

    def take_waiting_for(self, digest: str) -> list[Request]:
        """Take out those that waited for an adapter, in their order."""
        return self._by_digest.pop(digest, [])

    def take_late(self, now: float) -> list[Request]:
        """Take out those whose deadline is over."""
        late = [request for request in self if request.deadline and now > request.deadline]
        for request in late:
            self._by_digest[request.digest].remove(request)
        return late

    def take_all(self) -> list[Request]:
        """Take out all."""
        everything = list(self)
        self._by_digest.clear()
        return everything
