"""Work that is put off: handed over without waiting, done in batches by a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")

MAX_ITEMS = 20_000
PAUSE_SECONDS = 0.05
"""How long items are collected: a thread that wakes for each of them would take turns with the engine's."""


class Backlog(Generic[Item]):
    """Items and the thread that does them. `put` never waits: what finds no room is left out and counted.

    `work` gets the items of a while, and how many have been left out since it was last called. It must not raise.
    """

    def __init__(self, work: Callable[[list[Item], int], None], *, name: str, max_items: int = MAX_ITEMS) -> None:
        self._work = work
        self._items: deque[Item] = deque()
        self._max_items = max_items
        self._left_out = 0
        self._lock = threading.RLock()  # a signal's handler may log while its thread does
        self._has_items = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand an item over; callable from any thread."""
        if len(self._items) >= self._max_items:
            with self._lock:
                self._left_out += 1
            return
        self._items.append(item)
        if not self._has_items.is_set():
            self._has_items.set()

    def close(self, timeout: float = 10.0) -> None:
        """Do what is left, then end the thread. Idempotent."""
        self._closing.set()
        self._has_items.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._closing.is_set():
            self._has_items.wait()
            self._closing.wait(PAUSE_SECONDS)
            self._has_items.clear()
            self._work_off()
        self._work_off()

    def _work_off(self) -> None:
        items = [self._items.popleft() for _ in range(len(self._items))]
        with self._lock:
            left_out, self._left_out = self._left_out, 0
        if items or left_out:
            self._work(items, left_out)
