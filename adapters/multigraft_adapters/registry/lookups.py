"""What references named when they were last looked up, until something changes."""

from __future__ import annotations

import threading

from multigraft_adapters.registry.records import Routed, Task

Key = tuple[str, int | str]
"""A task's name, and a version's number or an alias."""

MAX_ENTRIES = 65_536


class Lookups:
    """Answers of the registry, kept until `forget`. Thread-safe.

    Who reads the database takes `generation` first and hands it over with what was read: what a change has
    overtaken on its way is not kept.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._routed: dict[Key, Routed] = {}
        self._tasks: tuple[int, list[Task]] | None = None
        self._generation = 0

    @property
    def generation(self) -> int:
        """How often everything was forgotten."""
        return self._generation

    def routed(self, task: str, selector: int | str) -> Routed | None:
        """What is kept of a reference."""
        return self._routed.get((task, selector))

    def keep(self, generation: int, task: str, selector: int | str, routed: Routed) -> None:
        """Keeps what a reference names."""
        with self._lock:
            if generation == self._generation and len(self._routed) < MAX_ENTRIES:
                self._routed[task, selector] = routed

    def tasks(self, counter: int) -> list[Task] | None:
        """The listing, if it was read at this value of the change counter."""
        kept = self._tasks
        return list(kept[1]) if kept is not None and kept[0] == counter else None

    def keep_tasks(self, counter: int, tasks: list[Task]) -> None:
        """Keeps the listing as of a value of the change counter."""
        self._tasks = (counter, list(tasks))

    def forget(self) -> None:
        """Drops what references named: something has changed."""
        with self._lock:
            self._generation += 1
            self._routed = {}
