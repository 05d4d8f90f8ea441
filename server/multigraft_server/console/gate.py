"""What stands before every page: who asks, and the headers that say what a browser may do with the answer."""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request, cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multigraft_server.access.callers import Caller
from multigraft_server.api.auth import CALLER

VISITOR = "visitor"
VISIT = re.compile(r"[A-Za-z0-9_-]{43}")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # None at all would have browsers tell "null" for the origin of our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
Answer = Callable[[Request, Exception], Awaitable[Response]]
UNSAVED = "no-store"
"""How pages are kept by browsers and proxies between: not at all."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks for a page: the token that its forms are bound to, and the caller; None who has to log in."""

    token: str
    csrf: str
    caller: Caller | None


class BesideApi:
    """Sends what is below `/console` to the console, which has its own gate, and all else to the API."""

    def __init__(self, app: ASGIApp, console: ASGIApp) -> None:
        self._app = app
        self._console = console

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_console = scope["type"] == "http" and (path == "/console" or path.startswith("/console/"))
        await (self._console if is_console else self._app)(scope, receive, send)


class Gate:
    """Finds out who asks, by the session's cookie, and adds `HEADERS` to every answer.

    It refuses nobody: `authorise` does, for every route of the console. What nothing else answers, `answer` does.
    """

    def __init__(self, app: ASGIApp, answer: Answer) -> None:
        self._app = app
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        visitor, made = _visitor(scope)
        state = scope.setdefault("state", {})
        state[VISITOR] = visitor
        if visitor.caller is not None:
            state[CALLER] = visitor.caller
        has_started = False

        async def send_guarded(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                _add_headers(MutableHeaders(scope=message), made)
            await send(message)

        try:
            await self._app(scope, receive, send_guarded)
        except Exception as error:
            if has_started:
                raise
            response = await self._answer(Request(scope), error)
            await response(scope, receive, send_guarded)


def _visitor(scope: Scope) -> tuple[Visitor, str]:
    """Who asks, and the cookie that the answer has to set for it, or nothing."""
    sessions = scope["app"].state.console.sessions
    cookies = cookie_parser(Headers(scope=scope).get("cookie", ""))
    token = cookies.get(session_cookie(scope), "")
    caller = sessions.caller_of(token)
    if caller is not None and not sessions.is_open:
        return Visitor(token, sessions.csrf(token), caller), ""
    visit, made = cookies.get(visit_cookie(scope), ""), ""
    if not VISIT.fullmatch(visit):
        visit = secrets.token_urlsafe(32)
        made = written(scope, visit_cookie(scope), visit)
    return Visitor(visit, sessions.csrf(visit), caller), made


def _add_headers(headers: MutableHeaders, cookie: str) -> None:
    headers.update(HEADERS)
    headers.setdefault("cache-control", UNSAVED)
    if cookie and headers["cache-control"] == UNSAVED:  # what others may keep must not set it for them
        headers.append("set-cookie", cookie)


def session_cookie(scope: Scope) -> str:
    """The name of the cookie of a session: a browser sends cookies to every port of a host."""
    return f"multigraft-session-{_port(scope)}"


def visit_cookie(scope: Scope) -> str:
    """The name of the cookie that forms are bound to where nobody is logged in."""
    return f"multigraft-visit-{_port(scope)}"


def written(scope: Scope, name: str, value: str, *, seconds: int | None = None) -> str:
    """A cookie as a header sets it: for the console alone, and for no script."""
    parts = [f"{name}={value}", "Path=/console", "HttpOnly", "SameSite=Strict"]
    parts += [f"Max-Age={seconds}"] if seconds is not None else []
    parts += ["Secure"] if is_https(scope) else []
    return "; ".join(parts)


def is_https(scope: Scope) -> bool:
    """Whether the browser speaks TLS, as far as uvicorn knows (it trusts a proxy on this machine)."""
    return bool(scope.get("scheme") == "https")


def _port(scope: Scope) -> Any:
    return (scope.get("server") or ("", 0))[1]
