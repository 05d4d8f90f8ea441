"""When requests of an open loop are meant to be sent: seconds since its start, drawn by a seed or from a trace."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multigraft_loadtest.problems import CannotStartError
from multigraft_loadtest.texts import read_lines

METRONOME = 1e-3
"""Below this variation all gaps are the same: nobody could tell, and the gamma distribution has no such shape."""


def arrivals(rate: float, cv: float, seed: int) -> Iterator[float]:
    """Endless arrival times at `rate` per second; their gaps are gamma distributed.

    `cv` is the gaps' coefficient of variation (shape 1 / cv^2, scale cv^2 / rate): 1 is Poisson, more is
    bursty, 0 is a metronome.
    """
    draw, now = random.Random(f"arrivals {seed}"), 0.0
    while True:
        now += draw.gammavariate(1 / cv**2, cv**2 / rate) if cv > METRONOME else 1 / rate
        yield now


def read_trace(file: Path) -> list[float]:
    """The offsets in seconds of a JSONL trace, in order: each line a number, or an object with `offset`.

    Raises CannotStartError.
    """
    return sorted(read_lines(file, _offset))


def _offset(value: Any, where: str) -> float:
    value = value.get("offset") if isinstance(value, dict) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise CannotStartError(f'{where}: give seconds since the start as a number or as {{"offset": number}}')
    return float(value)
