"""Changes of a task, each asked about first: promoted, split, rolled back, an alias removed, retired, pinned.

A form that moves an alias carries the revision that its page showed, so that it is refused when somebody else
has moved the alias meanwhile.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from multigraft_adapters.errors import InvalidRequestError, NotFoundError
from multigraft_adapters.registry import PRODUCTION, check_alias_name
from multigraft_server.api import aliases, pins
from multigraft_server.api.tasks import get_task, get_version, retire
from multigraft_server.console.fields import number_of, percentage_of
from multigraft_server.console.tasks import shares
from multigraft_server.console.view import View, ViewDep, field_of

router = APIRouter(prefix="/console")


@router.get("/tasks/{task}/promote")
async def ask_to_promote(task: str, view: ViewDep) -> Response:
    """Whether an alias is to mean a version, and what it means now."""
    number = number_of(view.request.query_params.get("version"), "version")
    version, alias = await get_version(task, number, view.parts), _alias(view)
    now = await _now(view, task, alias)
    return view.page("promote.html", at="tasks", task=task, version=version, alias=alias, now=now)


@router.post("/tasks/{task}/promote")
async def promote(task: str, view: ViewDep) -> Response:
    """Point an alias at a version."""
    number = number_of(field_of(view, "version"), "version")
    alias, revision = _alias(view), number_of(field_of(view, "revision"), "revision")
    moved = aliases.point(view.parts, task, alias, number, revision=revision, actor=view.actor)
    return await view.act(moved, f"{alias} of {task} is version {number}.", to=f"/console/tasks/{task}")


@router.get("/tasks/{task}/split")
async def ask_for_shares(task: str, view: ViewDep) -> Response:
    """How an alias is to be split, with its present shares."""
    found, alias = await get_task(task, view.parts), _alias(view)
    now = await _now(view, task, alias)
    open_ones = [version for version in found["versions"] if version["retired_at"] is None]
    return view.page("split.html", at="tasks", task=task, versions=open_ones, alias=alias, now=now)


@router.post("/tasks/{task}/split")
async def split(task: str, view: ViewDep) -> Response:
    """Split an alias by the shares of a form, in per cent. What adds up to 100 is a split."""
    alias, revision = _alias(view), number_of(field_of(view, "revision"), "revision")
    back = f"/console/tasks/{task}"
    try:
        weights = _weights(view)
    except InvalidRequestError as error:
        view.say("refused", view.told(error))
        return view.go(f"{back}/split?alias={alias}")
    told = " and ".join(f"version {number} gets {share:.6g}%" for number, share in _percent(weights).items())
    moved = aliases.point(view.parts, task, alias, weights, revision=revision, actor=view.actor)
    return await view.act(moved, f"{alias} of {task}: {told}.", to=back)


@router.get("/tasks/{task}/rollback")
async def ask_to_roll_back(task: str, view: ViewDep) -> Response:
    """Whether an alias is to go back, and where it would."""
    alias = _alias(view)
    found, history = await asyncio.to_thread(view.parts.registry.alias, task, alias)
    states = [shares({"version": one.version, "weights": dict(one.weights or ())}) for one in history]
    return view.page("rollback.html", at="tasks", task=task, alias=alias, revision=found.revision, states=states)


@router.post("/tasks/{task}/rollback")
async def roll_back(task: str, view: ViewDep) -> Response:
    """Take an alias back to its state before its last change."""
    alias, revision = _alias(view), number_of(field_of(view, "revision"), "revision")
    moved = aliases.go_back(view.parts, task, alias, revision=revision, actor=view.actor)
    return await view.act(moved, f"{alias} of {task} is back where it was.", to=f"/console/tasks/{task}")


@router.get("/tasks/{task}/unname")
async def ask_to_remove(task: str, view: ViewDep) -> Response:
    """Whether an alias is to go."""
    alias = _alias(view)
    return view.page("unname.html", at="tasks", task=task, alias=alias, now=await _now(view, task, alias))


@router.post("/tasks/{task}/unname")
async def remove(task: str, view: ViewDep) -> Response:
    """Remove an alias."""
    alias, revision = _alias(view), number_of(field_of(view, "revision"), "revision")
    gone = aliases.remove_alias(task, alias, view.parts, view.actor, revision)
    return await view.act(gone, f"{alias} of {task} is removed.", to=f"/console/tasks/{task}")


@router.get("/tasks/{task}/versions/{number:int}/retire")
async def ask_to_retire(task: str, number: int, view: ViewDep) -> Response:
    """Whether a version is to be served no longer."""
    version = await get_version(task, number, view.parts)
    return view.page("retire.html", at="tasks", task=task, version=version)


@router.post("/tasks/{task}/versions/{number:int}/retire")
async def retire_version(task: str, number: int, view: ViewDep) -> Response:
    """Serve a version no longer."""
    gone = retire(task, number, view.parts, view.actor)
    return await view.act(gone, f"Version {number} of {task} is retired.", to=f"/console/tasks/{task}")


@router.get("/tasks/{task}/pin")
async def ask_to_pin(task: str, view: ViewDep) -> Response:
    """Whether a task is to stay in memory, or need not any longer."""
    return view.page("pin.html", at="tasks", task=await get_task(task, view.parts))


@router.post("/tasks/{task}/pin")
async def pin(task: str, view: ViewDep) -> Response:
    """Pin a task, or let it go: `wanted` is `yes` or `no`."""
    is_wanted = field_of(view, "wanted") == "yes"
    done = (pins.pin if is_wanted else pins.unpin)(task, view.parts, view.actor)
    told = "stays in memory" if is_wanted else "may leave memory again"
    return await view.act(done, f"{task} {told}.", to=f"/console/tasks/{task}")


def _alias(view: View) -> str:
    """The alias that a form, or an address, names. Raises InvalidRequestError for what can be none."""
    name = view.form.get("alias") or view.request.query_params.get("alias") or PRODUCTION
    check_alias_name(str(name))
    return str(name)


async def _now(view: View, task: str, alias: str) -> dict[str, Any]:
    """The shares that an alias has, and its revision; of one that there is not, none and 0."""
    try:
        found, _ = await asyncio.to_thread(view.parts.registry.alias, task, alias)
    except NotFoundError:
        return {"shares": {}, "revision": 0}
    state = {"version": found.version, "weights": dict(found.weights or ())}
    return {"shares": shares(state), "revision": found.revision}


def _weights(view: View) -> dict[int, float]:
    """The weights of a form's fields `share-1`, `share-2`, ... Raises InvalidRequestError."""
    percent = {
        number_of(name.removeprefix("share-"), name): percentage_of(value, name)
        for name, value in view.form.items()
        if name.startswith("share-")
    }
    total = math.fsum(percent.values())
    if abs(total - 100) > 1e-3:
        raise InvalidRequestError(f"the shares must add up to 100%, not {total:.6g}%", param="weights")
    return {number: share / total for number, share in percent.items() if share}


def _percent(weights: dict[int, float]) -> dict[int, float]:
    return {number: 100 * weight for number, weight in weights.items()}
