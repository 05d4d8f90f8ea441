"""The ASGI application, put together from explicit parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response

from multigraft_adapters import __version__
from multigraft_adapters.bases import Base
from multigraft_adapters.errors import MultigraftError
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import Store
from multigraft_server.access.keyring import Keyring
from multigraft_server.answers import Engine
from multigraft_server.api import (
    adapters,
    aliases,
    embeddings,
    engine_state,
    events,
    files,
    health,
    jobs,
    keys,
    merges,
    models,
    openai_chat,
    openai_completions,
    pins,
    predict,
    tasks,
    vllm,
)
from multigraft_server.api.auth import Authenticate, authorise, caller_of, without_other_names
from multigraft_server.api.hosts import KnownHosts, Names
from multigraft_server.api.middleware import GuardBody, RequestContext, TakeWork
from multigraft_server.api.openapi import describe_routes
from multigraft_server.api.overload import RefuseWhenFull
from multigraft_server.api.problems import error_response
from multigraft_server.api.schemas import ErrorBody
from multigraft_server.console.app import create_console
from multigraft_server.console.gate import BesideApi
from multigraft_server.detokenise import Vocabulary
from multigraft_server.draining import Drain
from multigraft_server.following import Follower
from multigraft_server.gauges import StateCollector
from multigraft_server.health import Health
from multigraft_server.images import ImageReader
from multigraft_server.latencies import Latencies
from multigraft_server.leases import Leases
from multigraft_server.merging import Merging
from multigraft_server.metrics import Metrics
from multigraft_server.parts import Parts
from multigraft_server.pools import READING_THREADS, started_pool
from multigraft_server.residency import Residency
from multigraft_server.router import Router
from multigraft_server.settings import ServerSettings
from multigraft_server.tokenising import Tokeniser
from multigraft_server.tracing import Tracing
from multigraft_server.trimming import Trimmer
from multigraft_server.uploads import Uploads
from multigraft_server.watchdog import Watchdog

ROUTERS = (
    predict.router,
    openai_chat.router,
    openai_completions.router,
    embeddings.router,
    models.router,
    adapters.router,
    aliases.router,
    tasks.router,
    events.router,
    keys.router,
    pins.router,
    merges.router,
    vllm.router,
    files.router,
    jobs.router,
    engine_state.router,
    health.router,
)


def create_app(
    *,
    settings: ServerSettings,
    base: Base,
    engine: Engine,
    registry: Registry,
    store: Store,
    metrics: Metrics,
) -> FastAPI:
    """The application over an engine that has not been started: its lifespan starts and stops it.

    `metrics` is the engine's observer and belongs to this application alone. `registry` and `store` stay the
    caller's to close.
    """
    drain = Drain(settings.drain_grace_seconds, settings.drain_deadline_seconds)
    parts = _make_parts(settings, base, engine, registry, store, metrics, drain)
    app = _with_routes(lifespan=_lifespan, middleware=_middleware(parts, create_console(parts)))
    app.state.parts = parts
    _add_error_handlers(app, settings)
    return app


def openapi_document() -> dict[str, Any]:
    """What `GET /openapi.json` answers, which does not depend on the base."""
    return _with_routes().openapi()


def _with_routes(**more: Any) -> FastAPI:
    app = FastAPI(
        title="multigraft",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would be built from the Host header
        responses={"default": {"model": ErrorBody}},
        **more,
    )
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(authorise)])
    describe_routes(app)
    return app


def _make_parts(
    settings: ServerSettings,
    base: Base,
    engine: Engine,
    registry: Registry,
    store: Store,
    metrics: Metrics,
    drain: Drain,
) -> Parts:
    tokeniser = Tokeniser(base.tokenizer, base.spec, settings.tokeniser_threads)
    leases, merging = Leases(), Merging(registry, engine, settings.merge)
    watchdog = Watchdog(engine, settings.step_watchdog_seconds, metrics.step_stalled)
    health, capacity = Health(engine, drain, watchdog), settings.max_waiting_requests
    metrics.registry.register(
        StateCollector(engine, health, leases, registry, merging, metrics.labels, base.spec.name, capacity)
    )
    return Parts(
        settings=settings,
        spec=base.spec,
        vocabulary=Vocabulary.of(base.tokenizer, base.eos_token_ids),
        engine=engine,
        drain=drain,
        health=health,
        watchdog=watchdog,
        registry=registry,
        keyring=Keyring(registry, settings.api_key),
        store=store,
        metrics=metrics,
        latencies=Latencies(metrics),
        leases=leases,
        residency=Residency(registry, engine, leases, retire_seconds=settings.retire_seconds),
        merging=merging,
        tokeniser=tokeniser,
        images=_make_image_reader(settings, base),
        router=Router(
            base.spec,
            registry,
            leases,
            metrics,
            check_room=engine.check_room,
            max_length=base.spec.max_length,
            timeout_seconds=settings.request_timeout_seconds,
        ),
        uploads=Uploads(settings.max_uploads),
        tracing=Tracing() if settings.tracing else None,
        started_at=datetime.now(UTC),
    )


def _make_image_reader(settings: ServerSettings, base: Base) -> ImageReader | None:
    if base.spec.image is None:
        return None
    return ImageReader(
        base.image_processor,
        base.spec,
        max_pixels=settings.max_image_pixels,
        threads=settings.tokeniser_threads,
    )


def _middleware(parts: Parts, console: FastAPI) -> list[Middleware]:
    """Outermost first: ids and errors, the server's names, the console aside, whether it is taken, the key, the
    queue, the body."""
    settings = parts.settings
    return [
        Middleware(RequestContext, retry_after_seconds=settings.retry_after_seconds, tracing=parts.tracing),
        Middleware(KnownHosts, names=Names(parts.keyring, settings.trusted_hosts)),
        Middleware(BesideApi, console=console),
        Middleware(TakeWork, drain=parts.drain),
        Middleware(Authenticate),
        Middleware(RefuseWhenFull, router=parts.router),
        Middleware(GuardBody, settings=settings),
    ]


def _add_error_handlers(app: FastAPI, settings: ServerSettings) -> None:
    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            error = HTTPException(405, headers={"allow": ", ".join(_methods(request.scope["path"]))})
        shown = without_other_names(error, caller_of(request))
        return error_response(shown, retry_after_seconds=settings.retry_after_seconds)

    for kind in (MultigraftError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)


def _methods(path: str) -> list[str]:
    """The methods that a path takes, whichever routes they belong to: the framework names those of one route."""
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    return sorted({method for route in routes if route.path_regex.match(path) for method in route.methods or ()})


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[Any]:
    parts: Parts = app.state.parts
    tended = (
        parts.keyring.refresh,
        parts.residency.tend,
        parts.merging.tend,
        parts.latencies.tend,
        Trimmer().tend,
    )
    follower = Follower(parts.registry, *tended)
    asyncio.get_running_loop().set_default_executor(started_pool(READING_THREADS, "multigraft-reading"))
    parts.engine.start()
    parts.watchdog.start()
    await asyncio.to_thread(follower.start)
    try:
        yield
    finally:
        await asyncio.to_thread(follower.stop)
        await asyncio.to_thread(parts.watchdog.close)
        await asyncio.to_thread(parts.engine.stop)
        for threads in (parts.tokeniser, parts.images, parts.uploads):
            if threads is not None:
                await asyncio.to_thread(threads.close)
        if parts.tracing is not None:
            await asyncio.to_thread(parts.tracing.close)
        parts.leases.check_integrity()
