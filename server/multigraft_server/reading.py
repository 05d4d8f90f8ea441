"""Reading inputs off the event loop, each once in a request, however many of its predictions take it."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


class Reader:
    """Owns the threads that turn inputs into what the engine takes. `close` ends them."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._known: dict[Hashable, asyncio.Future[Any]] | None = None

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run a short piece of blocking work on the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def run_once(self, key: Hashable, work: Callable[[], Result]) -> Result:
        """As `run`; a reader of one request runs the work of one key only once, and answers all who ask for it."""
        if self._known is None:
            return await self.run(work)
        if key not in self._known:
            self._known[key] = asyncio.get_running_loop().run_in_executor(self._pool, work)
        known: asyncio.Future[Result] = self._known[key]
        return await known

    def remembering(self) -> Self:
        """This reader for one request, whose predictions share what is read; it has the same threads."""
        reader = copy.copy(self)
        reader._known = {}
        return reader

    def close(self) -> None:
        """End the threads once their work is done."""
        self._pool.shutdown()
