"""Whether something grows: the slope of a line through its means, or least values, with its 95% interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BLOCKS = 20
T_OF_BLOCKS = 2.101
"""Student's t for 95% with BLOCKS - 2 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth per minute; `low` and `high` bound it with 95% confidence."""

    per_minute: float
    low: float
    high: float

    @property
    def grows(self) -> bool:
        """Whether it can be told apart from standing still, upwards."""
        return self.low > 0


def slope(at_s: Sequence[float], values: Sequence[float], *, of_least: bool = False) -> Slope | None:
    """The least-squares line through the means of equal blocks of time; None of fewer than two values a block.

    Samples a second apart say nearly the same, so that a line through them all would be far too sure of itself;
    means of blocks are nearly independent. `of_least` takes the blocks' least values: of what comes and goes, as
    connections do, only what never goes is growth.
    """
    times, numbers = np.asarray(at_s, dtype=float), np.asarray(values, dtype=float)
    if len(times) < 2 * BLOCKS:
        return None
    blocks = np.array_split(np.arange(len(times)), BLOCKS)
    x = np.array([times[block].mean() for block in blocks]) / 60
    y = np.array([numbers[block].min() if of_least else numbers[block].mean() for block in blocks])
    spread = ((x - x.mean()) ** 2).sum()
    estimate = ((x - x.mean()) * (y - y.mean())).sum() / spread
    left = y - y.mean() - estimate * (x - x.mean())
    error = T_OF_BLOCKS * np.sqrt((left**2).sum() / (BLOCKS - 2) / spread)
    return Slope(float(estimate), float(estimate - error), float(estimate + error))
