"""What every handler gets and gives: the application's parts, and the headers of an answer."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from multigraft_server.calls import Call
from multigraft_server.engine.requests import BASE_DIGEST
from multigraft_server.parts import Parts

STEP_ADAPTERS = "x-multigraft-step-adapters"


async def _parts(request: Request) -> Parts:
    parts = request.app.state.parts
    assert isinstance(parts, Parts)  # create_app put it there
    return parts


# A dependency that is no coroutine would be called in a thread, for the price of everything else in a request.
PartsDep = Annotated[Parts, Depends(_parts)]


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
