"""Pure ASGI middleware: the request's id and its errors, whether it is taken, and the guard of its body."""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multigraft_server.api.problems import error_response
from multigraft_server.draining import Drain
from multigraft_server.logs import REQUESTS, log_request
from multigraft_server.settings import ServerSettings
from multigraft_server.tracing import PARENT, Tracing
from multigraft_server.trails import TRAIL, Trail

REQUEST_ID = "x-request-id"
UPLOAD_PATH_END = "/versions"
FILES_PATH_END = "/files"
SLOWEST_BYTES = 16 * 1024
"""Per second; a body that comes faster in the long run is waited for, however large it is."""
READING = frozenset({"GET", "HEAD", "OPTIONS"})
QUIET_PATHS = frozenset({"/health/live", "/health/ready", "/metrics"})
"""Asked every few seconds by machines: logged only where they fail."""
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class RequestContext:
    """The outermost layer: every answer has `x-request-id`, and every error the one shape; requests are told of.

    A caller's own id is kept when it is a plain one. An error after the first byte ends the connection.
    """

    def __init__(self, app: ASGIApp, retry_after_seconds: int, tracing: Tracing | None) -> None:
        self._app = app
        self._retry_after_seconds = retry_after_seconds
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        named = {REQUEST_ID: request_id}
        if self._tracing is None and not REQUESTS.isEnabledFor(logging.INFO):
            await self._answer(scope, receive, send, named, None)
            return
        trail = Trail(request_id, scope["method"])
        is_quiet = scope["path"] in QUIET_PATHS
        if self._tracing is not None and not is_quiet:
            named[PARENT] = self._tracing.begin(trail, Headers(scope=scope))
        TRAIL.set(trail)
        try:
            await self._answer(scope, receive, send, named, trail)
        finally:
            trail.end(scope)
            self._tell(trail, is_quiet=is_quiet)

    def _tell(self, trail: Trail, *, is_quiet: bool) -> None:
        if self._tracing is not None and not is_quiet:
            self._tracing.put(trail)
        if not is_quiet or trail.status >= 400:
            log_request(trail)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, named: dict[str, str], trail: Trail | None
    ) -> None:
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                if trail is not None:
                    trail.status = message["status"]
                MutableHeaders(scope=message).update(named)
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            if has_started:
                raise
            response = error_response(error, retry_after_seconds=self._retry_after_seconds)
            await response(scope, receive, send_with_id)


class TakeWork:
    """Refuses new work when the server stops, and has the end wait for what was taken. What only reads is no work:
    it is answered to the end, and not waited for."""

    def __init__(self, app: ASGIApp, drain: Drain) -> None:
        self._app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            await self._app(scope, receive, send)
            return
        with self._drain.working():
            await self._app(scope, receive, send)


class GuardBody:
    """Bounds what a body may cost: its bytes, the silence between two pieces of it, and the seconds that all of it
    takes: `request_timeout_seconds`, and one more for each `SLOWEST_BYTES` that came.

    Multipart bodies sent to where versions or files are uploaded have caps of their own. A body whose declared
    length is over the cap is refused before it is read; otherwise `receive` raises. These are HTTPExceptions,
    since the framework, which reads the bodies, lets no others through.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._max_upload_bytes = settings.max_upload_bytes
        self._max_file_bytes = settings.max_file_bytes
        self._timeout_seconds = settings.body_timeout_seconds
        self._whole_seconds = settings.request_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        limit = self._limit(str(scope["path"]), headers)
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)
        await self._app(scope, self._guarded(receive, limit), send)

    def _limit(self, path: str, headers: Headers) -> int:
        if headers.get("content-type", "").lower().startswith("multipart/"):
            if path.endswith(UPLOAD_PATH_END):
                return self._max_upload_bytes
            if path.endswith(FILES_PATH_END):
                return self._max_file_bytes
        return self._max_bytes

    def _guarded(self, receive: Receive, limit: int) -> Receive:
        size, is_complete, started = 0, False, time.monotonic()

        async def guarded() -> Message:
            nonlocal size, is_complete
            if is_complete:
                return await receive()
            left = self._whole_seconds + size / SLOWEST_BYTES - (time.monotonic() - started)
            message = await self._in_time(receive, left)
            size += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if size > limit:
                raise _too_large(limit)
            return message

        return guarded

    async def _in_time(self, receive: Receive, left: float) -> Message:
        try:
            async with asyncio.timeout(min(self._timeout_seconds, left)):
                return await receive()
        except TimeoutError:
            detail = f"the body stopped halfway: nothing came for {self._timeout_seconds:g} s"
            if left < self._timeout_seconds:
                detail = f"the body came too slowly: it has {self._whole_seconds:g} s, and more if it is large"
            # The rest of the body may still come, so the connection cannot carry another request.
            raise HTTPException(408, detail, {"connection": "close"}) from None


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limit} bytes")


def request_id_of(scope: Scope) -> str:
    """The caller's own id where it is a plain one, else a new one."""
    given = Headers(scope=scope).get(REQUEST_ID, "")
    return given if _ID.fullmatch(given) else f"req_{random.getrandbits(128):032x}"
