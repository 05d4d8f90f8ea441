"""How a request's events leave the engine."""

from __future__ import annotations

import logging

from multigraft_server.engine.requests import Event, Request

logger = logging.getLogger(__name__)


def emit(request: Request, event: Event) -> None:
    """Hand an event to the request's sink. What the caller's side does wrong stays its own: the books go on."""
    try:
        request.sink(event)
    except Exception:
        logger.exception("the sink of request %s raised", request.id)
