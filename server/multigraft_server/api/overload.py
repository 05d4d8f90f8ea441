"""Refusing what a full queue has no room for before anything of it is read."""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from multigraft_server.api import predict
from multigraft_server.api.auth import caller_of_scope
from multigraft_server.router import Router

(ROUTE,) = (route for route in predict.router.routes if isinstance(route, APIRoute) and route.name == "predict")


class RefuseWhenFull:
    """Refuses a prediction whose path names its task, while nothing has been spent on it but its head.

    In a flood most requests are refused, and what that costs is taken from the others: routing and reading a body
    cost several times what this does. Routes that name the task in the body are refused by the router, after it.
    Raises OverloadedError.
    """

    def __init__(self, app: ASGIApp, router: Router) -> None:
        self._app = app
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            named = ROUTE.path_regex.match(scope["path"])
            if named is not None:
                scope["route"] = ROUTE  # as the framework would have it, for those who are told of the request
                self._router.refuse_when_full(named["ref"], caller_of_scope(scope))
        await self._app(scope, receive, send)
