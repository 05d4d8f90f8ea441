"""Pins: tasks that are to stay in memory."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from multigraft_adapters.errors import ConflictError
from multigraft_server.api.context import ActorDep, PartsDep
from multigraft_server.parts import Parts
from multigraft_server.residency import aliased_digests

router = APIRouter()


@router.post("/v1/tasks/{task}/pin")
async def pin(task: str, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """Keep what the task's aliases point at in memory, wherever they move; one slot stays for other tasks."""
    await asyncio.to_thread(_check_room, parts, task)
    return await asyncio.to_thread(_set, parts, task, True, actor)


@router.delete("/v1/tasks/{task}/pin")
async def unpin(task: str, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """Let the task's adapters leave memory again when others need it."""
    return await asyncio.to_thread(_set, parts, task, False, actor)


def _check_room(parts: Parts, name: str) -> None:
    tasks = {task.name: task for task in parts.registry.pinned_tasks()} | {name: parts.registry.task(name)}
    wanted = len(frozenset[str]().union(*map(aliased_digests, tasks.values())))
    room = parts.engine.snapshot().num_slots - 1
    if wanted > room:
        others = ", ".join(sorted(tasks.keys() - {name})) or "none"
        raise ConflictError(
            f"{wanted} adapters would be pinned, and {room} can be: one slot is left for other tasks "
            f"(pinned already: {others})"
        )


def _set(parts: Parts, name: str, wanted: bool, actor: str) -> dict[str, Any]:
    task = parts.registry.pin(name, wanted, actor=actor)
    parts.residency.tend()
    return {"task": name, "pinned": wanted, "adapters": sorted(aliased_digests(task))}
