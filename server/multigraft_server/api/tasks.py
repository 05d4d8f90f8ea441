"""What exists: tasks, versions, aliases, where adapters are resident, what they measured; retiring and tags."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from multigraft_adapters.registry import Task, Version
from multigraft_server.access.callers import Caller
from multigraft_server.api.aliases import alias_json
from multigraft_server.api.auth import CallerDep
from multigraft_server.api.context import ActorDep, PartsDep
from multigraft_server.api.schemas import TagBody
from multigraft_server.parts import Parts

router = APIRouter()


@router.get("/v1/tasks")
async def list_tasks(parts: PartsDep, caller: CallerDep) -> Response:
    """Every task that the caller sees, by name."""
    # Written at once: the framework would walk through all of it, which takes longer than everything else.
    return await asyncio.to_thread(lambda: JSONResponse({"tasks": listing(parts, caller)}))


@router.get("/v1/tasks/{task}")
async def get_task(task: str, parts: PartsDep) -> dict[str, Any]:
    """One task."""
    found = await asyncio.to_thread(parts.registry.task, task)
    return _Shown.now(parts).task(found)


@router.get("/v1/tasks/{task}/versions/{number:int}")
async def get_version(task: str, number: int, parts: PartsDep) -> dict[str, Any]:
    """One version with its whole manifest, samples left out."""
    version = await asyncio.to_thread(parts.registry.version, task, number)
    manifest = version.manifest.model_dump(mode="json", exclude_none=True, exclude={"samples"})
    return {"task": task, **_Shown.now(parts).version(version), "manifest": manifest}


@router.delete("/v1/tasks/{task}/versions/{number:int}")
async def retire(task: str, number: int, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """Serve a version no longer, unless an alias points to it."""
    version = await asyncio.to_thread(parts.registry.retire, task, number, actor=actor)
    return {"task": task, **_Shown.now(parts).version(version)}


@router.put("/v1/tasks/{task}/versions/{number:int}/tags/{tag}")
async def set_tag(
    task: str, number: int, tag: str, body: TagBody, parts: PartsDep, actor: ActorDep
) -> dict[str, Any]:
    """Give a version a tag."""
    version = await asyncio.to_thread(parts.registry.set_tag, task, number, tag, body.value, actor=actor)
    return {"task": task, "version": number, "tags": dict(version.tags)}


@router.delete("/v1/tasks/{task}/versions/{number:int}/tags/{tag}")
async def remove_tag(task: str, number: int, tag: str, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """Take a tag from a version."""
    version = await asyncio.to_thread(parts.registry.set_tag, task, number, tag, None, actor=actor)
    return {"task": task, "version": number, "tags": dict(version.tags)}


def listing(parts: Parts, caller: Caller) -> list[dict[str, Any]]:
    """Every task that the caller sees, by name."""
    shown = _Shown.now(parts)
    return [shown.task(task) for task in parts.registry.tasks() if caller.sees(task.name)]


@dataclass(frozen=True, slots=True)
class _Shown:
    """Tasks and versions as our answers show them, at one state of the engine."""

    parts: Parts
    device: frozenset[str]
    host: frozenset[str]
    merged: str | None

    @classmethod
    def now(cls, parts: Parts) -> _Shown:
        state = parts.engine.snapshot()
        merged = state.merge.digest if state.merge.state == "merged" else None
        return cls(parts, frozenset(state.slots.values()), frozenset(state.host_digests), merged)

    def task(self, task: Task) -> dict[str, Any]:
        return {
            "name": task.name,
            "created_at": task.created_at.isoformat(),
            "pinned": task.pinned_at is not None,
            "versions": [self.version(version) for version in task.versions],
            "aliases": [alias_json(alias) for alias in task.aliases],
        }

    def version(self, version: Version) -> dict[str, Any]:
        return {
            "version": version.number,
            "digest": version.digest,
            "task_type": version.task_type,
            "method": version.manifest.method.name,
            "created_at": version.created_at.isoformat(),
            "retired_at": version.retired_at.isoformat() if version.retired_at else None,
            "tier": self.tier(version.digest),
            "merged": version.digest == self.merged,
            "leases": self.parts.leases.count(version.task, version.number),
            "tags": dict(version.tags),
            "metrics": version.manifest.metrics,
        }

    def tier(self, digest: str) -> str:
        """The nearest place where an adapter is resident: `device`, `host` or `store`."""
        if digest in self.device:
            return "device"
        return "host" if digest in self.host else "store"
