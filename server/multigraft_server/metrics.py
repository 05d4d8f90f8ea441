"""Metrics that count: requests, tokens, steps, adapter loads. What is read off at a scrape is in `gauges.py`.

The one rule of `multigraft_requests_total`: a prediction is counted once, under the task that it was routed to,
before the last byte of its answer leaves. A request to a task's own route, to chat, completions or embeddings is
one prediction, however many inputs or prompts it carries; a fan-out is one per task named, a mixed request one
per entry. A reference that names no task counts under `__unknown__`; a body that cannot be read, or a request
without a valid key, was routed nowhere and is not counted here.
"""

from __future__ import annotations

import threading
from array import array
from itertools import accumulate
from typing import Any, Literal, TypeVar, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

OTHER = "__other__"
"""The label of all tasks beyond the cap."""
UNKNOWN = "__unknown__"
"""The label of references that name no task; names that callers make up are never labels."""

Family = TypeVar("Family", Counter, Histogram)

Outcome = Literal["ok", "invalid", "cancelled", "unavailable", "deadline", "limited", "failed"]

_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 10)
_STEP_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.035,
    0.05,
    0.075,
    0.1,
    0.15,
    0.25,
    0.35,
    0.5,
    0.75,
    1,
    2.5,
    10,
)
_LOAD_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_SMALL_NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256)


class TaskLabels:
    """Which tasks have their own label: the first `limit` that were seen. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def of(self, task: str) -> str:
        """The task's own name, or `__other__` beyond the cap."""
        if task in self._known:
            return task
        with self._lock:
            if len(self._known) < self._limit:
                self._known.add(task)
        return task if task in self._known else OTHER


def _counts(family: Histogram) -> dict[str, array[float]]:
    """The cumulative counts of a histogram with one label, by this label's values."""
    return {
        label: array("d", accumulate(bucket.get() for bucket in child._buckets))
        for (label,), child in _children(family).items()
    }


def _children(family: Counter | Histogram) -> dict[tuple[str, ...], Any]:
    """By the labels' values. What `collect` answers for a hundred tasks takes 15 times as long to build."""
    with family._lock:
        return {tuple(labels): child for labels, child in family._metrics.items()}  # as they are: tuples


