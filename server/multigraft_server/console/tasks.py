"""Tasks: the list."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from multigraft_server.console.view import ViewDep

router = APIRouter(prefix="/console")


@router.get("/tasks")
async def list_tasks(view: ViewDep) -> Response:
    """Every task that the caller sees."""
    tasks = await asyncio.to_thread(view.parts.registry.tasks)
    return view.page("tasks.html", at="tasks", tasks=[task for task in tasks if view.caller.sees(task.name)])
