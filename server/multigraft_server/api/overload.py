"""Refusing what a full queue has no room for before anything of it is read.

In a flood most requests are refused, and what that costs is taken from the others. Routes that name the task in
the body are refused by the router, after it.
"""

from __future__ import annotations

import logging
import re
from json import JSONEncoder

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from multigraft_adapters.errors import OverloadedError
from multigraft_server.access.callers import Caller
from multigraft_server.api import predict
from multigraft_server.api.auth import caller_of_scope
from multigraft_server.api.hosts import Names, name_of
from multigraft_server.api.middleware import REQUEST_ID, request_id_of
from multigraft_server.api.problems import PROBLEMS, error_body
from multigraft_server.logs import REQUESTS
from multigraft_server.parts import Parts
from multigraft_server.router import Router

STATUS = PROBLEMS[OverloadedError].status
_ENCODER = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
"""As the framework's answers are encoded."""

(ROUTE,) = (route for route in predict.router.routes if isinstance(route, APIRoute) and route.name == "predict")


class RefuseWhenFull:
    """Refuses a prediction whose path names its task, when its caller is known. Raises OverloadedError."""

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self._app = app
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = _named(scope)
        if named is not None:
            scope["route"] = ROUTE  # as the framework would have it, for those who are told of the request
            self._router.refuse_when_full(named["ref"], caller_of_scope(scope))
        await self._app(scope, receive, send)


class RefuseAtOnce:
    """The same before the whole application, for two thirds of the cost: its layers are many.

    It answers as they would, where it can tell how: where the caller has no limits, and nobody is told of it. All
    else is left to them.
    """

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts
        self._names = Names(parts.keyring, parts.settings.trusted_hosts)
        self._retry_after = str(parts.settings.retry_after_seconds).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = _named(scope)
        caller = self._caller(scope) if named is not None else None
        if named is not None and caller is not None:
            try:
                self._parts.router.refuse_when_full(named["ref"], caller)
            except OverloadedError as error:
                await self._refuse(error, request_id_of(scope), send)
                return
        await self._app(scope, receive, send)

    async def _refuse(self, error: OverloadedError, request_id: str, send: Send) -> None:
        body = _ENCODER.encode(error_body(error)).encode()
        headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", b"application/json"),
            (b"retry-after", self._retry_after),
            (REQUEST_ID.encode(), request_id.encode()),
        ]
        await send({"type": "http.response.start", "status": STATUS, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _caller(self, scope: Scope) -> Caller | None:
        """Who asks; None where the layers have more to say to it than whether there is room."""
        parts = self._parts
        if parts.drain.is_begun or parts.tracing is not None or REQUESTS.isEnabledFor(logging.INFO):
            return None
        headers = dict(scope["headers"])
        if not self._names.has(name_of(headers.get(b"host", b"").decode("latin-1"))):
            return None
        caller = parts.keyring.caller_of(headers.get(b"authorization", b"").decode("latin-1"))
        return None if caller is None or caller.limits is not None else caller


def _named(scope: Scope) -> re.Match[str] | None:
    if scope["type"] != "http" or scope["method"] != "POST":
        return None
    return ROUTE.path_regex.match(scope["path"])
