"""How many uploads are taken at once, and the threads that verify and store them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from multigraft_adapters.errors import OverloadedError
from multigraft_server.pools import started_pool

T = TypeVar("T")


class Uploads:
    """Bounds what uploads cost: each is held in memory whole. Used on the event loop alone.

    They have threads of their own, so that a store that is slow or down takes none of anybody else's.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._admitted = 0
        self._threads = started_pool(limit, "multigraft-upload")

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """From before an upload's body is read to its end; raises OverloadedError when there are too many."""
        if self._admitted >= self._limit:
            raise OverloadedError(f"{self._limit} uploads are under way, as many as are taken at once; try again")
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    async def run(self, publish: Callable[[], T]) -> T:
        """`publish` in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, publish)

    def close(self) -> None:
        """Waits for the uploads that are under way."""
        self._threads.shutdown(wait=True)
