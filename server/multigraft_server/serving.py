"""Running the application on its socket until a signal ends it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from multigraft_adapters.errors import BindError, SetupError
from multigraft_server.api.connections import Patience, connections
from multigraft_server.api.overload import RefuseAtOnce
from multigraft_server.listening import url_of
from multigraft_server.logs import log_event
from multigraft_server.parts import Parts
from multigraft_server.settings import ServerSettings

BACKLOG = 2048
KEEP_ALIVE_SECONDS = 75
"""Longer than the minute for which proxies commonly keep idle connections."""

FLUSH_SECONDS = 5
"""How long the last bytes may take to leave when all answers have ended."""


class Server(uvicorn.Server):
    """uvicorn, which tells when it is ready to answer, and which a signal ends in order and without an error."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], parts: Parts) -> None:
        super().__init__(config)
        self._on_ready = on_ready
        self._parts = parts
        self._draining: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal lets running answers end, the second one does not wait for them. Ctrl-C has no grace:
        nobody balances load over a terminal."""
        log_event("stopping", signal=signal.Signals(sig).name)
        if self._parts.drain.is_begun or self.should_exit:
            self.should_exit = self.force_exit = True
            self.config.timeout_graceful_shutdown = 0
        else:
            self._parts.drain.begin(has_grace=sig != signal.SIGINT)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second; whether the server ends now."""
        if self._parts.drain.is_begun and self._draining is None:
            self._draining = asyncio.create_task(self._parts.drain.finish(self._parts.engine))
        elif self._parts.engine.failure is not None:
            self.should_exit = True
        if self._draining is not None and self._draining.done():
            self._draining.result()
            self.should_exit = True
        return await super().on_tick(counter)


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        RefuseAtOnce(app, app.state.parts),
        loop="auto",
        http=connections(Patience(settings.body_timeout_seconds, settings.stall_seconds)),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=FLUSH_SECONDS,
    )


def run(app: FastAPI, settings: ServerSettings, bound: socket.socket, on_ready: Callable[[], None]) -> bool:
    """Serve until a signal ends it; whether a second one did.

    Raises BindError or SetupError when the server could not start, and EngineStoppedError when the engine has
    ended by itself: then the process must be started again.
    """
    server = Server(uvicorn_config(app, settings), on_ready, app.state.parts)
    try:
        server.run(sockets=[bound])
    except OSError as error:
        raise BindError(f"cannot listen on {url_of(bound)}: {error.strerror}") from None
    if not server.started:
        raise SetupError("the server did not start; what is logged above says why")
    if (failure := app.state.parts.engine.failure) is not None:
        raise failure
    return server.force_exit
