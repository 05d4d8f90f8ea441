"""What passes over the base have cost on this machine, and which way to compute a step that makes the cheaper one.

Pure Python, without a clock of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

StepMode = Literal["original", "merged", "split"]
"""A step on the base's own weights, with everyone's delta beside them; of merged rows alone, on the merged
weights; the merged rows in one pass on these, the others in a second one on the originals."""

SHARE_OF_NEW = 0.1
"""Of a new time in the mean of its size."""
MOST_TIMES_MEAN = 4.0
"""A time that is longer says more of what else the machine did."""


@dataclass(slots=True)
class PassTimes:
    """Mean seconds of a pass by its number of tokens, in sizes of powers of two."""

    means: dict[int, tuple[float, float]] = field(default_factory=dict)  # by size: tokens, seconds

    def note(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        size = tokens.bit_length()
        if size not in self.means:
            self.means[size] = (float(tokens), seconds)
            return
        mean_tokens, mean = self.means[size]
        seconds = min(seconds, MOST_TIMES_MEAN * mean)
        self.means[size] = (
            mean_tokens + SHARE_OF_NEW * (tokens - mean_tokens),
            mean + SHARE_OF_NEW * (seconds - mean),
        )

    def seconds(self, tokens: int) -> float | None:
        """What a pass would take, between two known sizes by the line through them; None where none is known that
        is at least as large. A smaller one than all known is taken to cost what the smallest does."""
        known = sorted(self.means.values())
        before = None
        for at, seconds in known:
            if tokens <= at:
                if before is None or at == before[0]:
                    return seconds
                return before[1] + (seconds - before[1]) * (tokens - before[0]) / (at - before[0])
            before = (at, seconds)
        if before is None or tokens.bit_length() > max(self.means):
            return None
        return before[1]

    def by_tokens(self) -> Mapping[int, float]:
        """Mean seconds by the sizes' mean tokens."""
        return {round(tokens): seconds for tokens, seconds in sorted(self.means.values())}


class PassCosts:
    """Times of passes on the originals, where rows have their deltas beside them, and on merged weights."""

    def __init__(self) -> None:
        self.original = PassTimes()
        self.merged = PassTimes()
        self.base = PassTimes()
        """Of the bare base at the start: what merged passes are expected to take until they have been measured."""

    def choose(self, hot: int, others: int) -> StepMode:
        """How to compute a step of so many tokens of the merged adapter and of others. Until all that is to be
        compared has been measured, mixed steps run on the originals."""
        if not hot:
            return "original"
        if not others:
            return "merged"
        together, own, rest = (
            self.original.seconds(hot + others),
            self.merged.seconds(hot),
            self.original.seconds(others),
        )
        if together is None or own is None or rest is None:
            return "original"
        return "split" if own + rest < together else "original"
