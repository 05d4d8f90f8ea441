"""The engine's thread, and the only way into it."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from multigraft_adapters.errors import (
    DrainingError,
    EngineStoppedError,
    MultigraftError,
    OverloadedError,
)
from multigraft_adapters.processor import give_back_memory
from multigraft_server.engine.engine import Engine
from multigraft_server.engine.host_tier import HostAdapter
from multigraft_server.engine.merge_costs import StepSeen
from multigraft_server.engine.merging import Built
from multigraft_server.engine.queue_bound import QueueBound
from multigraft_server.engine.requests import EngineSnapshot, Event, Failed, Finished, Request, SamplingParams
from multigraft_server.engine.settings import EngineSettings
from multigraft_server.engine.tiers import Loaded

logger = logging.getLogger(__name__)

IDLE_S = 1.0
"""How long the idle loop waits before it checks the engine's books again, and gives freed memory back."""

FREE_SHARE = 8
"""A task may have so many times the free places of the queue: a flood of one task leaves the others room. The rule
is that of "Dynamic queue length thresholds for shared-memory packet switches" (Choudhury and Hahne, 1998)."""


@dataclass(frozen=True, slots=True)
class _Submit:
    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class _Cancel:
    request_id: str
    error: MultigraftError | None = None


@dataclass(frozen=True, slots=True)
class _Arrived:
    digest: str
    result: HostAdapter | MultigraftError


@dataclass(frozen=True, slots=True)
class _FetchAhead:
    digest: str
    done: Loaded


@dataclass(frozen=True, slots=True)
class _Keep:
    digests: frozenset[str]


@dataclass(frozen=True, slots=True)
class _LetGo:
    digests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Merge:
    digest: str | None
    done: Loaded


class _Stop:
    pass


_Order = _Submit | _Cancel | _Arrived | _FetchAhead | _Keep | _LetGo | _Merge | Built
_Message = _Order | _Stop


