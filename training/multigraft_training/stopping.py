"""A wish to stop, told by SIGTERM or SIGINT, that the run follows after the step it is in."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75
"""The exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopWish:
    """Whether somebody asked this process to stop."""

    def __init__(self) -> None:
        self.is_set = False


@contextmanager
def listening() -> Iterator[StopWish]:
    """A wish that the first SIGTERM or SIGINT sets; a second one ends the process as it does without us."""
    wish = StopWish()
    previous = {number: signal.getsignal(number) for number in SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        wish.is_set = True
        restore()

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        signal.signal(number, stop)
    try:
        yield wish
    finally:
        restore()
