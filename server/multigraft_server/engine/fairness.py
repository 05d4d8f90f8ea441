"""Who is served next: virtual token counters with the lift rule (VTC, Sheng et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable

PROMPT_TOKEN_PRICE = 1.0
GENERATED_TOKEN_PRICE = 2.0


class TokenCounters:
    """One counter per task of the service it has had; the task with the least goes next."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}

    def lift(self, task: str, active: Iterable[str]) -> None:
        """A task that becomes active starts at the least served active one: idling earns no credit."""
        others = [self._served[other] for other in active if other in self._served]
        self._served[task] = max(self._served.get(task, 0.0), min(others, default=0.0))

    def charge(self, task: str, *, prompt: int = 0, generated: int = 0) -> None:
        """Count computed tokens against a task."""
        price = prompt * PROMPT_TOKEN_PRICE + generated * GENERATED_TOKEN_PRICE
        self._served[task] = self._served.get(task, 0.0) + price

    def least_served(self, tasks: Iterable[str]) -> str:
        """The task to serve next; among equals, the one named first in `tasks`."""
        return min(tasks, key=lambda task: self._served.get(task, 0.0))
