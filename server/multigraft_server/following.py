"""Notices what other processes change in the registry."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from multigraft_adapters.registry import Registry

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 0.25
"""Between two looks at the change counter: a promotion is to reach every process within a second."""


class Follower:
    """A thread that has the registry look at its change counter, off every request's path.

    Then it calls `tend`, which may use the registry. While that cannot be used, what was last known of it is
    served on.
    """

    def __init__(
        self, registry: Registry, tend: Callable[[], None], period_seconds: float = PERIOD_SECONDS
    ) -> None:
        self._registry = registry
        self._tend = tend
        self._period_seconds = period_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-registry", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        reachable = True
        while not self._stopping.wait(self._period_seconds):
            try:
                self._registry.refresh()
                self._tend()
            except Exception as error:  # whatever it is, the next look may succeed
                if reachable:
                    logger.warning("what is known of the registry is served on: %s", error)
                reachable = False
            else:
                if not reachable:
                    logger.warning("the registry can be used again")
                reachable = True
