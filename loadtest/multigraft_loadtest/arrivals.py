"""When requests of an open loop are meant to be sent: seconds since its start, drawn by a seed or from a trace."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

from multigraft_loadtest.problems import CannotStartError

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
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotStartError(f"the trace {file} cannot be read: {error}") from error
    offsets = [_offset(line, f"{file}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not offsets:
        raise CannotStartError(f"the trace {file} is empty")
    return sorted(offsets)


def _offset(line: str, where: str) -> float:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise CannotStartError(f"{where}: no JSON: {error}") from error
    value = value.get("offset") if isinstance(value, dict) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise CannotStartError(f'{where}: give seconds since the start as a number or as {{"offset": number}}')
    return float(value)
