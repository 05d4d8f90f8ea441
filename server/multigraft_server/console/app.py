"""The console as an application of its own, beside the API's: its routes, its gate, its errors."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from multigraft_adapters.errors import AuthenticationError, MultigraftError
from multigraft_server.api.auth import without_other_names
from multigraft_server.api.middleware import GuardBody, TakeWork
from multigraft_server.api.problems import as_ours, error_response
from multigraft_server.console import (
    changes,
    events,
    jobs,
    keys,
    login,
    overview,
    pictures,
    playground,
    static,
    tasks,
    uploading,
    versions,
)
from multigraft_server.console.assets import Assets
from multigraft_server.console.attempts import Attempts
from multigraft_server.console.gate import Gate
from multigraft_server.console.kept import Kept, Once
from multigraft_server.console.pages import Console, make_templates
from multigraft_server.console.sessions import Messages, Sessions
from multigraft_server.console.view import LIVE, authorise, view_of
from multigraft_server.parts import Parts

ROUTERS: tuple[APIRouter, ...] = (
    login.router,
    static.router,
    overview.router,
    tasks.router,
    versions.router,
    changes.router,
    uploading.router,
    jobs.router,
    pictures.router,
    playground.router,
    keys.router,
    events.router,
)


def create_console(parts: Parts) -> FastAPI:
    """The console over the API's parts. It has no description: its pages are for people."""
    guard = Middleware(GuardBody, settings=parts.settings)
    app = FastAPI(
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        middleware=[Middleware(Gate, answer=_answer), Middleware(TakeWork, drain=parts.drain), guard],
    )
    assets = Assets()
    app.state.parts = parts
    app.state.console = Console(
        Sessions(parts.keyring), Messages(), Attempts(), assets, make_templates(assets), Kept(), Once()
    )
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(authorise)])
    for kind in (MultigraftError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer)
    return app


async def _answer(request: Request, error: Exception) -> Response:
    """A page that says what is wrong, with the status and headers that the API gives the error."""
    view = view_of(request)
    is_page = request.method == "GET" and LIVE not in request.headers
    if isinstance(error, AuthenticationError) and not view.is_inside and is_page:
        # A link on another site's page brings no cookie; a page of ours that loads itself again does.
        is_from_elsewhere = request.headers.get("sec-fetch-site") == "cross-site"
        return view.page("again.html") if is_from_elsewhere else view.go(login.address(request))
    if view.is_inside:
        error = without_other_names(error, view.caller)
    plain = error_response(error, retry_after_seconds=view.parts.settings.retry_after_seconds)
    page = view.page("problem.html", status=plain.status_code, problem=as_ours(error))
    for name, value in plain.headers.items():
        if name not in ("content-length", "content-type", "www-authenticate"):
            page.headers[name] = value
    return page
