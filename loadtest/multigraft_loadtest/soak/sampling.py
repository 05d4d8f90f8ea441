"""What a process has of the system's at one moment, and again and again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SAMPLE_S = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """Of one process, so many seconds after the start."""

    at_s: float
    resident_bytes: int
    threads: int
    descriptors: int


def sample(pid: int, at_s: float) -> Sample:
    """Read off now; the process must live."""
    process = Path(f"/proc/{pid}")
    pages = int((process / "statm").read_text().split()[1])
    return Sample(
        at_s,
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(process / "task")),
        len(os.listdir(process / "fd")),
    )


async def sample_until(pid: int, seconds: float, clock: Callable[[], float]) -> list[Sample]:
    """A sample each second until the time is over."""
    found = []
    while clock() < seconds:
        found.append(sample(pid, clock()))
        await asyncio.sleep(SAMPLE_S)
    return found
