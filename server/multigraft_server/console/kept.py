"""What is kept between two requests of one visitor: reports, and what was already done."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")

MAX_KEPT = 200


class Kept(Generic[T]):
    """Things by an id that is made for each, of the last MAX_KEPT; another visitor does not find them. They are
    gone with the process. Thread-safe."""

    def __init__(self, maximum: int = MAX_KEPT) -> None:
        self._maximum = maximum
        self._things: OrderedDict[str, tuple[str, T]] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, token: str, thing: T) -> str:
        """The thing's id."""
        id = secrets.token_hex(8)
        with self._lock:
            self._things[id] = (token, thing)
            while len(self._things) > self._maximum:
                self._things.popitem(last=False)
        return id

    def get(self, token: str, id: str) -> T | None:
        """The visitor's thing of this id."""
        with self._lock:
            owner, thing = self._things.get(id, (None, None))
        return thing if owner == token else None


class Once:
    """Forms that were acted on: each has a number, so that one that is sent again, by a reload of the page after,
    does nothing. Thread-safe."""

    def __init__(self, maximum: int = 10_000) -> None:
        self._maximum = maximum
        self._used: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()

    def new(self) -> str:
        """A number for a form."""
        return secrets.token_hex(16)

    def use(self, number: str) -> bool:
        """Whether the form may act: true once."""
        with self._lock:
            if number in self._used:
                return False
            self._used[number] = None
            while len(self._used) > self._maximum:
                self._used.popitem(last=False)
            return True
