"""Logging in with a key, and out."""

from __future__ import annotations

import re
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.responses import Response

from multigraft_server.console.gate import session_cookie, written
from multigraft_server.console.sessions import SESSION_SECONDS
from multigraft_server.console.view import View, ViewDep, field_of

HOME = "/console/"
_PAGE = re.compile(r"/console/[A-Za-z0-9._~@%=&?/-]{0,500}")

router = APIRouter(prefix="/console")


def address(request: Request) -> str:
    """Where to log in, to come back to what was asked for."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"/console/login?next={quote(request.scope['path'] + query, safe='/')}"


@router.get("/login")
async def ask(view: ViewDep) -> Response:
    """The form, unless it is not needed."""
    wanted = _next(view.request.query_params.get("next"))
    return view.go(wanted) if view.is_inside else _form(view, wanted)


@router.post("/login")
async def login(view: ViewDep) -> Response:
    """Begin a session, by the secret of a key. Raises QuotaError after too many wrong ones."""
    address = view.request.client.host if view.request.client else ""
    wanted = _next(view.form.get("next"))
    view.console.attempts.check(address)
    token = view.console.sessions.begin(field_of(view, "key", maximum=1000).strip())
    if token is None:
        view.console.attempts.failed(address)
        return _form(view, wanted, "This is no valid key of this server.")
    response = view.go(wanted)
    cookie = written(view.request.scope, session_cookie(view.request.scope), token, seconds=int(SESSION_SECONDS))
    response.headers.append("set-cookie", cookie)
    return response


@router.post("/logout")
async def logout(view: ViewDep) -> Response:
    """End the session."""
    view.console.sessions.end(view.visitor.token)
    response = view.go("/console/login")
    response.headers.append(
        "set-cookie", written(view.request.scope, session_cookie(view.request.scope), "", seconds=0)
    )
    return response


def _form(view: View, wanted: str, problem: str = "") -> Response:
    return view.page("login.html", status=401 if problem else 200, wanted=wanted, problem=problem)


def _next(wanted: object) -> str:
    """Where to go afterwards: a page of the console, and nowhere else."""
    is_page = isinstance(wanted, str) and _PAGE.fullmatch(wanted) and "//" not in wanted
    return str(wanted) if is_page and not str(wanted).startswith("/console/login") else HOME
