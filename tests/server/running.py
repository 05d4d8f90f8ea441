"""A real server on a free loopback port, over tiny bases, for tests that speak HTTP to it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from multigraft_adapters.bases import Base, BaseSpec
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import open_store
from multigraft_adapters.verify import VerifiedAdapter, load
from multigraft_server.app import create_app
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.settings import EngineSettings
from multigraft_server.listening import bind, url_of
from multigraft_server.metrics import Metrics
from multigraft_server.parts import Parts
from multigraft_server.serving import Server, uvicorn_config
from multigraft_server.settings import ServerSettings
from tests.server.made import adapter_files

STEP_SECONDS = 60
"""Longer than any step of a tiny base."""


@dataclass(frozen=True)
class Served:
    """A running server and a client for it."""

    app: FastAPI
    url: str
    http: httpx.Client

    @property
    def parts(self) -> Parts:
        parts = self.app.state.parts
        assert isinstance(parts, Parts)
        return parts

    @property
    def spec(self) -> BaseSpec:
        return self.parts.spec

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return self.http.post(path, json=body, **more)

    def predict(self, ref: str, inputs: Any, parameters: dict[str, Any] | None = None) -> httpx.Response:
        body = {"inputs": inputs} | ({"parameters": parameters} if parameters else {})
        return self.post(f"/v1/tasks/{ref}/predict", body)

    def upload(
        self, task: str, files: dict[str, bytes] | list[tuple[str, bytes]], alias: str | None = None, **more: Any
    ) -> httpx.Response:
        named = list(files.items()) if isinstance(files, dict) else files
        return self.http.post(
            f"/v1/tasks/{task}/versions",
            params={"alias": alias} if alias else {},
            files=[("file", part) for part in named],
            **more,
        )

    def add(
        self, task: str, task_type: str, *, seed: int = 0, alias: str | None = "production", **more: Any
    ) -> str:
        """Upload a random adapter; returns its digest."""
        response = self.upload(task, adapter_files(self.spec, task_type, seed=seed, **more), alias)
        assert response.status_code == 201, response.text
        digest = response.json()["digest"]
        assert isinstance(digest, str)
        return digest

    def rest(self) -> None:
        """Wait for the end of the engine's step: an answer comes within it, and its state is told of after it."""
        ends = time.monotonic() + STEP_SECONDS
        while self.parts.engine.step_seconds:
            assert time.monotonic() < ends, "the engine's step does not end"
            time.sleep(0.001)

    def notice(self) -> None:
        """Have the server notice its uploads now, rather than in between what follows: it forgets what it found of
        their tasks."""
        self.parts.registry.refresh()

    def counted(self, name: str = "multigraft_requests_total", **labels: str) -> float:
        """A sample of /metrics; 0 when it is not there."""
        value = self.parts.metrics.registry.get_sample_value(name, labels)
        return 0.0 if value is None else value


@contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """The URL of an application that is served by uvicorn in a thread."""
    bound = bind("127.0.0.1", 0)
    ready = threading.Event()
    config = uvicorn_config(app, app.state.parts.settings)
    config.timeout_graceful_shutdown = 1
    server = Server(config, ready.set, app.state.parts)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        assert ready.wait(30), "the server did not start"
        yield url_of(bound)
    finally:
        server.should_exit = True
        thread.join(30)
        bound.close()
        assert not thread.is_alive(), "the server did not end"


class SlowSteps(Metrics):
    """Metrics that hold the engine's thread up after each step, so that a test can act between two steps."""

    def __init__(self, pause_seconds: float, max_task_labels: int) -> None:
        super().__init__(CollectorRegistry(), max_task_labels=max_task_labels)
        self._pause_seconds = pause_seconds

    def step(self, **told: Any) -> None:
        super().step(**told)
        time.sleep(self._pause_seconds)


class Counting:
    """A processor or tokenizer that tells how often it was called."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.calls = 0

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.calls += 1
        return self._real(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@contextmanager
def serving(
    base: Base,
    data_dir: Path,
    *,
    engine: EngineSettings | None = None,
    pause_seconds: float = 0.0,
    **settings: Any,
) -> Iterator[Served]:
    """A server over a base, on the real engine; each of its steps may be followed by a pause."""
    told = ServerSettings(data_dir=data_dir, **settings)
    registry = Registry.open(told.registry_url or data_dir, base.spec.name, wait_seconds=2.0)
    store = open_store(data_dir, told.store_url, timeout_s=told.store_timeout_seconds)
    metrics = SlowSteps(pause_seconds, settings.get("max_task_labels", 100))

    def fetch(digest: str) -> VerifiedAdapter:
        return load(store.get(digest), digest, base.spec)

    app = create_app(
        settings=told,
        base=base,
        engine=build_engine(base, engine or EngineSettings(), fetch, metrics),
        registry=registry,
        store=store,
        metrics=metrics,
    )
    try:
        with listening(app) as url, httpx.Client(base_url=url, timeout=60) as http:
            yield Served(app, url, http)
    finally:
        registry.close()
