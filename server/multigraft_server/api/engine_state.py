"""`GET /v1/engine`: what the engine holds and does at this moment."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

from fastapi import APIRouter

from multigraft_adapters.registry import Task
from multigraft_server.api.context import PartsDep
from multigraft_server.api.merges import merge_json
from multigraft_server.engine.requests import EngineSnapshot

router = APIRouter()


@router.get("/v1/engine")
async def engine_state(parts: PartsDep) -> dict[str, Any]:
    """Slots with what is in them, tiers, queue, KV cache, memory, and how mixed the steps were."""
    tasks = await asyncio.to_thread(parts.registry.tasks)
    state = parts.engine.snapshot()
    spec = parts.spec
    return {
        "alive": parts.engine.alive,
        "base": {
            "name": spec.name,
            "family": spec.family,
            "fingerprint": spec.fingerprint,
            "max_length": spec.max_length,
        },
        "num_slots": state.num_slots,
        "slots": _slots(state, tasks),
        "tiers": {"device": sorted(state.slots.values()), "host": sorted(state.host_digests)},
        "tier_bytes": {
            "device": {"used": state.slot_bytes, "budget": state.slot_budget_bytes},
            "host": {"used": state.bytes.get("host", 0), "budget": state.host_budget_bytes},
        },
        "draining": [
            {"task": task, "version": number, "leases": parts.leases.count(task, number), "seconds_left": seconds}
            for (task, number), seconds in parts.residency.draining().items()
        ],
        "loading": sorted(state.loading),
        "failed_loads": dict(state.failed_loads),
        "running": state.running,
        "waiting": state.waiting,
        "running_by_task": dict(state.running_by_task),
        "waiting_by_task": dict(state.waiting_by_task),
        "kv_tokens": {"used": state.kv_tokens_used, "capacity": state.kv_tokens_capacity},
        "prefix_cache_tokens": {
            "used": state.prefix_tokens_used,
            "capacity": state.prefix_tokens_capacity,
            "queried": state.prefix_queried_tokens,
            "cached": state.prefix_cached_tokens,
        },
        "bytes": dict(state.bytes),
        "kernels": state.kernels,
        "leases": parts.leases.total,
        "merge": merge_json(parts.merging, state),
        "steps": state.steps,
        "widest_step_adapters": state.widest_step_adapters,
    }


def _slots(state: EngineSnapshot, tasks: list[Task]) -> list[dict[str, Any]]:
    names = defaultdict(list)
    for task in tasks:
        for version in task.versions:
            names[version.digest].append(f"{task.name}@{version.number}")
    return [
        {"slot": slot, "digest": digest, "versions": names[digest]} for slot, digest in sorted(state.slots.items())
    ]
