"""`GET /v1/models`, OpenAI's, with vLLM's `root` and `parent`: the base first, then the tasks."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

from fastapi import APIRouter

from multigraft_adapters.registry import PRODUCTION, Task, Version
from multigraft_server.api.auth import CallerDep
from multigraft_server.api.context import PartsDep
from multigraft_server.parts import Parts

router = APIRouter()


@router.get("/v1/models")
async def list_models(parts: PartsDep, caller: CallerDep) -> dict[str, Any]:
    """The base and every task that has a production version, as far as the caller may ask them."""
    tasks = await asyncio.to_thread(parts.registry.tasks)
    shown = [task for task in tasks if caller.may_infer(task.name)]
    models = [_task_model(parts, task.name, version) for task in shown if (version := _production(task))]
    base = [_base_model(parts)] if caller.may_infer_base(parts.spec.name) else []
    return {"object": "list", "data": [*base, *models]}


@router.get("/v1/models/{ref:path}")
async def get_model(ref: str, parts: PartsDep, caller: CallerDep) -> dict[str, Any]:
    """What a reference means now: the base, or a version of a task."""
    target = await asyncio.to_thread(parts.router.resolve, ref, caller)
    return _task_model(parts, ref, target.version) if target.version else _base_model(parts)


def _production(task: Task) -> Version | None:
    numbers = [alias.version for alias in task.aliases if alias.name == PRODUCTION]
    return next((version for version in task.versions if version.number in numbers), None)


def _base_model(parts: Parts) -> dict[str, Any]:
    return _model(parts.spec.name, parts.started_at, root=parts.spec.name, parent=None)


def _task_model(parts: Parts, name: str, version: Version) -> dict[str, Any]:
    return _model(name, version.created_at, root=version.digest, parent=parts.spec.name)


def _model(name: str, created: datetime, *, root: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(created.timestamp()),
        "owned_by": "multigraft",
        "root": root,
        "parent": parent,
    }
