"""Memory that was freed, given back to the system: the C library keeps it otherwise, piece by piece, for good."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

TRIM_SECONDS = 15.0
"""Between two times. One takes some 10 ms of a thread beside the engine's, and more where there is more."""


class Trimmer:
    """Gives freed memory back now and then, where the C library can (glibc); elsewhere it does nothing.

    Steps of ever other sizes, loads and uploads leave holes in the heap. Without this a server of a small encoder
    grew from 1.2 to 1.7 GB in some minutes.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._clock = clock
        self._next = clock() + TRIM_SECONDS

    def tend(self) -> bool:
        """Give back what there is, if it is time; whether it was."""
        if self._trim is None or self._clock() < self._next:
            return False
        self._next = self._clock() + TRIM_SECONDS
        self._trim(0)
        return True
