"""What requests took in the last minutes, by task: quantiles of the metrics' histograms of this process.

Dashboards over several processes and longer times are Prometheus' business.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from multigraft_server.metrics import Metrics

PERIOD_SECONDS = 10.0
"""Between two samples."""
WINDOW_SECONDS = 300.0
"""What quantiles are taken over."""

Series = tuple[str, ...]
"""What is timed and the task's label; or the latter and an outcome."""
Counts = Sequence[float]
"""Observations up to each of a histogram's bounds, the last of which is infinite."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Quantiles of what was observed `count` times, in seconds; None of nothing."""

    count: float = 0.0
    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True, slots=True)
class TaskLatency:
    """One task in the window. `failed` are requests that ended otherwise than well, by outcome."""

    task: str
    requests: float
    failed: Mapping[str, float]
    timed: Mapping[str, Timed]
    """By what was timed: `request`, `first_token`, `next_token`, `queue`."""


@dataclass(frozen=True, slots=True)
class Window:
    """The tasks that were asked in so many seconds up to now, by name."""

    seconds: float
    tasks: tuple[TaskLatency, ...]


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    times: Mapping[Series, Counts]
    outcomes: Mapping[Series, float]


class Latencies:
    """Samples of the metrics every `PERIOD_SECONDS`, for as long as the window. Thread-safe."""

    def __init__(self, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._clock = clock
        self._lock = threading.Lock()
        self._samples = deque([_Sample(clock(), {}, {})])

    def tend(self) -> None:
        """Take a sample if it is time to."""
        with self._lock:
            if self._clock() - self._samples[-1].at < PERIOD_SECONDS:
                return
            self._samples.append(self._sample(self._samples[-1]))
            while len(self._samples) > 1 and self._samples[1].at <= self._clock() - WINDOW_SECONDS:
                self._samples.popleft()

    def window(self) -> Window:
        """What the last minutes took; less long after the start."""
        with self._lock:
            first = self._samples[0]
            now = self._sample(self._samples[-1])
        asked: dict[str, dict[str, float]] = defaultdict(dict)
        for (task, outcome), count in now.outcomes.items():
            asked[task][outcome] = count - first.outcomes.get((task, outcome), 0.0)
        tasks = [
            self._task(task, counts, first, now) for task, counts in sorted(asked.items()) if any(counts.values())
        ]
        return Window(now.at - first.at, tuple(tasks))

    def _task(self, task: str, counts: dict[str, float], first: _Sample, now: _Sample) -> TaskLatency:
        timed = {
            kind: _timed(bounds, now.times.get((kind, task)), first.times.get((kind, task)))
            for kind, bounds in self._metrics.bounds.items()
        }
        failed = {outcome: count for outcome, count in counts.items() if count and outcome != "ok"}
        return TaskLatency(task, sum(counts.values()), failed, timed)

    def _sample(self, last: _Sample) -> _Sample:
        """The metrics now. Counts that have not changed are kept once, and those of nothing not at all."""
        times: dict[Series, Counts] = {
            series: _same(counts, last.times.get(series)) for series, counts in self._metrics.times().items()
        }
        outcomes = {series: count for series, count in self._metrics.outcomes().items() if count}
        return _Sample(self._clock(), times, outcomes)


def quantile(share: float, bounds: tuple[float, ...], counts: Counts) -> float | None:
    """The value below which a share of the observations is, evenly spread within a bucket as Prometheus'
    `histogram_quantile` has it; the last finite bound for what is beyond it."""
    if not counts or not counts[-1]:
        return None
    rank = share * counts[-1]
    place = next(index for index, count in enumerate(counts) if count >= rank)
    if place >= len(bounds):
        return bounds[-1]
    below = counts[place - 1] if place else 0.0
    start = bounds[place - 1] if place else 0.0
    return start + (bounds[place] - start) * (rank - below) / (counts[place] - below)


def _timed(bounds: tuple[float, ...], now: Counts | None, first: Counts | None) -> Timed:
    if now is None:
        return Timed()
    counts = tuple(a - b for a, b in zip(now, first, strict=True)) if first else now
    return Timed(counts[-1], quantile(0.5, bounds, counts), quantile(0.95, bounds, counts))


def _same(counts: Counts, last: Counts | None) -> Counts:
    return last if last is not None and last == counts else counts
