"""Metrics that are read off at a scrape: the engine's state, leases, tasks. Nothing to keep in step by hand."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily, Metric

from multigraft_adapters.registry import PRODUCTION, Registry, Task
from multigraft_server.engine.requests import EngineSnapshot
from multigraft_server.leases import Leases
from multigraft_server.metrics import TaskLabels


class HasSnapshot(Protocol):
    """An engine, as far as its gauges need it."""

    def snapshot(self) -> EngineSnapshot: ...


class IsReady(Protocol):
    """What says whether requests will be answered, likewise."""

    @property
    def is_ready(self) -> bool: ...


class HasMergedTask(Protocol):
    """What says which task is merged, likewise."""

    @property
    def merged_task(self) -> str | None: ...


class StateCollector:
    """A collector for `CollectorRegistry.register`: builds the gauges anew at each scrape."""

    def __init__(
        self,
        engine: HasSnapshot,
        health: IsReady,
        leases: Leases,
        registry: Registry,
        merging: HasMergedTask,
        labels: TaskLabels,
        base_name: str,
        queue_capacity: int,
    ) -> None:
        self._engine = engine
        self._health = health
        self._merging = merging
        self._base_name = base_name
        self._leases = leases
        self._registry = registry
        self._labels = labels
        self._queue_capacity = queue_capacity

    def describe(self) -> Iterable[Metric]:
        """Nothing: the gauges' names are fixed, and reading them needs the engine."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges now."""
        state = self._engine.snapshot()
        yield _gauge("multigraft_ready", "Whether requests will be answered", self._health.is_ready)
        yield _gauge("multigraft_queue_depth", "Requests waiting in the engine", state.waiting)
        yield _gauge("multigraft_queue_capacity", "Requests that may be open at once", self._queue_capacity)
        yield _gauge("multigraft_step_tokens_limit", "Tokens that a step may have now", state.step_tokens)
        yield _gauge("multigraft_leases", "Leases held by requests", self._leases.total)
        yield _residents(state)
        yield _task_info(self._registry.tasks(), self._labels)
        yield _merged_info(self._merging.merged_task, self._labels)
        yield _jobs(self._registry.jobs.counts())
        yield _gauge("vllm:num_requests_running", "Rows running", state.running)
        yield _gauge("vllm:num_requests_waiting", "Requests waiting", state.waiting)
        yield _gauge("vllm:kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1", _kv_share(state))
        yield _lora_requests(state, self._base_name)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _residents(state: EngineSnapshot) -> GaugeMetricFamily:
    family = GaugeMetricFamily("multigraft_adapters_resident", "Adapters in memory", labels=["tier"])
    family.add_metric(["device"], len(state.slots))
    family.add_metric(["host"], len(state.host_digests))
    return family


def _task_info(tasks: list[Task], labels: TaskLabels) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "multigraft_task_info",
        "The share of requests that production sends to a version of a task, 0 to 1",
        labels=["task", "version", "method", "digest"],
    )
    for task in tasks:
        production = next((alias for alias in task.aliases if alias.name == PRODUCTION), None)
        if production is None or labels.of(task.name) != task.name:
            continue
        shares = dict(production.weights or ((production.version, 1.0),))
        for version in task.versions:
            if version.number in shares:
                method = version.manifest.method.name
                told = [task.name, str(version.number), method, version.digest]
                family.add_metric(told, shares[version.number])
    return family


def _merged_info(task: str | None, labels: TaskLabels) -> GaugeMetricFamily:
    family = GaugeMetricFamily("multigraft_merged_info", "1 for the task that is merged now", labels=["task"])
    if task is not None:
        family.add_metric([labels.of(task)], 1)
    return family


def _jobs(counts: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily("multigraft_jobs", "Training jobs in the registry", labels=["status"])
    for status, number in counts.items():
        family.add_metric([status], number)
    return family


def _lora_requests(state: EngineSnapshot, base_name: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "vllm:lora_requests_info",
        "When this was true (Unix seconds), for routers that know vLLM",
        labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
    )
    running, waiting = (
        ",".join(sorted(set(tasks) - {base_name})) for tasks in (state.running_by_task, state.waiting_by_task)
    )
    family.add_metric([str(state.num_slots), running, waiting], time.time())
    return family


def _kv_share(state: EngineSnapshot) -> float:
    return state.kv_tokens_used / state.kv_tokens_capacity if state.kv_tokens_capacity else 0.0
