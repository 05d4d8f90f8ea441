"""Server-sent events: an answer that is streamed, from its first event to the release of what it holds."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from multigraft_adapters.errors import MultigraftError, RequestCancelledError
from multigraft_server.api.disconnect import unless_disconnected
from multigraft_server.api.problems import error_body
from multigraft_server.calls import Call

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"

_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)

HOLE = "\0"
"""Stands in the data of an `EventTemplate` for the text that each of its events has."""


def event(data: Mapping[str, Any]) -> bytes:
    """One event with a JSON object as its data."""
    return f"data: {_ENCODER.encode(data)}\n\n".encode()


class EventTemplate:
    """Events that differ in one text only: all else is encoded once.

    In `data` that text is `HOLE`, which nothing else in it may be.
    """

    def __init__(self, data: Mapping[str, Any]) -> None:
        self._before, self._after = f"data: {_ENCODER.encode(data)}\n\n".split(_ENCODER.encode(HOLE))

    def event(self, text: str) -> bytes:
        """The event with this text: what `event` makes of the data with the text in it."""
        return f"{self._before}{_ENCODER.encode(text)}{self._after}".encode()


class EventStream(StreamingResponse):
    """Sends a call's events as they come, and closes the call; a client that goes away ends both.

    An error after the first event is sent as an event with `error`, since the status has left already.
    """

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes], call: Call, headers: Mapping[str, str]) -> None:
        super().__init__(rest, headers={**headers, **_HEADERS}, media_type="text/event-stream")
        self._first = first
        self._rest = rest
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(RequestCancelledError), self._call:
            await unless_disconnected(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._rest):
            await _send_part(send, self._first)
            try:
                async for part in self._rest:
                    await _send_part(send, part)
            except Exception as error:
                self._call.close(error)
                if not isinstance(error, MultigraftError):
                    logger.error("a stream failed", exc_info=error)
                await _send_part(send, event(error_body(error)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def open_stream(
    receive: Receive, events: AsyncGenerator[bytes], call: Call, headers: Mapping[str, str]
) -> EventStream:
    """The stream, once its first event is there: what fails before that is answered with a status of its own.

    The stream owns the call from here on; when this raises, the call is closed.
    """
    with call.closed_on_error():
        try:
            first = await unless_disconnected(receive, _first(events))
        except BaseException:
            await events.aclose()
            raise
        return EventStream(first, events, call, headers)


async def _first(events: AsyncGenerator[bytes]) -> bytes:
    return await anext(events)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})
