"""Keys: made, listed, revoked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.responses import Response

from multigraft_adapters.errors import InvalidRequestError, KeyNotFoundError, MultigraftError
from multigraft_adapters.registry.keys import INFER, NO_TENANTS, Key
from multigraft_server.api.keys import KeyBody, make, revoke
from multigraft_server.console.bodies import body_of
from multigraft_server.console.gate import session_cookie, written
from multigraft_server.console.sessions import SESSION_SECONDS
from multigraft_server.console.view import View, ViewDep, field_of

HOME = "/console/keys"
DAY = 86_400
TEXTS = ("name", "tenant", "patterns", "days", "requests_per_minute", "tokens_per_minute", "max_concurrent")
LIMITS = ("requests_per_minute", "tokens_per_minute", "max_concurrent")
PURPOSES = {
    INFER: "ask tasks and the base",
    "upload": "upload adapters",
    "promote": "move aliases: promote, split, roll back, retire, pin, merge",
    "train": "training files and jobs",
    "metrics": "metrics, the engine's state, events",
    "admin": "everything, keys included",
}

router = APIRouter(prefix="/console")


@router.get("/keys")
async def list_keys(view: ViewDep) -> Response:
    """Every key, the newest first."""
    keys = await asyncio.to_thread(view.parts.registry.keys.all)
    now = datetime.now(UTC)
    shown = [(key, state_of(key, now)) for key in reversed(keys)]
    return view.page("keys.html", at="keys", keys=shown, is_open=view.console.sessions.is_open)


@router.get("/keys/new")
async def ask(view: ViewDep) -> Response:
    """The form of a new key; the address may fill its fields."""
    query = view.request.query_params
    return view.page(
        "key_new.html",
        at="keys",
        given={name: query.get(name, "") for name in TEXTS},
        chosen=query.getlist("scope") or [INFER],
        purposes=PURPOSES,
        no_tenants=NO_TENANTS,
        once=view.console.once.new(),
        is_open=view.console.sessions.is_open,
    )


@router.post("/keys")
async def create(view: ViewDep) -> Response:
    """Make a key and show its secret, on this answer alone."""
    scopes = [scope for scope in view.form.getlist("scope") if isinstance(scope, str)]
    texts = {name: field_of(view, name, maximum=1000).strip() for name in TEXTS}
    was_open = view.console.sessions.is_open
    try:
        if was_open and "admin" not in scopes:
            raise InvalidRequestError("the first key closes the server, so it needs the scope 'admin'")
        body = _body(texts, scopes)
        if not view.console.once.use(field_of(view, "once", maximum=100)):
            raise InvalidRequestError("this form has made its key already; a secret is shown once")
        key, secret = await make(view.parts, view.actor, body)
    except MultigraftError as error:
        view.say("refused", view.told(error))
        return view.go(f"{HOME}/new?{urlencode([*texts.items(), *(('scope', scope) for scope in scopes)])}")
    response = view.page("key_made.html", at="keys", key=key, secret=secret)
    if was_open:
        _log_in(view, response, secret)
    return response


@router.get("/keys/{id}/revoke")
async def ask_to_revoke(id: str, view: ViewDep) -> Response:
    """Whether it is meant. Raises KeyNotFoundError."""
    keys = await asyncio.to_thread(view.parts.registry.keys.all)
    key = next((key for key in keys if key.id == id), None)
    if key is None:
        raise KeyNotFoundError(f"no key has the id {id[:64]!r}", param="id")
    is_own = view.caller.name is not None and view.caller.name.startswith(f"key {key.id} ")
    return view.page("key_revoke.html", at="keys", key=key, is_own=is_own)


@router.post("/keys/{id}/revoke")
async def revoke_key(id: str, view: ViewDep) -> Response:
    """Let a key open nothing any more. The sessions that began with it end."""
    return await view.act(revoke(view.parts, view.actor, id), f"The key {id[:64]} is revoked.", to=HOME)


def state_of(key: Key, now: datetime) -> str:
    """`active`, `expired` or `revoked`."""
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.new.expires_at is not None and key.new.expires_at <= now else "active"


def _body(texts: dict[str, str], scopes: list[str]) -> KeyBody:
    """The API's body. Raises InvalidRequestError for what is no number, or no key."""
    patterns = texts["patterns"].replace(",", " ").split()
    if patterns:
        scopes = [scope for scope in scopes if scope != INFER] + [f"{INFER}:{pattern}" for pattern in patterns]
    days = texts["days"]
    try:
        ends = float(days) * DAY if days else None
        limits = {name: int(texts[name]) if texts[name] else None for name in LIMITS}
    except ValueError as error:
        raise InvalidRequestError(f"days and limits are numbers: {error}") from None
    told = {"name": texts["name"], "scopes": scopes, "tenant": texts["tenant"] or None, "expires_in": ends}
    return body_of(KeyBody, told | limits)


def _log_in(view: View, response: Response, secret: str) -> None:
    """Go on with a session of the new key: the server is closed from now on."""
    token = view.console.sessions.begin(secret)
    if token is not None:
        scope = view.request.scope
        cookie = written(scope, session_cookie(scope), token, seconds=int(SESSION_SECONDS))
        response.headers.append("set-cookie", cookie)
