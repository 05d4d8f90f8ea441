"""What references named when they were last looked up, and the tasks as last listed, until they change."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from multigraft_adapters.registry.records import Routed, Task

Selector = int | str
"""A version's number or an alias."""

MAX_ENTRIES = 65_536


@dataclass(frozen=True, slots=True)
class Listing:
    """Every task, by name, as of a value of the change counter and the newest event at that moment."""

    counter: int
    newest: int
    tasks: tuple[Task, ...]

    def updated(self, counter: int, newest: int, tasks: Iterable[Task]) -> Listing:
        """The listing with these tasks as they are now."""
        merged = {task.name: task for task in self.tasks} | {task.name: task for task in tasks}
        return Listing(counter, newest, tuple(merged[name] for name in sorted(merged)))


class Lookups:
    """Answers of the registry, by task, kept until `forget`. Thread-safe.

    Who reads the database takes `generation` first and hands it over with what was read: what a change has
    overtaken on its way is not kept.
    """

    def __init__(self) -> None:
        self.listing: Listing | None = None
        self._lock = threading.Lock()
        self._routed: defaultdict[str, dict[Selector, Routed]] = defaultdict(dict)
        self._num_entries = 0
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often something was forgotten."""
        return self._generation

    def routed(self, task: str, selector: Selector) -> Routed | None:
        """What is kept of a reference."""
        kept = self._routed.get(task)
        return None if kept is None else kept.get(selector)

    def keep(self, generation: int, task: str, selector: Selector, routed: Routed) -> None:
        """Keeps what a reference names."""
        with self._lock:
            if generation == self._generation and self._num_entries < MAX_ENTRIES:
                self._num_entries += selector not in self._routed[task]
                self._routed[task][selector] = routed

    def forget(self, tasks: Iterable[str]) -> None:
        """Drops what references to these tasks named: something about them has changed."""
        with self._lock:
            self._generation += 1
            for task in tasks:
                self._num_entries -= len(self._routed.pop(task, ()))

    def forget_all(self) -> None:
        """Drops what all references named."""
        with self._lock:
            self._generation += 1
            self._num_entries = 0
            self._routed.clear()
