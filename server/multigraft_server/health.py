"""Whether the process lives, and whether it will answer: what its two health routes say."""

from __future__ import annotations

from typing import Protocol

from multigraft_adapters.errors import (
    DrainingError,
    EngineStoppedError,
    MultigraftError,
    StepStalledError,
    UnavailableError,
)
from multigraft_server.draining import Drain
from multigraft_server.watchdog import Watchdog


class MayEnd(Protocol):
    """The engine, as far as its health is known."""

    @property
    def alive(self) -> bool: ...
    @property
    def failure(self) -> MultigraftError | None: ...


class Health:
    """The state of a serving process. It stays alive while it stops, or nobody could wait for its answers."""

    def __init__(self, engine: MayEnd, drain: Drain, watchdog: Watchdog) -> None:
        self._engine = engine
        self._drain = drain
        self._watchdog = watchdog

    @property
    def is_ready(self) -> bool:
        """Whether requests will be answered."""
        return self.why_not_ready() is None

    def why_not_alive(self) -> MultigraftError | None:
        """Why the process must be replaced by another one."""
        if self._watchdog.is_stalled:
            return StepStalledError(f"a step of the engine has taken more than {self._watchdog.limit_s:g} s")
        return self._engine.failure

    def why_not_ready(self) -> UnavailableError | None:
        """Why no request will be answered, or no further one."""
        if self._drain.is_begun:
            return DrainingError("the server is stopping")
        return None if self._engine.alive else EngineStoppedError("the engine does not run")
