"""HTTP/1.1 with little work per request, so that a client on the server's own cores takes little from it.

Only what a load test needs: POST and GET, connections kept alive, bodies by length, by chunks, or to the end.
By httpx an event of a stream costs the client three times as much, a whole answer more than ten times.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from urllib.parse import urlsplit

from multigraft_loadtest.problems import CannotStartError, LostAnswerError

MAX_LINE_BYTES = 4 * 1024 * 1024
IDLE_SECONDS = 4.0
"""Connections that idled longer are not used again: servers begin to close them after 5 seconds."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server listens. `path` stands before every route."""

    host: str
    port: int
    path: str
    is_secure: bool

    @classmethod
    def of(cls, url: str) -> Place:
        """Raises CannotStartError for what is no URL of HTTP."""
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise CannotStartError(f"{url!r} is not a URL such as http://127.0.0.1:8100")
        is_secure = parts.scheme == "https"
        return cls(parts.hostname, port or (443 if is_secure else 80), parts.path.rstrip("/"), is_secure)

    def head(self, route: str, length: int | None, headers: Mapping[str, str]) -> bytes:
        """A request's head; `length` None is a GET."""
        method = "GET" if length is None else "POST"
        named = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {self.path}{route} HTTP/1.1", f"host: {named}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if length is not None:
            lines += ["content-type: application/json", f"content-length: {length}"]
        return "\r\n".join([*lines, "", ""]).encode()


class Connection:
    """One connection, on which one answer is read at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.idle_since = 0.0
        self.can_be_kept = True

    @property
    def is_open(self) -> bool:
        return not self._reader.at_eof()

    def send(self, request: bytes) -> None:
        self._writer.write(request)

    async def head(self) -> tuple[int, dict[str, str]]:
        """The answer's status and its headers by lower-case name. Raises LostAnswerError."""
        raw = await self._line(b"\r\n\r\n")
        first, *lines = raw.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                headers[name.lower()] = value.strip()
        version, _, rest = first.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdigit():
            raise LostAnswerError(f"this is no answer of HTTP/1.1: {first[:80]!r}")
        self.can_be_kept = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return int(rest[:3]), headers

    async def parts(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The body as it comes. Raises LostAnswerError when it breaks off."""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await self._line(b"\r\n")).split(b";")[0], 16):
                yield (await self._exactly(size + 2))[:-2]
            await self._line(b"\r\n")
        elif "content-length" in headers:
            if length := int(headers["content-length"]):
                yield await self._exactly(length)
        else:
            self.can_be_kept = False
            while part := await self._reader.read(65536):
                yield part

    def close(self) -> None:
        self._writer.close()

    async def _line(self, end: bytes) -> bytes:
        try:
            return await self._reader.readuntil(end)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise LostAnswerError(f"the connection ended before the answer did: {error}") from error

    async def _exactly(self, count: int) -> bytes:
        try:
            return await self._reader.readexactly(count)
        except (OSError, asyncio.IncompleteReadError) as error:
            raise LostAnswerError(f"the connection ended before the answer did: {error}") from error


class Connections:
    """The connections to one server: as many as there are answers under way, kept for the next ones."""

    def __init__(self, url: str) -> None:
        self.place = Place.of(url)
        self._idle: list[Connection] = []

    async def take(self) -> Connection:
        """One that is free, else a new one. Raises LostAnswerError when the server takes none."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open and monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
        secure = ssl.create_default_context() if self.place.is_secure else None
        host, port = self.place.host, self.place.port
        try:
            pair = await asyncio.open_connection(host, port, ssl=secure, limit=MAX_LINE_BYTES)
        except OSError as error:
            raise LostAnswerError(f"no connection: {error.strerror or error}") from error
        return Connection(*pair)

    def give_back(self, connection: Connection) -> None:
        """One whose answer was read to its end."""
        if connection.can_be_kept:
            connection.idle_since = monotonic()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            with suppress(OSError):
                self._idle.pop().close()
