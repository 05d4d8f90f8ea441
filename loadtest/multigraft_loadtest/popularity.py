"""How often each task is asked, as shares that add up to 1: what is stated is the share, never a bare exponent."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from multigraft_loadtest.problems import CannotStartError

HELP = "uniform, zipf:EXPONENT (rank r is asked as r^-EXPONENT), hot:SHARE (of the first task), or a list"


def shares(popularity: str, count: int) -> list[float]:
    """The shares of `count` tasks, the first one the most popular. Raises CannotStartError.

    `uniform`; `zipf:1.1`, rank r with a share as r^-1.1; `hot:0.9`, the first with 0.9 and the others alike; or as
    many numbers as tasks, with commas.
    """
    if count < 1:
        raise CannotStartError("there is no task to ask")
    kind, _, text = popularity.partition(":")
    if popularity == "uniform":
        weights = [1.0] * count
    elif kind == "zipf":
        exponent = _number(text, popularity)
        weights = [rank**-exponent for rank in range(1, count + 1)]
    elif kind == "hot":
        hot = _number(text, popularity)
        if not 0 <= hot <= 1 or (count == 1 and hot != 1):
            raise CannotStartError(f"{popularity!r}: a share is from 0 to 1, and that of a single task is 1")
        weights = [hot] + [(1 - hot) / (count - 1)] * (count - 1) if count > 1 else [1.0]
    else:
        weights = [_number(part, popularity) for part in popularity.split(",")]
        if len(weights) != count:
            raise CannotStartError(f"{popularity!r} has {len(weights)} shares for {count} tasks")
    if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise CannotStartError(f"{popularity!r}: shares are numbers of at least 0, and one is above it")
    return [weight / sum(weights) for weight in weights]


def draws(names: Sequence[str], weights: Sequence[float], seed: int) -> Iterator[str]:
    """Endless names, each drawn with its share."""
    draw = random.Random(f"popularity {seed}")
    while True:
        yield from draw.choices(names, weights, k=64)


def turns(names: Sequence[str], weights: Sequence[float]) -> Iterator[str]:
    """Endless names in turns that follow the shares as closely as whole turns can, from the first on.

    Each turn goes to the name that is furthest behind its share (largest deficit; ties to the first).
    """
    given = [0] * len(names)
    turn = 0
    while True:
        turn += 1
        behind = [weight * turn - have for weight, have in zip(weights, given, strict=True)]
        chosen = behind.index(max(behind))
        given[chosen] += 1
        yield names[chosen]


def _number(text: str, popularity: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CannotStartError(f"{popularity!r} is not one of: {HELP}") from None