class Metrics:
    """Every counter and histogram of one process, in the registry it is given. Thread-safe.

    It is the engine's `Observer`: `step`, `adapter_load`, `eviction` and `merge_switched` are called from the
    engine's threads.
    """

    def __init__(self, registry: CollectorRegistry, *, max_task_labels: int = 100) -> None:
        self.registry = registry
        self.labels = TaskLabels(max_task_labels)
        self._found: dict[tuple[object, ...], Any] = {}
        self._counted: set[str] = set()
        self._make_request_metrics()
        self._make_engine_metrics()

    def request(self, task: str, outcome: Outcome, seconds: float) -> None:
        """One prediction ended; `task` is a task's name, the base's, or `UNKNOWN`."""
        label = task if task == UNKNOWN else self.labels.of(task)
        if label not in self._counted:
            self._begin_outcomes(label)
        self._of(self._requests, label, outcome).inc()
        self._of(self._request_seconds, label).observe(seconds)

    def first_token(self, task: str, seconds: float) -> None:
        """A generated answer's first token came, so long after its request."""
        self._of(self._first_token_seconds, self.labels.of(task)).observe(seconds)

    def next_token(self, task: str, seconds: float) -> None:
        """A further token came, so long after the one before it."""
        self._of(self._token_seconds, self.labels.of(task)).observe(seconds)

    def queued(self, task: str, seconds: float) -> None:
        """A row waited so long before its first step."""
        self._of(self._queue_seconds, self.labels.of(task)).observe(seconds)

    def step(
        self,
        *,
        phase: str,
        seconds: float,
        rows: int,
        adapters: int,
        prompt_tokens: int,
        generated_tokens: int,
    ) -> None:
        """One step of the engine ended."""
        self._of(self._step_seconds, phase).observe(seconds)
        self._step_rows.observe(rows)
        self._step_adapters.observe(adapters)
        self._of(self._tokens, "prompt").inc(prompt_tokens)
        self._of(self._tokens, "generated").inc(generated_tokens)

    def out_of_memory(self) -> None:
        """A step ran out of memory."""
        self._out_of_memory.inc()

    def step_stalled(self) -> None:
        """A step took longer than the watchdog waits."""
        self._stalled.inc()

    def prefix_lookup(self, *, queried_tokens: int, cached_tokens: int) -> None:
        """A prompt was looked up in the prefix cache."""
        self._prefix_queries.inc(queried_tokens)
        self._prefix_hits.inc(cached_tokens)

    def adapter_load(
        self, *, tier: Literal["device", "host"], seconds: float, outcome: Literal["ok", "error"]
    ) -> None:
        """An adapter was brought into a tier, or could not be."""
        self._load_seconds.labels(tier).observe(seconds)
        self._loads.labels(tier, outcome).inc()

    def eviction(self, *, tier: Literal["device", "host"]) -> None:
        """An adapter left a tier to make room."""
        self._evictions.labels(tier).inc()

    @property
    def bounds(self) -> dict[str, tuple[float, ...]]:
        """The finite bounds of what is timed for each task, in seconds."""
        return {
            "request": _REQUEST_SECONDS,
            "first_token": _FIRST_TOKEN_SECONDS,
            "next_token": _TOKEN_SECONDS,
            "queue": _REQUEST_SECONDS,
        }

    def times(self) -> dict[tuple[str, ...], array[float]]:
        """By what is timed and task: how often it was up to each of the bounds, and at all."""
        families = (self._request_seconds, self._first_token_seconds, self._token_seconds, self._queue_seconds)
        return {
            (kind, task): counts
            for kind, family in zip(self.bounds, families, strict=True)
            for task, counts in _counts(family).items()
        }

    def outcomes(self) -> dict[tuple[str, ...], float]:
        """How many requests ended with an outcome, by task and that."""
        return {labels: child._value.get() for labels, child in _children(self._requests).items()}

    def _of(self, family: Family, *labels: str) -> Family:
        """The series of these labels, found once: finding it costs more than counting in it."""
        key = (family, *labels)
        found: Family | None = self._found.get(key)
        if found is None:
            found = self._found[key] = family.labels(*labels)
        return found

    def _begin_outcomes(self, label: str) -> None:
        """Every outcome as 0, since a rate over a series that begins with its first error misses that error."""
        for outcome in get_args(Outcome):
            self._requests.labels(label, outcome)
        self._counted.add(label)

    def merge_switched(self, *, direction: Literal["merge", "restore"], seconds: float) -> None:
        """An adapter was merged into the weights, so long after it was asked for; or the originals are back."""
        self._switches.labels(direction).inc()
        self._switch_seconds.labels(direction).observe(seconds)

    def _make_request_metrics(self) -> None:
        self._requests = self._counter("requests", "Predictions, by task and outcome", "task", "outcome")
        self._request_seconds = self._histogram(
            "request_duration_seconds", "From a prediction's arrival to its end", _REQUEST_SECONDS, "task"
        )
        self._first_token_seconds = self._histogram(
            "time_to_first_token_seconds", "From arrival to the first token", _FIRST_TOKEN_SECONDS, "task"
        )
        self._token_seconds = self._histogram(
            "inter_token_seconds", "Between two tokens of an answer", _TOKEN_SECONDS, "task"
        )
        self._queue_seconds = self._histogram(
            "queue_seconds", "From arrival to the first step", _REQUEST_SECONDS, "task"
        )

    def _make_engine_metrics(self) -> None:
        self._step_seconds = self._histogram("step_seconds", "One step", _STEP_SECONDS, "phase")
        self._step_rows = self._histogram("step_rows", "Rows in a step", _SMALL_NUMBERS)
        self._step_adapters = self._histogram(
            "step_adapters", "Distinct adapters in a step, the base included", _SMALL_NUMBERS
        )
        self._tokens = self._counter("tokens", "Tokens computed (prompt) and sampled (generated)", "kind")
        self._out_of_memory = self._counter("out_of_memory", "Steps that ran out of memory")
        self._stalled = self._counter("stalled_steps", "Steps that took longer than the watchdog waits")
        self._prefix_queries = self._counter("prefix_cache_queries", "Prompt tokens looked up")
        self._prefix_hits = self._counter("prefix_cache_hits", "Prompt tokens that were cached")
        self._load_seconds = self._histogram(
            "adapter_load_seconds", "Bringing an adapter into a tier", _LOAD_SECONDS, "tier"
        )
        self._loads = self._counter("adapter_loads", "Adapters brought into a tier", "tier", "outcome")
        self._evictions = self._counter("adapter_evictions", "Adapters that left a tier for room", "tier")
        for tier in ("device", "host"):
            self._load_seconds.labels(tier)
            self._evictions.labels(tier)
            for outcome in ("ok", "error"):
                self._loads.labels(tier, outcome)
        self._switches = self._counter("merge_switches", "Changes of the weights that are in use", "direction")
        self._switch_seconds = self._histogram(
            "merge_seconds", "From the wish to such a change until it is made", _LOAD_SECONDS, "direction"
        )
        for direction in ("merge", "restore"):
            self._switches.labels(direction)
            self._switch_seconds.labels(direction)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"multigraft_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"multigraft_{name}", text, labels, buckets=buckets, registry=self.registry)