class EngineLoop:
    """Runs one Engine on one thread. `submit`, `cancel`, `snapshot` and `alive` may be used from any thread."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._inbox: SimpleQueue[_Message] = SimpleQueue()
        self._lock = threading.Lock()
        self._together = threading.local()
        self._open: dict[str, int] = {}  # request id to its prompt's tokens
        self._open_tokens = 0
        self._open_by_task: Counter[str] = Counter()
        self._bound = QueueBound(settings)
        self._engine: Engine | None = None
        self._thread: threading.Thread | None = None
        self._snapshot = EngineSnapshot(0, 0, {}, {})
        self._stopping = False
        self._dead: MultigraftError | None = None
        self._failure: MultigraftError | None = None
        self._step_since: float | None = None
        self._is_rested = False
        self._steps_at_rest = -1

    @property
    def alive(self) -> bool:
        """Whether the thread runs and can continue."""
        return self._thread is not None and self._thread.is_alive() and self._dead is None

    @property
    def failure(self) -> MultigraftError | None:
        """Why the thread has ended, where nobody asked it to."""
        return self._failure

    @property
    def step_seconds(self) -> float:
        """For how long the step that runs now has been running; 0 between two steps, when `snapshot` tells of the
        last one."""
        since = self._step_since
        return 0.0 if since is None else time.monotonic() - since

    def attach(self, engine: Engine) -> None:
        """Give the loop the engine that it runs; before `start`."""
        self._engine = engine

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="multigraft-engine", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> None:
        """Refuse new requests, end the open ones with DrainingError, and end the thread."""
        self._stopping = True
        if self._thread is not None:
            self._inbox.put(_Stop())
            self._thread.join(timeout)

    def submit(self, request: Request) -> None:
        """Hand a request to the engine.

        Raises OverloadedError when the queue has no more room, or none for this task, or when the request would
        wait too long (of those that are submitted together the first of a task is asked for all of it);
        DrainingError when the server is stopping; EngineStoppedError when the engine has ended. Otherwise the
        request's sink will get its last event.
        """
        batch: list[Request] | None = getattr(self._together, "batch", None)
        is_first = not any(_is_sibling(one, request) for one in batch or ())
        with self._lock:
            self._refuse_if_closed()
            self._refuse_if_full(request)
            if is_first:
                self._bound.check(request.task, isinstance(request.params, SamplingParams))
            self._bound.enter(request)
            self._open[request.id] = len(request.token_ids)
            self._open_tokens += len(request.token_ids)
            self._open_by_task[request.task] += 1
        counted = replace(request, sink=self._counted(request))
        if batch is None:
            self._inbox.put(_Submit((counted,)))
        else:
            batch.append(counted)

    def check_room(self, task: str, generates: bool) -> None:
        """Raises what `submit` would raise now, for a request of this task that generates or does not; sooner than
        its input is read."""
        with self._lock:
            self._refuse_if_closed()
            self._bound.check(task, generates)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What this thread submits inside reaches the engine at once, so that one step can take all of it."""
        self._together.batch = []
        try:
            yield
        finally:
            batch, self._together.batch = self._together.batch, None
            if batch:
                self._inbox.put(_Submit(tuple(batch)))

    def cancel(self, request_id: str, error: MultigraftError | None = None) -> None:
        """End a request, with this error if one is given; it may have ended already."""
        self._inbox.put(_Cancel(request_id, error))

    def fetch_ahead(self, digest: str, done: Loaded) -> None:
        """Load an adapter for requests that are expected. `done` is told once when it is in host memory, or with
        the error why it is not, on the engine's thread."""
        with self._lock:
            dead = self._dead
            if dead is None:
                self._inbox.put(_FetchAhead(digest, done))
        if dead is not None:
            done(dead)

    def merge(self, digest: str | None, done: Loaded) -> None:
        """Merge an adapter into the weights, and no other; or none. As `Merger.want`, and `done` is told on the
        engine's thread."""
        with self._lock:
            dead = self._dead
            if dead is None:
                self._inbox.put(_Merge(digest, done))
        if dead is not None:
            done(dead)

    def take_steps(self) -> list[StepSeen]:
        """As `Engine.take_steps`."""
        return [] if self._engine is None else self._engine.take_steps()

    def keep(self, digests: frozenset[str]) -> None:
        """Pin these adapters, and no others."""
        self._inbox.put(_Keep(digests))

    def let_go(self, digests: Iterable[str]) -> None:
        """Free these adapters' memory when their last requests end: no further ones are expected."""
        self._inbox.put(_LetGo(tuple(digests)))

    def deliver(self, digest: str, result: HostAdapter | MultigraftError) -> None:
        """Hand in what a loading thread has loaded."""
        self._inbox.put(_Arrived(digest, result))

    def deliver_merged(self, built: Built) -> None:
        """Hand in what a thread has built."""
        self._inbox.put(built)

    def snapshot(self) -> EngineSnapshot:
        """The engine's state after its last step."""
        return self._snapshot

    def _counted(self, request: Request) -> Callable[[Event], None]:
        """The request's sink, which also takes it off the open ones with its last event."""

        def sink(event: Event) -> None:
            if isinstance(event, Finished | Failed):
                self._close_request(request)
            request.sink(event)

        return sink

    def _close_request(self, request: Request) -> None:
        with self._lock:
            self._bound.leave(request)
            self._open_tokens -= self._open.pop(request.id, 0)
            self._open_by_task[request.task] -= 1
            if not self._open_by_task[request.task]:
                del self._open_by_task[request.task]

    def _refuse_if_closed(self) -> None:
        if self._stopping:
            raise DrainingError("the server is stopping")
        if self._dead is not None:
            raise self._dead
        if not self.alive:
            raise EngineStoppedError("the engine does not run")

    def _refuse_if_full(self, request: Request) -> None:
        free, own = self._settings.max_waiting_requests - len(self._open), self._open_by_task[request.task]
        too_many = free < 1 or own >= FREE_SHARE * free
        too_long = self._open_tokens + len(request.token_ids) > self._settings.max_waiting_tokens
        if too_many or (too_long and self._open):
            raise OverloadedError(
                f"the queue has no room for {request.task!r} ({len(self._open)} requests, {own} of them its own)"
            )

    def _run(self) -> None:
        assert self._engine is not None, "attach an engine before starting its loop"
        engine = self._engine
        try:
            engine.prepare()
            while self._take_messages(engine, wait=False):
                self._step_since = time.monotonic()
                busy = engine.step()
                self._snapshot = engine.snapshot()
                self._step_since = None
                if not busy and not self._idle(engine):
                    return
        except Exception as error:
            logger.critical("the engine has ended", exc_info=error)
            self._dead = self._failure = EngineStoppedError(f"the engine has ended: {error}")
        finally:
            self._step_since = None
            self._close(engine)

    def _idle(self, engine: Engine) -> bool:
        """Check the books, then wait for a message; False when it says to stop."""
        engine.check_integrity()
        if self._is_rested and engine.steps != self._steps_at_rest:
            self._steps_at_rest = engine.steps
            give_back_memory()
        started = time.monotonic()
        goes_on = self._take_messages(engine, wait=True)
        self._is_rested = time.monotonic() - started >= IDLE_S
        return goes_on

    def _take_messages(self, engine: Engine, *, wait: bool) -> bool:
        """Act on everything in the inbox; False when the loop is to stop."""
        try:
            message = self._inbox.get(timeout=IDLE_S) if wait else self._inbox.get_nowait()
            while not isinstance(message, _Stop):
                _act(engine, message)
                message = self._inbox.get_nowait()
        except Empty:
            return True
        return False

    def _close(self, engine: Engine) -> None:
        """End whatever is open, what came in meanwhile included."""
        reason = self._dead or DrainingError("the server is stopping")
        with self._lock:
            self._dead = self._dead or EngineStoppedError("the engine has stopped")
        while True:
            try:
                message = self._inbox.get_nowait()
            except Empty:
                break
            for request in message.requests if isinstance(message, _Submit) else ():
                request.sink(Failed(reason))
            if isinstance(message, _FetchAhead | _Merge):
                message.done(reason)
        engine.fail_all(reason)
        self._snapshot = engine.snapshot()
        engine.close()


def _is_sibling(one: Request, other: Request) -> bool:
    """Whether both wait for the same: their task's turn of one kind."""
    return one.task == other.task and isinstance(one.params, type(other.params))


def _act(engine: Engine, message: _Order) -> None:
    match message:
        case _Submit(requests):
            for request in requests:
                engine.accept(request)
        case _Cancel(request_id, error):
            engine.cancel(request_id, error)
        case _Arrived(digest, result):
            engine.adapter_arrived(digest, result)
        case _FetchAhead(digest, done):
            engine.fetch_ahead(digest, done)
        case _Keep(digests):
            engine.keep(digests)
        case _LetGo(leavers):
            engine.let_go(leavers)
        case _Merge(digest, done):
            engine.merger.want(digest, done)
        case Built():
            engine.merger.built(message)
