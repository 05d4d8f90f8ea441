"""What one connection may cost: its head in bytes and seconds, and how long it may not read what it asked for."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from multigraft_adapters.errors import (
    HeadTooLargeError,
    InvalidRequestError,
    MultigraftError,
    RequestTimeoutError,
)
from multigraft_server.api.problems import error_body, problem_of

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 128

_PHRASES = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a head may take from the connection's, or its own, first byte; and how long a client may leave what
    waits for it unread. Both in seconds."""

    head_s: float
    stall_s: float


def connections(patience: Patience) -> type[asyncio.Protocol]:
    """The protocol of a server's connections."""
    return type("PatientConnection", (Connection,), {"patience": patience})


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which knows no bounds of heads and waits for readers for ever.

    What is written and not read fills the system's buffers, then the transport's; from then on the client has
    `stall_s` to read most of the latter. Then the connection is cut, which ends what computes for it.
    """

    patience: Patience

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reads_head = True
        self._head_bytes = 0
        self._received = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._problem: MultigraftError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._reads_head:
            self._received += len(data)
            if self._head_timer is None:
                self._await_head()
        super().data_received(data)
        if self._reads_head and self._received > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(_head_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count(len(name) + len(value))

    def on_headers_complete(self) -> None:
        self._reads_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._reads_head, self._received = True, 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self.patience.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def send_400_response(self, msg: str) -> None:
        """Answers what the parser refuses, or had to refuse for us."""
        self._refuse(self._problem or InvalidRequestError("this is no request of HTTP/1.1"))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._problem = _head_too_large()
            raise self._problem  # the parser stops, and `send_400_response` is called

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.patience.head_s, self._give_up)

    def _give_up(self) -> None:
        if self.transport.is_closing():
            return
        if self._received:
            self._refuse(RequestTimeoutError(f"the head did not come within {self.patience.head_s:g} s"))
        else:
            self.transport.close()

    def _refuse(self, error: MultigraftError) -> None:
        """Answer an error that belongs to no request, and close."""
        self._cancel_timers()
        status, body = problem_of(error).status, json.dumps(error_body(error)).encode()
        head = f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _cancel_timers(self) -> None:
        for timer in (self._head_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall_timer = None


def _head_too_large() -> HeadTooLargeError:
    return HeadTooLargeError(f"a request's head has at most {MAX_HEAD_BYTES} bytes and {MAX_HEADERS} headers")
