"""Figures of a list of numbers: percentiles, fairness, histograms, bins of time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

PERCENTILES = (50, 90, 95, 99)
SHORTEST_S = 1e-6
"""What a histogram takes for no time at all: its axis is logarithmic."""


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of at least one value, linear between the two nearest ones."""
    return float(np.percentile(np.asarray(values), percent))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """Between which two of the values the median of what they are drawn from lies, with 95% confidence.

    By ranks, so that no distribution is assumed: the normal approximation of the binomial one. The least and the
    most of few values.
    """
    ordered, count = sorted(values), len(values)
    rank = max(0, math.floor(count / 2 - 0.98 * math.sqrt(count)))
    return ordered[rank], ordered[count - 1 - rank]


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """How many values there are, their mean, percentiles and largest; None of none."""
    if not values:
        return None
    at = np.percentile(np.asarray(values), PERCENTILES)
    named = {f"p{percent}": float(value) for percent, value in zip(PERCENTILES, at, strict=True)}
    return {"count": len(values), "mean": float(np.mean(values)), **named, "max": max(values)}


def jain(values: Sequence[float]) -> float | None:
    """Jain's index of fairness, (sum x)^2 / (n sum x^2): 1 when all are alike, 1 / n when one has everything.

    None of no values, or of nothing but zeros. Jain, Chiu and Hawe 1984, DEC-TR-301.
    """
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares > 0 else None


def histogram(values: Sequence[float], bins: int = 40) -> dict[str, list[float]] | None:
    """Counts between edges that grow by one factor, since latencies do; None of no values."""
    if not values:
        return None
    positive = [max(value, SHORTEST_S) for value in values]
    least, most = min(positive), max(positive)
    edges = np.geomspace(least * 0.999, max(most, least * 1.01) * 1.001, bins + 1)
    counts, _ = np.histogram(np.asarray(positive), edges)
    return {"edges": [float(edge) for edge in edges], "counts": [int(count) for count in counts]}


def time_edges(elapsed_s: float, most: int = 60) -> list[float]:
    """The edges of at most so many bins of whole steps (1, 2 or 5 times a power of ten seconds) over a run."""
    if elapsed_s <= 0:
        return [0.0, 1.0]
    least = elapsed_s / most
    power = 10.0 ** math.floor(math.log10(least))
    width = next(power * step for step in (1, 2, 5, 10) if power * step >= least)
    return [index * width for index in range(math.ceil(elapsed_s / width) + 1)]


def per_bin(edges: Sequence[float], at_s: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The sum of the weights of what happened in each bin, per second."""
    sums, _ = np.histogram(np.asarray(at_s), edges, weights=np.asarray(weights))
    return [float(total) / (end - start) for total, (start, end) in zip(sums, pairwise(edges), strict=True)]


def percentiles_per_bin(
    edges: Sequence[float], at_s: Sequence[float], values: Sequence[float], percents: Sequence[float] = (50, 95)
) -> Mapping[str, list[float | None]]:
    """Percentiles of the values of what happened in each bin; None where nothing did."""
    held: list[list[float]] = [[] for _ in edges[1:]]
    for moment, value in zip(at_s, values, strict=True):
        held[min(max(int(np.searchsorted(edges, moment, "right")) - 1, 0), len(held) - 1)].append(value)
    return {f"p{percent:g}": [percentile(bin, percent) if bin else None for bin in held] for percent in percents}


def rounded(value: Any) -> Any:
    """The same content with every number at six significant digits, for a file."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value
