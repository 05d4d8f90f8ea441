"""What every handler gets and gives: the application's parts, and the headers of an answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Request

from multigraft_server.api.auth import CallerDep
from multigraft_server.calls import Call
from multigraft_server.engine.requests import BASE_DIGEST
from multigraft_server.parts import Parts

STEP_ADAPTERS = "x-multigraft-step-adapters"
ACTOR = "http"
"""Who the registry's events name where a caller does not say."""


async def _parts(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)  # create_app put it there
    return parts


# A dependency that is no coroutine would be called in a thread, for the price of everything else in a request.
PartsDep = Annotated[Parts, Depends(_parts)]


async def _actor(
    caller: CallerDep,
    x_multigraft_actor: Annotated[
        str | None, Header(pattern=r"^[ -~]{1,128}$", description="who the registry's events name")
    ] = None,
) -> str:
    told = x_multigraft_actor or ACTOR
    return told if caller.name is None else f"{told}, {caller.name}"


ActorDep = Annotated[str, Depends(_actor)]
"""Who changes something, as the caller says in `x-multigraft-actor`, and its key if it has one of its own."""


def answer_headers(call: Call) -> dict[str, str]:
    """Who computed an answer: task, version and adapter (`base` for the bare base)."""
    target = call.target
    return {
        "x-multigraft-task": target.task,
        "x-multigraft-version": str(target.number) if target.version else BASE_DIGEST,
        "x-multigraft-adapter": target.digest,
    }


def whole_answer_headers(call: Call) -> dict[str, str]:
    """The same, and the most distinct adapters in a step that computed a part of the answer."""
    return {**answer_headers(call), STEP_ADAPTERS: str(call.step_adapters)}
