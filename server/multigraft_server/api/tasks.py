"""What exists: tasks, their versions and aliases, where each adapter is resident, what it measured."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from multigraft_adapters.registry import Task, Version
from multigraft_server.api.adapters import alias_json
from multigraft_server.api.context import PartsDep
from multigraft_server.engine.requests import EngineSnapshot
from multigraft_server.parts import Parts

router = APIRouter()


@router.get("/v1/tasks")
async def list_tasks(parts: PartsDep) -> dict[str, Any]:
    """Every task, by name."""
    tasks = await asyncio.to_thread(parts.registry.tasks)
    state = parts.engine.snapshot()
    return {"tasks": [_task_json(parts, task, state) for task in tasks]}


@router.get("/v1/tasks/{task}")
async def get_task(task: str, parts: PartsDep) -> dict[str, Any]:
    """One task."""
    found = await asyncio.to_thread(parts.registry.task, task)
    return _task_json(parts, found, parts.engine.snapshot())


@router.get("/v1/tasks/{task}/versions/{number:int}")
async def get_version(task: str, number: int, parts: PartsDep) -> dict[str, Any]:
    """One version with its whole manifest, samples left out."""
    version = await asyncio.to_thread(parts.registry.version, task, number)
    manifest = version.manifest.model_dump(mode="json", exclude_none=True, exclude={"samples"})
    return {"task": task, **_version_json(parts, version, parts.engine.snapshot()), "manifest": manifest}


def _task_json(parts: Parts, task: Task, state: EngineSnapshot) -> dict[str, Any]:
    return {
        "name": task.name,
        "created_at": task.created_at.isoformat(),
        "versions": [_version_json(parts, version, state) for version in task.versions],
        "aliases": [alias_json(alias) for alias in task.aliases],
    }


def _version_json(parts: Parts, version: Version, state: EngineSnapshot) -> dict[str, Any]:
    return {
        "version": version.number,
        "digest": version.digest,
        "task_type": version.task_type,
        "method": version.manifest.method.name,
        "created_at": version.created_at.isoformat(),
        "tier": tier_of(version.digest, state),
        "leases": parts.leases.count(version.task, version.number),
        "metrics": version.manifest.metrics,
    }


def tier_of(digest: str, state: EngineSnapshot) -> str:
    """The nearest place where an adapter is resident: `device`, `host` or `store`."""
    if digest in state.slots.values():
        return "device"
    return "host" if digest in state.host_digests else "store"
