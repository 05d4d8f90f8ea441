"""Events: who changed what, of one task or of all, the latest first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from multigraft_adapters.registry import Event
from multigraft_server.console.fields import number_of
from multigraft_server.console.pages import percent, short
from multigraft_server.console.view import ViewDep

PER_PAGE = 50

router = APIRouter(prefix="/console")


@router.get("/events")
async def list_events(view: ViewDep) -> Response:
    """A page of events; `before` an id goes further back."""
    query = view.request.query_params
    task = query.get("task") or None
    before = number_of(query["before"], "before") if query.get("before") else None
    found = await asyncio.to_thread(view.parts.registry.events, task, PER_PAGE + 1, before)
    names = [one.name for one in await asyncio.to_thread(view.parts.registry.tasks) if view.caller.sees(one.name)]
    events = [(event, list(_details(event))) for event in found[:PER_PAGE]]
    older = events[-1][0].id if len(found) > PER_PAGE else None
    return view.page("events.html", at="events", events=events, task=task, names=names, older=older, before=before)


def _details(event: Event) -> Iterator[tuple[str, str]]:
    """What an event tells, as names and texts."""
    for name, value in event.detail.items():
        if value is not None:
            yield name.replace("_", " "), _written(value)


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_share(share)}" for name, share in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return short(value) if str(value).startswith("sha256:") else str(value)


def _share(value: Any) -> str:
    return percent(value) if isinstance(value, float) else str(value)
