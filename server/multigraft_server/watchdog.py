"""Notices a step of the engine that does not end."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Protocol

logger = logging.getLogger(__name__)

LOOKS = 4
"""How often it looks in the time after which a step is stalled; at least once a second."""


class HasSteps(Protocol):
    """The engine, as far as the watchdog knows it."""

    @property
    def step_seconds(self) -> float: ...


class Watchdog:
    """Looks at the engine from a thread of its own. A stalled step is logged once, with what every thread does.

    It cannot end the step: a thread inside a library's call cannot be stopped. Liveness tells whoever can.
    """

    def __init__(self, engine: HasSteps, limit_s: float, on_stall: Callable[[], None]) -> None:
        self._engine = engine
        self.limit_s = limit_s
        self._on_stall = on_stall
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="multigraft-watchdog", daemon=True)

    @property
    def is_stalled(self) -> bool:
        """Whether the step that runs now takes too long."""
        return self._engine.step_seconds > self.limit_s

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        was_stalled = False
        while not self._stop.wait(min(1.0, self.limit_s / LOOKS)):
            is_stalled = self.is_stalled
            if is_stalled and not was_stalled:
                logger.critical("a step has taken more than %g s; all threads:\n%s", self.limit_s, _stacks())
                self._on_stall()
            was_stalled = is_stalled


def _stacks() -> str:
    """What every thread does now."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    told = (
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
        for ident, frame in sys._current_frames().items()
    )
    return "\n".join(told)
