"""Putting an engine together."""

from __future__ import annotations

from collections.abc import Callable

from multigraft_adapters.bases import Base
from multigraft_adapters.verify import VerifiedAdapter
from multigraft_server.engine.device_tier import DeviceTier
from multigraft_server.engine.engine import Engine
from multigraft_server.engine.failures import FailedLoads
from multigraft_server.engine.host_tier import HostTier
from multigraft_server.engine.kv import KVCache, num_slabs_for, slab_tokens_for
from multigraft_server.engine.kv_table import KVTable
from multigraft_server.engine.loop import EngineLoop
from multigraft_server.engine.merging import Merger
from multigraft_server.engine.observer import Observer, SilentObserver
from multigraft_server.engine.out_of_memory import StepBudget
from multigraft_server.engine.prefix_store import PrefixStore, num_blocks_for
from multigraft_server.engine.prefix_table import PrefixTable
from multigraft_server.engine.quantising import quantise
from multigraft_server.engine.runner import Runner
from multigraft_server.engine.scheduler import Scheduler, StepLimits
from multigraft_server.engine.second_copy import SecondCopy
from multigraft_server.engine.settings import EngineSettings
from multigraft_server.engine.slots import SlotTable


def build_engine(
    base: Base,
    settings: EngineSettings,
    fetch: Callable[[str], VerifiedAdapter],
    observer: Observer | None = None,
) -> EngineLoop:
    """An engine over a loaded base, on a loop that has not been started.

    `fetch` gives an adapter by digest; it runs on a loading thread and raises a MultigraftError when it cannot.
    The base is the engine's from here on: its modules are wrapped. Raises SetupError when it cannot be quantised.
    """
    observer = observer or SilentObserver()
    kv_table, kv = _kv(base, settings)
    if settings.quantize == "int8":
        base = quantise(base)
    runner = Runner(base, kv, settings.slots, settings.kernels)
    loop = EngineLoop(settings)
    host = HostTier(
        fetch,
        loop.deliver,
        frozen=runner.frozen,
        budget_bytes=settings.host_bytes,
        threads=settings.load_threads,
        failures=FailedLoads(settings.retry_load_s, settings.max_retry_load_s),
        observer=observer,
    )
    device = DeviceTier(runner.banks, runner.device, observer)
    prefix_table, prefixes = _prefixes(base, settings, kv)
    merger = Merger(
        SecondCopy(runner.wrapped, settings.merge_bytes),
        host,
        fetch,
        loop.deliver_merged,
        prefixes=prefix_table,
        is_off=settings.merge == "off",
        observer=observer,
    )
    slots = SlotTable(settings.slots, settings.device_bytes)
    limits = _limits(settings)
    scheduler = Scheduler(limits, slots, kv_table, base.eos_token_ids, prefix_table)
    budget = StepBudget(limits, settings.recover_s)
    loop.attach(Engine(scheduler, runner, host, device, merger, prefixes, observer, budget))
    return loop


def _kv(base: Base, settings: EngineSettings) -> tuple[KVTable, KVCache | None]:
    layout = base.spec.kv
    slab_tokens = slab_tokens_for(base.spec.max_length)
    if layout is None:
        return KVTable(slab_tokens=slab_tokens, num_slabs=0), None
    num_slabs = num_slabs_for(layout, slab_tokens, settings.kv_bytes, base.model.dtype)
    cache = KVCache(layout, slab_tokens, base.model.device, base.model.dtype)
    return KVTable(slab_tokens=slab_tokens, num_slabs=num_slabs), cache


def _prefixes(
    base: Base, settings: EngineSettings, kv: KVCache | None
) -> tuple[PrefixTable, PrefixStore] | tuple[None, None]:
    if kv is None:
        return None, None
    num_blocks = num_blocks_for(kv.layout, settings.prefix_cache_bytes, base.model.dtype)
    return (PrefixTable(num_blocks), PrefixStore(kv, num_blocks)) if num_blocks else (None, None)


def _limits(settings: EngineSettings) -> StepLimits:
    return StepLimits(
        max_step_tokens=settings.max_step_tokens,
        max_step_rows=settings.max_step_rows,
        max_running_rows=settings.max_running_rows,
        age_bound_s=settings.age_bound_s,
        max_mixed_tokens=settings.max_mixed_tokens,
        max_step_adapters=settings.max_step_adapters,
    )
