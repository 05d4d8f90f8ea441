"""`GET /v1/events`: who changed what in the registry, and when."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query

from multigraft_adapters.registry import Event
from multigraft_server.api.context import PartsDep

MAX_EVENTS = 1000

router = APIRouter()


@router.get("/v1/events")
async def list_events(
    parts: PartsDep,
    task: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 100,
    before: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
) -> dict[str, Any]:
    """The latest changes, newest first, of one task or of all; `before` an id goes further back."""
    events = await asyncio.to_thread(parts.registry.events, task, limit, before)
    return {"events": [_event_json(event) for event in events]}


def _event_json(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "at": event.at.isoformat(),
        "actor": event.actor,
        "action": event.action,
        "task": event.task,
        "detail": event.detail,
    }
