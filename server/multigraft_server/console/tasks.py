"""Tasks: the list, and one of them with its versions and aliases."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from multigraft_adapters.registry import PRODUCTION
from multigraft_server.api.tasks import get_task, listing
from multigraft_server.console.view import View, ViewDep

MAX_STATES = 5
"""Of an alias' history, so many are shown."""

router = APIRouter(prefix="/console")


@router.get("/tasks")
async def list_tasks(view: ViewDep) -> Response:
    """Every task that the caller sees, with what its production means."""
    tasks = await asyncio.to_thread(listing, view.parts, view.caller)
    state = view.parts.merging.merged_task
    return view.page("tasks.html", at="tasks", tasks=[task | _production(task) for task in tasks], merged=state)


@router.get("/tasks/{task}")
async def show_task(task: str, view: ViewDep) -> Response:
    """One task."""
    found = await get_task(task, view.parts)
    states = {alias["name"]: await _states(view, task, alias["name"]) for alias in found["aliases"]}
    serving = {version["version"]: _serving(found, version["version"]) for version in found["versions"]}
    return view.page(
        "task.html",
        at="tasks",
        task=found,
        states=states,
        serving=serving,
        metrics=metrics_of(found["versions"]),
        merged=view.parts.merging.merged_task,
    )


def metrics_of(versions: list[dict[str, Any]]) -> list[str]:
    """The names of what the versions measured, in the order in which they first come."""
    return list(dict.fromkeys(name for version in versions for name in version["metrics"]))


def shares(alias: dict[str, Any]) -> dict[int, float]:
    """Which versions an alias means, with their shares."""
    weights = alias.get("weights") or {alias["version"]: 1.0}
    return {int(number): share for number, share in weights.items()}


def _production(task: dict[str, Any]) -> dict[str, Any]:
    """What a bare name means: the shares of production, and the heaviest version."""
    alias = next((alias for alias in task["aliases"] if alias["name"] == PRODUCTION), None)
    versions = {version["version"]: version for version in task["versions"]}
    heaviest = versions.get(alias["version"]) if alias else None
    return {"shares": shares(alias) if alias else {}, "shown": heaviest or task["versions"][-1]}


def _serving(task: dict[str, Any], number: int) -> list[tuple[str, float]]:
    """The aliases that mean a version, with the shares that they give it."""
    found = [(alias["name"], shares(alias).get(number, 0.0)) for alias in task["aliases"]]
    return [(name, share) for name, share in found if share]


async def _states(view: View, task: str, alias: str) -> list[dict[str, Any]]:
    """The states that an alias had, its present one first."""
    _, history = await asyncio.to_thread(view.parts.registry.alias, task, alias)
    told = [{"version": state.version, "weights": dict(state.weights or ()), "at": state.at} for state in history]
    return [state | {"shares": shares(state)} for state in told[:MAX_STATES]]
