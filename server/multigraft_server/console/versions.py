"""Versions: one with its provenance, and what two of them differ in."""

from __future__ import annotations

import json

from fastapi import APIRouter
from starlette.responses import Response

from multigraft_adapters.differences import differences
from multigraft_server.api.tasks import get_task, get_version
from multigraft_server.console.fields import number_of
from multigraft_server.console.tasks import metrics_of
from multigraft_server.console.view import ViewDep

router = APIRouter(prefix="/console")


@router.get("/tasks/{task}/versions/{number:int}")
async def show_version(task: str, number: int, view: ViewDep) -> Response:
    """One version: what it is for, where it came from, what it measured, its whole manifest."""
    version = await get_version(task, number, view.parts)
    manifest = json.dumps(version["manifest"], indent=2, ensure_ascii=False)
    return view.page("version.html", at="tasks", version=version, manifest=manifest)


@router.get("/tasks/{task}/diff")
async def compare(task: str, view: ViewDep) -> Response:
    """Two versions side by side: what they measured, and every field that differs."""
    found = await get_task(task, view.parts)
    numbers = [number_of(view.request.query_params.get(name), name) for name in ("a", "b")]
    a, b = [await get_version(task, number, view.parts) for number in numbers]
    rows = [row for row in differences(a, b) if not row["field"].startswith("metrics.")]
    return view.page("diff.html", at="tasks", task=found, a=a, b=b, rows=rows, metrics=metrics_of([a, b]))
