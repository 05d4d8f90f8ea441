"""Ending in order: the server is not ready any more, then takes no new work, then ends what still runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from multigraft_adapters.errors import DrainingError

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
END_SECONDS = 2.0
"""How long requests that were told to end may take to say so to their clients."""


class Stoppable(Protocol):
    """The engine, as far as its end needs it."""

    def stop(self, timeout: float = ...) -> None: ...


class Drain:
    """The way from the first signal to the end.

    Readiness falls with `begin`. For `grace_s` new work is still taken, so that whoever balances load can see
    that. Then it is refused, and what runs may end by itself for `deadline_s`; after that the engine is stopped,
    which ends streams with an error, and what is not in the engine is cancelled.
    """

    def __init__(self, grace_s: float, deadline_s: float) -> None:
        self._grace_s = grace_s
        self._deadline_s = deadline_s
        self._is_begun = False
        self._refuses = False
        self._is_over = False
        self._work: set[asyncio.Task[object]] = set()
        self._listeners: list[Callable[[], None]] = []

    @property
    def is_begun(self) -> bool:
        """Whether the server is on its way out."""
        return self._is_begun

    def on_begin(self, listener: Callable[[], None]) -> None:
        """Have `listener` called when it begins; it must be quick and must not raise."""
        self._listeners.append(listener)

    def begin(self, *, has_grace: bool = True) -> None:
        """The server is to end; from a signal's handler. Without grace it refuses new work at once."""
        self._is_begun = True
        self._refuses = not has_grace
        for listener in self._listeners:
            listener()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work of this asyncio task, which the end waits for. Raises DrainingError when none is taken any more,
        and in place of the cancellation of work that takes too long."""
        if self._refuses:
            raise _error()
        task = asyncio.current_task()
        assert task is not None  # there is no ASGI without one
        self._work.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_over:
                raise
            task.uncancel()
            raise _error() from None
        finally:
            self._work.discard(task)

    async def finish(self, engine: Stoppable) -> None:
        """Return when all work has ended, by itself or not."""
        if not self._refuses:
            await asyncio.sleep(self._grace_s)
        self._refuses = True
        await self._until_idle(self._deadline_s)
        if self._work:
            logger.warning("%d requests are ended: the time to drain is over", len(self._work))
            engine.stop(0)
            await self._until_idle(END_SECONDS)
        self._is_over = True
        for task in self._work:
            task.cancel()
        await self._until_idle(END_SECONDS)

    async def _until_idle(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._work and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_SECONDS)


def _error() -> DrainingError:
    return DrainingError("the server is stopping", headers={"connection": "close"})
