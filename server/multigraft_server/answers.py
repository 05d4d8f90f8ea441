"""One engine request, seen from asyncio: its events, its cancellation, its times."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from multigraft_adapters.errors import MultigraftError
from multigraft_server.calls import Call
from multigraft_server.detokenise import Detokeniser
from multigraft_server.engine.merge_costs import StepSeen
from multigraft_server.engine.requests import (
    EngineSnapshot,
    Event,
    Failed,
    Finished,
    FinishReason,
    Pooled,
    PoolingParams,
    Request,
    SamplingParams,
    Token,
)
from multigraft_server.tokenising import Tokens

Values = np.ndarray[Any, np.dtype[np.float32]]
Cause = Literal["eos_token", "stop_sequence", "length"]

_numbers = itertools.count(1)


class Engine(Protocol):
    """The engine, as far as the HTTP side knows it; `engine.loop.EngineLoop` is one."""

    @property
    def alive(self) -> bool: ...
    @property
    def failure(self) -> MultigraftError | None: ...
    @property
    def step_seconds(self) -> float: ...
    def start(self) -> None: ...
    def stop(self, timeout: float = ...) -> None: ...
    def submit(self, request: Request) -> None: ...
    def check_room(self, task: str, generates: bool) -> None: ...
    def together(self) -> AbstractContextManager[None]: ...
    def cancel(self, request_id: str, error: MultigraftError | None = None) -> None: ...
    def fetch_ahead(self, digest: str, done: Callable[[MultigraftError | None], None]) -> None: ...
    def merge(self, digest: str | None, done: Callable[[MultigraftError | None], None]) -> None: ...
    def take_steps(self) -> list[StepSeen]: ...
    def keep(self, digests: frozenset[str]) -> None: ...
    def let_go(self, digests: Iterable[str]) -> None: ...
    def snapshot(self) -> EngineSnapshot: ...


class Mailbox:
    """Brings events from the engine's thread into one event loop, all that came meanwhile by one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[tuple[Inbox, Event]] = deque()
        self._is_waking = False

    @classmethod
    def of_running_loop(cls) -> Mailbox:
        """The running loop's only one."""
        loop = asyncio.get_running_loop()
        return _mailboxes.setdefault(loop, cls(loop))

    def new_inbox(self) -> Inbox:
        """An inbox of the loop."""
        return Inbox(self._loop)

    def put(self, inbox: Inbox, event: Event) -> None:
        """Bring an event to an inbox of the loop; may be called from any thread.

        A closed loop means that the process stops and that nobody waits.
        """
        self._events.append((inbox, event))
        if not self._is_waking:
            self._is_waking = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # What is put from here on wakes the loop again; what was put before is in the deque by now.
        self._is_waking = False
        while self._events:
            inbox, event = self._events.popleft()
            inbox.put(event)


class Inbox:
    """The events of one request in its event loop, for one reader: an `asyncio.Queue` without what others need."""

    __slots__ = ("_events", "_loop", "_reader")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: deque[Event] = deque()
        self._reader: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Add an event; in the loop's thread."""
        self._events.append(event)
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)

    async def get(self) -> Event:
        """Take the oldest event; waits for one."""
        while not self._events:
            self._reader = self._loop.create_future()
            await self._reader
        return self._events.popleft()


_mailboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, Mailbox] = WeakKeyDictionary()


class Answer:
    """The events of one request that was submitted to the engine, and that its call owns.

    `next` is called until it returns a `Finished` or raises; whoever wants no more before that calls `cancel`,
    as the call does when it closes.
    """

    def __init__(self, engine: Engine, call: Call, tokens: Tokens, params: SamplingParams | PoolingParams) -> None:
        """Submits; raises what `EngineLoop.submit` raises, and QuotaError. Must run inside an event loop."""
        call.note_input(len(tokens.ids))
        self.id = f"row-{next(_numbers)}"
        self.num_prompt_tokens = len(tokens.ids)
        self.num_cached_tokens = 0
        self._engine = engine
        self._call = call
        self._mailbox = Mailbox.of_running_loop()
        self._events = self._mailbox.new_inbox()
        self._ended = False
        self._last_token: float | None = None
        engine.submit(
            Request(
                id=self.id,
                task=call.target.task,
                digest=call.target.digest,
                token_ids=tokens.ids,
                params=params,
                sink=self._on_event,
                arrival=call.arrival,
                deadline=call.deadline,
                priority=call.terms.priority,
                cache_salt=call.terms.cache_salt,
                token_type_ids=tokens.type_ids,
                pixels=tokens.pixels,
            )
        )
        call.on_close(self.cancel)
        call.on_revoke(self._end)

    async def next(self) -> Token | Pooled | Finished:
        """The next event; raises the error of a `Failed` one."""
        event = await self._events.get()
        if isinstance(event, Failed):
            self._ended = True
            raise event.error
        if isinstance(event, Finished):
            self._ended = True
            self._call.note_timing(event.timing)
        elif isinstance(event, Token):
            self.num_cached_tokens += event.cached_tokens
            self._note_token()
        return event

    def cancel(self) -> None:
        """Free the engine's row, unless the answer is complete."""
        if not self._ended:
            self._ended = True
            self._engine.cancel(self.id)

    def _end(self, error: MultigraftError) -> None:
        """Have the answer end with this error; the engine's last event tells it."""
        self._engine.cancel(self.id, error)

    def _on_event(self, event: Event) -> None:
        self._mailbox.put(self._events, event)  # runs in the engine's thread

    def _note_token(self) -> None:
        now = time.monotonic()
        self._call.note_token(now, self._last_token)
        self._last_token = now


async def read_pooled(answers: Sequence[Answer]) -> list[Values]:
    """What each pooling answer computed, in order; raises the error of the first one that fails."""
    return [await _one_pooled(answer) for answer in answers]


async def _one_pooled(answer: Answer) -> Values:
    pooled = await answer.next()
    assert isinstance(pooled, Pooled)  # the engine answers pooling requests with one of these
    await answer.next()
    return pooled.values


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a text ended."""

    reason: FinishReason
    cause: Cause


@dataclass(frozen=True, slots=True)
class Piece:
    """What one event adds to a text. The last piece has the ending, and may have no token."""

    text: str
    token: Token | None = None
    ending: Ending | None = None


async def read_text(answer: Answer, detokeniser: Detokeniser) -> AsyncGenerator[Piece]:
    """The pieces of a generating answer; closing the generator cancels it."""
    try:
        while isinstance(event := await answer.next(), Token):
            text = detokeniser.push(event.token_id)
            if detokeniser.stopped:
                yield Piece(text, event, Ending("stop", "stop_sequence"))
                return
            yield Piece(text, event)
        assert isinstance(event, Finished)  # generating requests are never pooled
        yield Piece(detokeniser.flush(), None, _ending(event.reason, detokeniser))
    finally:
        answer.cancel()


def _ending(reason: FinishReason, detokeniser: Detokeniser) -> Ending:
    if detokeniser.stopped:
        return Ending("stop", "stop_sequence")
    return Ending("length", "length") if reason == "length" else Ending("stop", "eos_token")
