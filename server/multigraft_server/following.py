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

    Then it calls what else there is to `tend` to, which may use the registry. While that cannot be used, what was
    last known of it is served on.
    """

    def __init__(
        self, registry: Registry, *tend: Callable[[], object], period_seconds: float = PERIOD_SECONDS
    ) -> None:
        self._registry = registry
        self._tend = tend
        self._is_reachable = True
        self._period_seconds = period_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="follow-registry", daemon=True)

    def start(self) -> None:
        """Look once, and begin to follow."""
        self._look()
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._stopping.wait(self._period_seconds):
            self._look()

    def _look(self) -> None:
        try:
            self._registry.refresh()
            for tend in self._tend:
                tend()
        except Exception as error:  # whatever it is, the next look may succeed
            if self._is_reachable:
                logger.warning("what is known of the registry is served on: %s", error)
            self._is_reachable = False
        else:
            if not self._is_reachable:
                logger.warning("the registry can be used again")
            self._is_reachable = True
