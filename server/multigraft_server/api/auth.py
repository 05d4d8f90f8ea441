"""Who calls, and whether the key may: every route but the health checks is closed until a key opens it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from multigraft_adapters.errors import AuthenticationError, PermissionDeniedError, TaskNotFoundError
from multigraft_adapters.registry.names import unknown_task
from multigraft_server.access.callers import ANYONE, Caller
from multigraft_server.access.keyring import Keyring
from multigraft_server.api.scopes import ANY, scope_of

OPEN_PATHS = frozenset({"/health/live", "/health/ready"})
CALLER = "caller"


class Authenticate:
    """Lets a request through when its key is known, within the key's limits, or when it asks for an open path.

    Denies by default: the path is the one that the router sees (`scope["path"]`), never one built from the
    `Host` header. Raises AuthenticationError, QuotaError.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        state[CALLER] = caller = ANYONE if scope["path"] in OPEN_PATHS else _caller(scope)
        if caller.limits is None:
            await self._app(scope, receive, send)
            return
        limits = caller.limits

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(limits.headers())
            await send(message)

        with limits.admitted():
            await self._app(scope, receive, send_with_limits)


def _caller(scope: Scope) -> Caller:
    keyring: Keyring = scope["app"].state.parts.keyring
    caller = keyring.caller_of(Headers(scope=scope).get("authorization", ""))
    if caller is None:
        raise AuthenticationError(
            "a valid key is needed: send the header 'Authorization: Bearer <key>'", param="authorization"
        )
    return caller


async def authorise(request: Request) -> None:
    """Whether the caller may use the route, and sees the task that its path names.

    Raises PermissionDeniedError; TaskNotFoundError, as if there were no such task.
    """
    if request.scope["path"] in OPEN_PATHS:
        return
    caller = caller_of(request)
    wanted = scope_of(request.method, request.scope["route"].path)
    if wanted != ANY and not caller.may(wanted):
        raise PermissionDeniedError(f"the key has not the scope {wanted!r}")
    task = request.path_params.get("task")
    if task is not None and not caller.sees(task) and not _makes_a_task(request):
        raise unknown_task(task, ())


def caller_of(request: Request) -> Caller:
    """Who sent the request."""
    return caller_of_scope(request.scope)


def caller_of_scope(scope: Scope) -> Caller:
    """The same, where the framework has not made a request of it yet."""
    caller = scope["state"][CALLER]
    assert isinstance(caller, Caller)  # Authenticate put it there
    return caller


async def _caller_of(request: Request) -> Caller:
    return caller_of(request)


CallerDep = Annotated[Caller, Depends(_caller_of)]


def without_other_names(error: Exception, caller: Caller) -> Exception:
    """The error as a caller may read it who must not hear of other tasks, which the sentence may name as near."""
    if isinstance(error, TaskNotFoundError) and caller.is_restricted:
        return TaskNotFoundError("there is no such task", param=error.param)
    return error


def _makes_a_task(request: Request) -> bool:
    """Whether an upload may make the task, which nobody sees yet; the registry refuses a name that is taken."""
    return request.method == "POST" and request.scope["route"].path == "/v1/tasks/{task}/versions"
