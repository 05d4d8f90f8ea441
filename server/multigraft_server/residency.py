"""Keeps the engine's tiers in step with the registry, whichever process changed it.

What is promoted is loaded, what is superseded leaves memory, what is pinned stays, what is retired drains.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime

from multigraft_adapters.errors import MultigraftError, NotFoundError, VersionRetiredError
from multigraft_adapters.registry import Registry, Task
from multigraft_server.answers import Engine
from multigraft_server.leases import Leases, VersionKey

logger = logging.getLogger(__name__)

EVENTS_AT_ONCE = 100
PROMOTION_SECONDS = 30.0
"""How long moving an alias waits for the version to be in memory; then it moves all the same."""


class Residency:
    """`tend` is called every now and then, the rest from anywhere."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        leases: Leases,
        *,
        retire_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._leases = leases
        self._retire_seconds = retire_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._counter: int | None = None
        self._draining: dict[VersionKey, float] = {}  # until when
        self._known: set[int] | None = None  # ids of events
        self._pinned: frozenset[str] = frozenset()

    def tend(self) -> None:
        """Act on what has changed in the registry since the last call, and end what has drained for too long."""
        with self._lock:
            counter = self._registry.change_counter()
            if counter != self._counter:
                for name in self._changed_tasks():
                    self._follow(name)
                self._keep_pinned()
                self._counter = counter
            self._end_drained()

    def draining(self) -> dict[VersionKey, float]:
        """The retired versions that still have leases, and how many seconds are left for them."""
        now = self._clock()
        with self._lock:
            left = {key: max(0.0, until - now) for key, until in self._draining.items()}
        return {key: seconds for key, seconds in left.items() if self._leases.count(*key)}

    async def load(self, digests: Iterable[str]) -> None:
        """Wait until these adapters are in host memory, so that whoever is routed to them next waits no more.

        Raises AdapterLoadError when one cannot be loaded.
        """
        loop = asyncio.get_running_loop()
        loads = [self._future(loop, digest) for digest in dict.fromkeys(digests)]
        with suppress(TimeoutError):
            async with asyncio.timeout(PROMOTION_SECONDS):
                await asyncio.gather(*loads)

    async def load_before_promotion(
        self, task: str, numbers: Iterable[int] = (), digests: Iterable[str] = ()
    ) -> None:
        """Load what an alias is about to point at, if the task is in use here; raises as `load`.

        What there is not, or not any more, is for the registry to refuse.
        """
        with suppress(NotFoundError):
            found = await asyncio.to_thread(self._registry.task, task)
            if self.is_used(found):
                wanted = set(numbers)
                named = [version.digest for version in found.versions if version.number in wanted]
                await self.load([*named, *digests])

    def is_used(self, task: Task) -> bool:
        """Whether any version of the task is in memory here, or is wanted there."""
        state = self._engine.snapshot()
        resident = {*state.slots.values(), *state.host_digests, *state.loading}
        return task.pinned_at is not None or any(version.digest in resident for version in task.versions)

    def _future(self, loop: asyncio.AbstractEventLoop, digest: str) -> asyncio.Future[None]:
        future: asyncio.Future[None] = loop.create_future()

        def settle(error: MultigraftError | None) -> None:
            if not future.done():
                future.set_result(None) if error is None else future.set_exception(error)

        def done(error: MultigraftError | None) -> None:
            with suppress(RuntimeError):  # a closed loop: nobody waits
                loop.call_soon_threadsafe(settle, error)

        self._engine.fetch_ahead(digest, done)
        return future

    def _changed_tasks(self) -> list[str]:
        """The tasks with events since the last call, at the first one none: nothing is in memory yet."""
        page = self._registry.events(limit=EVENTS_AT_ONCE)
        known, self._known = self._known, {event.id for event in page}
        if known is None:
            return []
        # Transactions may end in another order than that of their ids, so older ones than the newest may be new.
        events = [event for event in page if event.id not in known]
        while len(page) == EVENTS_AT_ONCE and known.isdisjoint(event.id for event in page):
            page = self._registry.events(limit=EVENTS_AT_ONCE, before=page[-1].id)
            events += [event for event in page if event.id not in known]
        return list(dict.fromkeys(event.task for event in events))

    def _follow(self, name: str) -> None:
        try:
            task = self._registry.task(name)
        except NotFoundError:
            return
        served = aliased_digests(task)
        if self.is_used(task):
            for digest in served:
                self._engine.fetch_ahead(digest, _ignore)
        self._engine.let_go({version.digest for version in task.versions} - served)
        self._drain(task)

    def _drain(self, task: Task) -> None:
        for version in task.versions:
            key = task.name, version.number
            if version.retired_at is None:
                self._draining.pop(key, None)
            elif key not in self._draining:
                # A request that was routed before this process noticed takes its lease a moment later.
                left = self._retire_seconds - (datetime.now(UTC) - version.retired_at).total_seconds()
                if left > 0 or self._leases.count(*key):
                    self._draining[key] = self._clock() + max(left, 0.0)

    def _end_drained(self) -> None:
        for (task, number), until in list(self._draining.items()):
            if self._clock() < until:
                continue
            if not self._leases.count(task, number):
                del self._draining[task, number]
            else:
                message = f"version {number} of task {task!r} was retired {self._retire_seconds:g} s ago"
                told = self._leases.revoke(task, number, VersionRetiredError(message))
                if told:
                    logger.warning("%s: %d requests on it end with an error", message, told)

    def _keep_pinned(self) -> None:
        pinned = frozenset().union(*(aliased_digests(task) for task in self._registry.pinned_tasks()))
        if pinned != self._pinned:
            self._pinned = pinned
            self._engine.keep(pinned)


def aliased_digests(task: Task) -> frozenset[str]:
    """The adapters that an alias of the task points at, those of splits too."""
    numbers: set[int] = set()
    for alias in task.aliases:
        numbers.update(number for number, _ in alias.weights or ((alias.version, 1.0),))
    return frozenset(version.digest for version in task.versions if version.number in numbers)


def _ignore(error: MultigraftError | None) -> None:
    """Nobody waits: a failure is remembered by the engine, and told to the requests that come."""
