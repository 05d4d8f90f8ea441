"""From settings to an application: loads the base and opens everything that it needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector

from multigraft_adapters.bases import Base, check_data_dir, load_base
from multigraft_adapters.errors import InvalidRequestError, SetupError
from multigraft_adapters.registry import Registry
from multigraft_adapters.store import open_store
from multigraft_adapters.verify import VerifiedAdapter, load
from multigraft_server.app import create_app
from multigraft_server.engine.build import build_engine
from multigraft_server.engine.settings import EngineSettings
from multigraft_server.merging import Mode
from multigraft_server.metrics import Metrics
from multigraft_server.settings import ServerSettings
from multigraft_server.tracing import check_tracing
from multigraft_server.uncounted import Uncounted


@contextmanager
def assemble(settings: ServerSettings) -> Iterator[FastAPI]:
    """The application of these settings, its engine not started yet; closes the registry at the end.

    Raises a SetupError when the base, the data folder, the store or the registry cannot be used.
    """
    engine_settings = _engine_settings(settings)
    if settings.tracing:
        check_tracing()
    data_dir = check_data_dir(settings.data_dir)
    store = open_store(data_dir, settings.store_url, timeout_s=settings.store_timeout_seconds)
    base = _load_base(settings)
    registry = Registry.open(settings.registry_url or data_dir, base.spec.name)
    metrics = _make_metrics(settings)

    def fetch(digest: str) -> VerifiedAdapter:
        return load(store.get(digest), digest, base.spec, is_checked=True)  # `get` checks the digest

    engine = build_engine(base, engine_settings, fetch, metrics)
    try:
        yield create_app(
            settings=settings, base=base, engine=engine, registry=registry, store=store, metrics=metrics
        )
    finally:
        registry.close()


def _engine_settings(settings: ServerSettings) -> EngineSettings:
    try:
        return EngineSettings(
            slots=settings.slots,
            max_running_rows=settings.max_running_rows,
            max_waiting_requests=settings.max_waiting_requests,
            max_waiting_tokens=settings.max_waiting_tokens,
            max_waiting_steps=settings.max_waiting_steps,
            max_waiting_rounds=settings.max_waiting_rounds,
            max_step_rows=settings.max_step_rows,
            max_step_tokens=settings.max_step_tokens,
            max_mixed_tokens=settings.max_mixed_tokens,
            max_step_adapters=settings.max_step_adapters,
            kv_bytes=settings.kv_cache_bytes,
            quantize=settings.quantize,
            merge=Mode.of(settings.merge).name,
            merge_bytes=settings.merge_bytes,
            prefix_cache_bytes=settings.prefix_cache_bytes,
            device_bytes=settings.device_bytes,
            host_bytes=settings.host_bytes,
            load_threads=settings.load_threads,
            retry_load_s=settings.retry_load_seconds,
            max_retry_load_s=settings.max_retry_load_seconds,
            age_bound_s=settings.age_bound_seconds,
            kernels=settings.kernels,
        )
    except InvalidRequestError as error:
        raise SetupError(f"bad settings: {error.message}") from None


def _load_base(settings: ServerSettings) -> Base:
    try:
        return load_base(settings.base, settings.data_dir, device=settings.device, dtype=settings.dtype)
    except InvalidRequestError as error:  # a device or dtype that this machine does not have
        raise SetupError(error.message) from None


def _make_metrics(settings: ServerSettings) -> Metrics:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    kind = Metrics if settings.metrics else Uncounted
    return kind(registry, max_task_labels=settings.max_task_labels)
