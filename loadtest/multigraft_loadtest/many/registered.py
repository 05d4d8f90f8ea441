"""Thousands of tasks that are registered: how long a server starts, what it holds, how long listings take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from multigraft_loadtest.goals import goal
from multigraft_loadtest.many.measured import Measured, Sizes
from multigraft_loadtest.random_adapters import random_adapter
from multigraft_loadtest.server import Server, own_data, serving_on
from multigraft_loadtest.shapes import shape_of

LISTINGS = {"GET /v1/tasks": "/v1/tasks", "GET /v1/models": "/v1/models", "GET /v1/engine": "/v1/engine"}
TIMES = 7


@dataclass(frozen=True, slots=True)
class Started:
    """A server that is ready, and after how many seconds."""

    server: Server
    seconds: float


def measure_registered(base: str, sizes: Sizes, measured: Measured) -> None:
    """Start with no task and, on the same data folder, with all; list, and ask the last one."""
    with own_data(measured.data_dir) as own:
        with _started(base, own, measured, "empty") as empty:
            without, floor = empty.seconds, _resident(empty.server)
            measured.say(f"registered: uploading {sizes.registered} tasks to multigraft on {base} ...")
            upload_small(base, empty.server, sizes.registered)
        with _started(base, own, measured, "full") as full:
            size = _resident(full.server)
            measured.rows += [
                goal(f"start-up on {base} without a task, s", without),
                goal(f"start-up with {sizes.registered} tasks registered, s", full.seconds),
                goal("resident without a task, MiB", floor / 2**20),
                goal(f"resident with {sizes.registered} tasks registered, MiB", size / 2**20),
            ]
            measured.rows += [
                goal(f"{name} with {sizes.registered} tasks, median, ms", 1000 * _latency(full.server, route))
                for name, route in LISTINGS.items()
            ]


def upload_small(base: str, server: Server, count: int) -> None:
    """So many tasks with adapters that differ and are small."""
    shape = shape_of(base)
    labels = 2 if shape.family == "encoder" else None
    for number in range(count):
        made = random_adapter(shape, "ia3", number, rank=1, labels=labels)
        server.upload(f"task-{number:05}", made.files, made.declaration)


@contextmanager
def _started(base: str, own: Path, measured: Measured, name: str) -> Iterator[Started]:
    began = time.perf_counter()
    with serving_on(own, base, measured.serve_options, name) as server:
        yield Started(server, time.perf_counter() - began)


def _resident(server: Server) -> int:
    assert server.child is not None
    return server.child.resident_bytes()


def _latency(server: Server, route: str) -> float:
    """The median time of a GET in seconds."""
    times = []
    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as http:
        for _ in range(TIMES):
            began = time.perf_counter()
            http.get(route).raise_for_status()
            times.append(time.perf_counter() - began)
    return statistics.median(times)
