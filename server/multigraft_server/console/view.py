"""What a page's handler gets: who asks, the parts of the server, and how it answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.datastructures import FormData
from starlette.responses import HTMLResponse, RedirectResponse, Response

from multigraft_adapters.errors import (
    AuthenticationError,
    InvalidRequestError,
    MultigraftError,
    PermissionDeniedError,
)
from multigraft_adapters.registry.keys import ADMIN, INFER
from multigraft_adapters.registry.names import unknown_task
from multigraft_server.access.callers import Caller
from multigraft_server.api.auth import without_other_names
from multigraft_server.api.scopes import ANY
from multigraft_server.console.gate import VISITOR, Visitor
from multigraft_server.console.pages import Console
from multigraft_server.console.scopes import OPEN_ROUTES, scope_of
from multigraft_server.console.sessions import Message
from multigraft_server.parts import Parts

ACTOR = "console"
"""Who events name, with the caller's key behind it."""
LIVE = "x-console-live"
"""The header of a request for a part of a page, which is answered with a status instead of another page."""
NEXT = "x-console-next"
"""The header by which a script is told which page follows."""
THEMES = ("light", "dark")
CSRF = "csrf"
URL_ENCODED = "application/x-www-form-urlencoded"


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the navigation: shown to callers with the scope."""

    at: str
    title: str
    path: str
    scope: str


NAVIGATION = (
    Entry("overview", "Overview", "/console/overview", "metrics"),
    Entry("tasks", "Tasks", "/console/tasks", ANY),
    Entry("playground", "Playground", "/console/playground", INFER),
    Entry("upload", "Upload", "/console/upload", "upload"),
    Entry("jobs", "Training", "/console/jobs", "train"),
    Entry("keys", "Keys", "/console/keys", ADMIN),
    Entry("events", "Events", "/console/events", "metrics"),
)


@dataclass(frozen=True, slots=True)
class View:
    """One request of the console. `form` has the fields of a form that was sent URL-encoded."""

    request: Request
    parts: Parts
    console: Console
    visitor: Visitor
    form: FormData = field(default_factory=FormData)

    @property
    def caller(self) -> Caller:
        """Who asks. Only of routes that are not open to everyone."""
        if self.visitor.caller is None:
            raise AuthenticationError("log in with a key first")
        return self.visitor.caller

    @property
    def is_inside(self) -> bool:
        """Whether the page is for someone who may see more than the login."""
        return self.visitor.caller is not None

    @property
    def can_log_out(self) -> bool:
        """Whether there is a session to end."""
        return self.is_inside and not self.console.sessions.is_open

    @property
    def actor(self) -> str:
        """Who events name."""
        return ACTOR if self.caller.name is None else f"{ACTOR}, {self.caller.name}"

    @property
    def csrf(self) -> str:
        """What a form has to carry."""
        return self.visitor.csrf

    @property
    def theme(self) -> str | None:
        """The theme that the reader chose; None follows the system's."""
        theme = self.request.cookies.get("multigraft-theme")
        return theme if theme in THEMES else None

    @property
    def navigation(self) -> list[Entry]:
        """The pages that the caller may see."""
        return [entry for entry in NAVIGATION if self.may(entry.scope)] if self.is_inside else []

    def may(self, scope: str) -> bool:
        """Whether the caller has the scope."""
        return scope == ANY or self.caller.may(scope)

    def page(self, template: str, *, at: str = "", status: int = 200, **shown: Any) -> Response:
        """A whole page, with the messages that wait for its reader."""
        messages = self.console.messages.take(self.visitor.token)
        return HTMLResponse(self._render(template, at=at, messages=messages, **shown), status)

    def fragment(self, template: str, **shown: Any) -> Response:
        """A part of a page."""
        return HTMLResponse(self._render(template, **shown))

    def say(self, kind: str, text: str) -> None:
        """Have the next page say it: `done` or `refused`."""
        self.console.messages.put(self.visitor.token, Message(kind, text))

    def go(self, path: str) -> Response:
        """To another page, with GET. A script is told its address, so that messages wait for the page."""
        if LIVE in self.request.headers:
            return Response(status_code=204, headers={NEXT: path})
        return RedirectResponse(path, 303)

    async def act(self, change: Awaitable[object], done: str, *, to: str) -> Response:
        """Make a change, then go where its message is shown, or why it was refused."""
        try:
            await change
        except MultigraftError as error:
            self.say("refused", self.told(error))
        else:
            self.say("done", done)
        return self.go(to)

    def told(self, error: MultigraftError) -> str:
        """The error as the caller may read it."""
        return str(without_other_names(error, self.caller))

    def _render(self, template: str, **shown: Any) -> str:
        return self.console.templates.get_template(template).render(view=self, **shown)


def view_of(request: Request, form: FormData | None = None) -> View:
    """The view of a request that came through the gate."""
    state = request.app.state
    visitor = request.scope["state"][VISITOR]
    assert isinstance(visitor, Visitor)  # Gate put it there
    return View(request, state.parts, state.console, visitor, form or FormData())


async def authorise(request: Request) -> AsyncIterator[None]:
    """Whether the caller may use the route and sees the task that its path names, and the form is from our page.

    What changes something counts against the key's limits; looking does not. Raises AuthenticationError,
    PermissionDeniedError, TaskNotFoundError, QuotaError.
    """
    visitor: Visitor = request.scope["state"][VISITOR]
    template = request.scope["route"].path
    if f"{request.method} {template}" not in OPEN_ROUTES:
        if visitor.caller is None:
            raise AuthenticationError("log in with a key first")
        _check_scope(request, visitor.caller, scope_of(request.method, template))
    if request.method in ("GET", "HEAD"):
        yield
        return
    await _check_origin(request, visitor)
    limits = visitor.caller.limits if visitor.caller else None
    if limits is None:
        yield
        return
    with limits.admitted():
        yield


def _check_scope(request: Request, caller: Caller, wanted: str) -> None:
    if wanted != ANY and not caller.may(wanted):
        raise PermissionDeniedError(f"the key has not the scope {wanted!r}")
    task = request.path_params.get("task")
    if task is not None and not caller.sees(task):
        raise unknown_task(task, ())


async def _check_origin(request: Request, visitor: Visitor) -> None:
    """Whether a form is one of ours. Fields are read only of a body that is small by its kind."""
    is_plain = request.headers.get("content-type", "").partition(";")[0].strip().lower() == URL_ENCODED
    request.state.form = await request.form() if is_plain else FormData()
    sent = request.query_params.get(CSRF) or request.state.form.get(CSRF)
    if sent != visitor.csrf:
        raise PermissionDeniedError("the form is too old, or not from this console: load its page again")


async def _view(request: Request) -> View:
    return view_of(request, getattr(request.state, "form", None))


ViewDep = Annotated[View, Depends(_view)]


def field_of(view: View, name: str, *, maximum: int = 10_000) -> str:
    """A text field of the form. Raises InvalidRequestError when it is absent or too long."""
    value = view.form.get(name)
    if not isinstance(value, str) or len(value) > maximum:
        raise InvalidRequestError(f"{name}: a text of at most {maximum} characters is needed", param=name)
    return value


__all__ = ["ADMIN", "ANY", "Entry", "View", "ViewDep", "authorise", "field_of", "view_of"]
