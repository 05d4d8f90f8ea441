"""Health and metrics. The two health routes need no key."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.openmetrics import exposition as openmetrics
from starlette.responses import JSONResponse, Response

from multigraft_adapters.errors import RouteNotFoundError
from multigraft_server.api.context import PartsDep

router = APIRouter()


@router.get("/health/live")
async def live(parts: PartsDep) -> Response:
    """Whether the process can go on; 503 when it must be replaced: its engine has ended, or hangs in a step."""
    if (problem := parts.health.why_not_alive()) is not None:
        raise problem
    return JSONResponse({"status": "live"})


@router.get("/health/ready")
async def ready(parts: PartsDep) -> Response:
    """Whether requests will be answered; 503 when the engine cannot continue, and as soon as the server stops."""
    if (problem := parts.health.why_not_ready()) is not None:
        raise problem
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request, parts: PartsDep) -> Response:
    """All metrics in Prometheus' text format, or OpenMetrics' where that is asked for."""
    if not parts.settings.metrics:
        raise RouteNotFoundError("this route is closed: the server's setting metrics opens it")
    encode, content_type = _text, exposition.CONTENT_TYPE_PLAIN_0_0_4
    if "application/openmetrics-text" in request.headers.get("accept", ""):
        encode, content_type = _openmetrics, openmetrics.CONTENT_TYPE_LATEST
    body = await asyncio.to_thread(encode, parts.metrics.registry)
    return Response(body, headers={"content-type": content_type})


# All our names are legal in every version of both formats. The library's own choice would still write those of
# vLLM's, which have a colon, with an underscore.


def _text(registry: CollectorRegistry) -> bytes:
    return exposition.generate_latest(registry, openmetrics.ALLOWUTF8)


def _openmetrics(registry: CollectorRegistry) -> bytes:
    encoded: bytes = openmetrics.generate_latest(registry, openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
    return encoded
