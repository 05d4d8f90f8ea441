"""Whether the process lives, and whether it will answer: what its two health routes say."""

from __future__ import annotations

from typing import Protocol

from multigraft_adapters.errors import DrainingError, EngineStoppedError, UnavailableError
from multigraft_server.draining import Drain


class MayEnd(Protocol):
    """The engine, as far as its health is known."""

    @property
    def alive(self) -> bool: ...


class Health:
    """The state of a serving process. It stays alive while it stops, or nobody could wait for its answers."""

    def __init__(self, engine: MayEnd, drain: Drain) -> None:
        self._engine = engine
        self._drain = drain

    @property
    def is_ready(self) -> bool:
        """Whether requests will be answered."""
        return self.why_not_ready() is None

    def why_not_ready(self) -> UnavailableError | None:
        """Why no request will be answered, or no further one."""
        if self._drain.is_begun:
            return DrainingError("the server is stopping")
        return None if self._engine.alive else EngineStoppedError("the engine does not run")
