"""How much service each task has had: virtual token counters with the lift rule.

The rule is that of "Fairness in Serving Large Language Models" (Sheng et al., OSDI 2024), algorithm 2.
"""

from __future__ import annotations

from collections import Counter

PROMPT_TOKEN_PRICE = 1.0
GENERATED_TOKEN_PRICE = 2.0


class TokenCounters:
    """One counter per task of the tokens it was given, weighted; the active task with the least goes next.

    A task is active from the `enter` of a request to the `leave` of its last one.
    """

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._open: Counter[str] = Counter()
        self._last_left = 0.0

    def enter(self, task: str) -> None:
        """A request of the task waits from now on.

        A task that becomes active is lifted to the least served active one, or to the one that was the last to
        leave: idling earns no credit.
        """
        if task not in self._open:
            least = min((self._served[other] for other in self._open), default=self._last_left)
            self._served[task] = max(self._served.get(task, 0.0), least)
        self._open[task] += 1

    def leave(self, task: str) -> None:
        """A request of the task has ended."""
        self._open[task] -= 1
        if self._open[task] == 0:
            del self._open[task]
            self._last_left = self._served[task]

    def charge(self, task: str, *, prompt: int = 0, generated: int = 0) -> None:
        """Count tokens against an active task."""
        self._served[task] += prompt * PROMPT_TOKEN_PRICE + generated * GENERATED_TOKEN_PRICE

    def served(self, task: str) -> float:
        """What an active task has had; never decreases."""
        return self._served[task]
