"""Latencies of the last minutes, from the metrics' own histograms."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from multigraft_server.latencies import PERIOD_SECONDS, WINDOW_SECONDS, Latencies, TaskLatency, quantile
from multigraft_server.metrics import Metrics


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def latencies(metrics: Metrics, clock: Clock) -> Latencies:
    return Latencies(metrics, clock)


def passes(latencies: Latencies, clock: Clock, seconds: float) -> None:
    """Time in which samples are taken."""
    for _ in range(int(seconds / PERIOD_SECONDS)):
        clock.now += PERIOD_SECONDS
        latencies.tend()


def only(latencies: Latencies) -> TaskLatency:
    (task,) = latencies.window().tasks
    return task


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, (0.0, 0.0, 0.0, 0.0), None),
        (0.5, (4.0, 4.0, 4.0, 4.0), 0.5),
        (0.5, (2.0, 4.0, 4.0, 4.0), 1.0),
        (0.75, (2.0, 4.0, 4.0, 4.0), 1.5),
        (0.95, (0.0, 0.0, 10.0, 10.0), 2 + 2 * 0.95),
        (0.95, (0.0, 0.0, 0.0, 3.0), 4.0),  # beyond the last bound nothing more is known
    ],
)
def test_a_quantile_is_where_prometheus_puts_it(
    share: float, counts: tuple[float, ...], expected: float | None
) -> None:
    assert quantile(share, (1.0, 2.0, 4.0), counts) == (None if expected is None else pytest.approx(expected))


def test_what_was_just_answered_is_in_the_window(metrics: Metrics, latencies: Latencies) -> None:
    assert latencies.window().tasks == ()
    metrics.request("topic", "ok", 0.03)
    metrics.request("topic", "deadline", 0.04)
    metrics.first_token("topic", 0.02)
    task = only(latencies)
    assert (task.task, task.requests, dict(task.failed)) == ("topic", 2, {"deadline": 1})
    assert 0.025 < (task.timed["request"].p50 or 0) <= 0.05
    assert 0.01 < (task.timed["first_token"].p95 or 0) <= 0.025
    assert task.timed["queue"].p50 is None


def test_the_window_forgets_what_is_older(metrics: Metrics, latencies: Latencies, clock: Clock) -> None:
    metrics.request("topic", "ok", 0.03)
    passes(latencies, clock, WINDOW_SECONDS + PERIOD_SECONDS)
    assert latencies.window().tasks == ()
    assert WINDOW_SECONDS <= latencies.window().seconds < WINDOW_SECONDS + 2 * PERIOD_SECONDS
    metrics.request("topic", "ok", 3.0)
    task = only(latencies)
    assert task.requests == 1
    assert (task.timed["request"].p50 or 0) > 2.5


def test_samples_are_not_taken_more_often_than_they_are_needed(
    metrics: Metrics, latencies: Latencies, clock: Clock
) -> None:
    metrics.request("topic", "ok", 0.03)
    for _ in range(20):
        clock.now += PERIOD_SECONDS / 40
        latencies.tend()
    assert only(latencies).requests == 1
    assert latencies.window().seconds == pytest.approx(PERIOD_SECONDS / 2)


def test_counts_are_those_that_prometheus_scrapes(metrics: Metrics) -> None:
    for seconds in (0.0001, 0.03, 0.03, 4.0, 1000.0):
        metrics.request("topic", "ok", seconds)
        metrics.next_token("style", seconds)
    families = {"request": "request_duration_seconds", "next_token": "inter_token_seconds"}
    assert set(metrics.times()) == {("request", "topic"), ("next_token", "style")}
    for (kind, task), counts in metrics.times().items():
        name = f"multigraft_{families[kind]}_bucket"
        bounds = [*(str(float(bound)) for bound in metrics.bounds[kind]), "+Inf"]
        scraped = [metrics.registry.get_sample_value(name, {"task": task, "le": bound}) for bound in bounds]
        assert list(counts) == scraped
