"""What the server does at this moment: whether it is ready, latencies by task, queue, slots, tiers, merging."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from multigraft_server.api.engine_state import engine_state
from multigraft_server.console.view import View, ViewDep
from multigraft_server.latencies import TaskLatency, Window

router = APIRouter(prefix="/console")


@router.get("/overview")
async def overview(view: ViewDep) -> Response:
    """The page."""
    return view.page("overview.html", at="overview", **await _shown(view))


@router.get("/overview/live")
async def live(view: ViewDep) -> Response:
    """Its part that changes."""
    return view.fragment("overview_live.html", **await _shown(view))


async def _shown(view: View) -> dict[str, Any]:
    parts = view.parts
    window = await asyncio.to_thread(parts.latencies.window)
    names = {task.name for task in await asyncio.to_thread(parts.registry.tasks) if view.caller.sees(task.name)}
    return {
        "problem": parts.health.why_not_alive() or parts.health.why_not_ready(),
        "engine": await engine_state(parts),
        "capacity": parts.settings.max_waiting_requests,
        "window": window,
        "slowest": max((_slowest(task) for task in window.tasks), default=0.0),
        "per_second": _rate(window),
        "failed": sum(sum(task.failed.values()) for task in window.tasks),
        "linked": names,
        "started_at": parts.started_at,
    }


def _slowest(task: TaskLatency) -> float:
    return task.timed["request"].p95 or 0.0


def _rate(window: Window) -> float:
    return sum(task.requests for task in window.tasks) / max(window.seconds, 1.0)
