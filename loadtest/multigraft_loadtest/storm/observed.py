"""What a server says of itself before, during and after a storm."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx

from multigraft_loadtest.server import Server

STEP_BUCKET = re.compile(r"^multigraft_step_seconds_bucket\{(.*)\} ([0-9.e+]+)$", re.MULTILINE)
LEAST = re.compile(r'le="([^"]+)"')
EVENTS = {
    "loads": re.compile(
        r'^multigraft_adapter_loads_total\{.*outcome="ok".*tier="host".*\} ([0-9.e+]+)$', re.MULTILINE
    ),
    "evictions": re.compile(r'^multigraft_adapter_evictions_total\{tier="device"\} ([0-9.e+]+)$', re.MULTILINE),
    "merges": re.compile(r'^multigraft_merge_switches_total\{direction="merge"\} ([0-9.e+]+)$', re.MULTILINE),
}
"""Adapters that were read from the store, adapters that left a slot for another, and adapters that were merged."""

Buckets = Mapping[float, float]
"""Counts of steps of at most so many seconds."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One server process at one moment."""

    resident_bytes: int
    steps: Buckets
    engine: Mapping[str, Any]
    counts: Mapping[str, float]

    @property
    def idle(self) -> dict[str, int]:
        """What must be zero when nothing is under way."""
        engine = self.engine
        return {
            "running": engine["running"],
            "waiting": engine["waiting"],
            "leases": engine["leases"],
            "KV tokens": engine["kv_tokens"]["used"],
        }


def observe(server: Server) -> Observed:
    """Raises LoadTestError."""
    text = httpx.get(f"{server.url}/metrics", timeout=60, trust_env=False).text
    counts = {name: sum(map(float, pattern.findall(text))) for name, pattern in EVENTS.items()}
    resident = server.child.resident_bytes() if server.child else 0
    return Observed(resident, read_steps(text), server.get("/v1/engine"), counts)


def read_steps(metrics: str) -> Buckets:
    """The histogram of the steps' seconds, all phases together."""
    found: dict[float, float] = defaultdict(float)
    for labels, count in STEP_BUCKET.findall(metrics):
        if edge := LEAST.search(labels):
            found[float(edge[1])] += float(count)
    return dict(found)


def step_percentile(before: Buckets, after: Buckets, percent: float) -> float | None:
    """A percentile of the steps between two moments, linear within its bucket; None when there were none."""
    edges = sorted(after)
    counts = [after[edge] - before.get(edge, 0.0) for edge in edges]
    if not counts or counts[-1] <= 0:
        return None
    wanted = counts[-1] * percent / 100
    for (low, below), (high, count) in pairwise([(0.0, 0.0), *zip(edges, counts, strict=True)]):
        if count >= wanted:
            share = (wanted - below) / (count - below) if count > below else 1.0
            return low + share * (high - low) if math.isfinite(high) else low
    return None
