"""Merging by an operator: a task until further notice, none, or by the policy; and what is told of it."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter

from multigraft_server.api.context import ActorDep, PartsDep
from multigraft_server.api.schemas import MergeBody
from multigraft_server.engine.requests import EngineSnapshot
from multigraft_server.merging import Merging, Mode

router = APIRouter()


@router.post("/v1/tasks/{task}/merge")
async def merge(task: str, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """Merge the task's production version, wherever that moves, until further notice."""
    digest = await parts.merging.force(task, actor)
    return {"task": task, "merged": True, "digest": digest}


@router.delete("/v1/tasks/{task}/merge")
async def end_merge(task: str, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """End the task's merge, and leave it to the policy again where the server was started so."""
    ended = await asyncio.to_thread(parts.merging.end, task, actor)
    return {"task": task, "merged": False, "ended": ended}


@router.put("/v1/merge")
async def set_mode(body: MergeBody, parts: PartsDep, actor: ActorDep) -> dict[str, Any]:
    """What is merged from now on: nothing, what the policy says, or one task."""
    await asyncio.to_thread(parts.merging.set_mode, Mode(body.mode, body.task, actor))
    return {"mode": body.mode, "task": body.task}


def merge_json(merging: Merging, state: EngineSnapshot) -> dict[str, Any]:
    """The part of `GET /v1/engine` about merging."""
    merge, watch, decision, last = state.merge, merging.watch, merging.decision, merging.last_switch
    told: dict[str, Any] = {
        "mode": "off" if merging.is_off else merging.mode.name,
        "task": merging.mode.task,
        "state": merge.state,
        "merged": {"task": merging.merged_task, "digest": merge.digest} if merge.state == "merged" else None,
        "error": merge.error,
        "switches": merge.switches,
        "switch_seconds": merge.switch_seconds,
        "switch_cost_seconds": watch.costs.switch_s,
        "measured_gain": watch.measured_gain,
        "longest_pause": {"seconds": watch.longest_pause_s, "steps": watch.pause_steps},
        "last_switch": None,
        "steps": dict(merge.steps),
        "pass_seconds": {name: dict(seconds) for name, seconds in merge.pass_seconds.items()},
        "bytes": {"used": state.bytes.get("merged_weights", 0), "budget": merge.budget_bytes},
    }
    if last is not None:
        told["last_switch"] = {
            "seconds_ago": merging.now() - last.at,
            "task": last.task,
            "before": last.before,
            "after": last.after,
            "reason": last.reason,
        }
    if decision is not None:
        standing, limits = decision.standing, decision.thresholds
        told |= {
            "reason": decision.reason,
            "best": decision.best,
            "share": standing.share,
            "request_share": standing.request_share,
            "predicted_gain": standing.gain,
            "thresholds": {"enter": limits.enter, "stay": limits.stay, "between_seconds": limits.between_s},
        }
    return told
