"""Moving aliases: to a version, to a split, back, away; with compare-and-set by their ETag."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header
from starlette.responses import JSONResponse, Response

from multigraft_adapters.errors import InvalidRequestError
from multigraft_adapters.registry import Alias, AliasState
from multigraft_server.api.context import ActorDep, PartsDep
from multigraft_server.api.schemas import AliasBody, RollbackBody
from multigraft_server.parts import Parts

router = APIRouter()

_REVISION = re.compile(r'(?:W/)?"?([0-9]{1,18})"?')


async def _revision(if_match: Annotated[str | None, Header()] = None) -> int | None:
    if if_match is None or if_match.strip() == "*":
        return None
    found = _REVISION.fullmatch(if_match.strip())
    if found is None:
        raise InvalidRequestError('If-Match must be an alias\' ETag, such as "3"', param="if-match")
    return int(found[1])


RevisionDep = Annotated[int | None, Depends(_revision)]
"""The alias' revision that `If-Match` asks for."""


@router.get("/v1/tasks/{task}/aliases/{alias}")
async def get_alias(task: str, alias: str, parts: PartsDep) -> Response:
    """Where an alias points, and the states that rollback leads to, newest first, its own first."""
    found, history = await asyncio.to_thread(parts.registry.alias, task, alias)
    return _answer(found, history=[_state_json(state) for state in history])


@router.put("/v1/tasks/{task}/aliases/{alias}")
async def set_alias(
    task: str, alias: str, body: AliasBody, parts: PartsDep, actor: ActorDep, revision: RevisionDep
) -> Response:
    """Point an alias at a version, or split it. With `If-Match`, only if it is still at that revision."""
    return _answer(await point(parts, task, alias, body.target, revision=revision, actor=actor))


@router.delete("/v1/tasks/{task}/aliases/{alias}")
async def remove_alias(
    task: str, alias: str, parts: PartsDep, actor: ActorDep, revision: RevisionDep
) -> dict[str, Any]:
    """Remove an alias; set again, it goes on with its history."""
    await asyncio.to_thread(parts.registry.remove_alias, task, alias, if_match=revision, actor=actor)
    return {"task": task, "alias": alias, "removed": True}


@router.post("/v1/tasks/{task}/rollback")
async def rollback(
    task: str, parts: PartsDep, actor: ActorDep, revision: RevisionDep, body: RollbackBody | None = None
) -> Response:
    """Take an alias (production by default) back to its state before its last change."""
    alias = (body or RollbackBody()).alias
    return _answer(await go_back(parts, task, alias, revision=revision, actor=actor))


async def point(
    parts: Parts,
    task: str,
    alias: str,
    target: int | Mapping[int, float],
    *,
    revision: int | None,
    actor: str,
) -> Alias:
    """Load what the alias is to mean, then point it there; raises as `Registry.set_alias`."""
    await parts.residency.load_before_promotion(task, [target] if isinstance(target, int) else list(target))
    move = parts.registry.set_alias
    return await asyncio.to_thread(move, task, alias, target, if_match=revision, actor=actor)


async def go_back(parts: Parts, task: str, alias: str, *, revision: int | None, actor: str) -> Alias:
    """Load what the alias meant before its last change, then take it back there; raises as `Registry.rollback`."""
    _, history = await asyncio.to_thread(parts.registry.alias, task, alias)
    if len(history) > 1:
        await parts.residency.load_before_promotion(task, _numbers(history[1]))
    back = parts.registry.rollback
    return await asyncio.to_thread(back, task, alias, if_match=revision, actor=actor)


def alias_json(alias: Alias) -> dict[str, Any]:
    """An alias as our answers show it; its revision is also its ETag."""
    return {"name": alias.name, **_state(alias), "revision": alias.revision}


def _answer(alias: Alias, **more: Any) -> Response:
    answer = {"task": alias.task, "alias": alias.name, **_state(alias), "revision": alias.revision, **more}
    return JSONResponse(answer, headers={"etag": f'"{alias.revision}"'})


def _numbers(state: AliasState) -> list[int]:
    """The versions that an alias' state points at."""
    return [number for number, _ in state.weights] if state.weights else [state.version]


def _state_json(state: AliasState) -> dict[str, Any]:
    return {**_state(state), "at": state.at.isoformat()}


def _state(one: Alias | AliasState) -> dict[str, Any]:
    """A split has `weights`, and `version` is the heaviest of it."""
    weights = {str(number): weight for number, weight in one.weights or ()}
    return {"version": one.version} | ({"weights": weights} if weights else {})
