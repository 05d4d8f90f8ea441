"""`/v1/fine_tuning/jobs`: training jobs, as OpenAI's clients drive them. Workers do them; none runs in here."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query

from multigraft_adapters.errors import PermissionDeniedError
from multigraft_adapters.registry import Job, JobCheckpoint, JobEvent
from multigraft_server.access.callers import Caller
from multigraft_server.api.auth import CallerDep
from multigraft_server.api.context import PartsDep
from multigraft_server.api.files import page_json
from multigraft_server.api.job_schemas import NEVER, JobBody
from multigraft_server.parts import Parts

MAX_LISTED = 1000
ORGANISATION = "multigraft"

router = APIRouter()
Limit = Annotated[int, Query(ge=1, le=MAX_LISTED)]
IdempotencyKey = Annotated[
    str | None, Header(pattern=r"^[ -~]{1,200}$", description="the same key again answers the same job")
]


@router.post("/v1/fine_tuning/jobs")
async def create_job(
    body: JobBody, parts: PartsDep, caller: CallerDep, idempotency_key: IdempotencyKey = None
) -> dict[str, Any]:
    """Queue the training of an adapter, which becomes the next version of a task."""
    return job_json(await queue_job(parts, caller, body, idempotency_key))


async def queue_job(parts: Parts, caller: Caller, body: JobBody, idempotency_key: str | None) -> Job:
    """The job, queued. Raises InvalidRequestError, FileNotStoredError, PermissionDeniedError."""
    new = body.new_job(parts.spec, idempotency_key)
    if new.request["promote"] != NEVER and not caller.may("promote"):
        raise PermissionDeniedError("the key has not the scope 'promote', which multigraft.promote needs")
    job, _ = await asyncio.to_thread(parts.registry.jobs.create, new)
    return job


@router.get("/v1/fine_tuning/jobs")
async def list_jobs(parts: PartsDep, after: str | None = None, limit: Limit = 20) -> dict[str, Any]:
    """The jobs, newest first; `after` an id goes on from there."""
    found, has_more = await asyncio.to_thread(parts.registry.jobs.listed, after, limit)
    return page_json([job_json(job) for job in found], has_more)


@router.get("/v1/fine_tuning/jobs/{job_id}")
async def get_job(job_id: str, parts: PartsDep) -> dict[str, Any]:
    """One job."""
    return job_json(await asyncio.to_thread(parts.registry.jobs.get, job_id))


@router.post("/v1/fine_tuning/jobs/{job_id}/cancel")
async def cancel_job(job_id: str, parts: PartsDep) -> dict[str, Any]:
    """End a job for good."""
    return job_json(await asyncio.to_thread(parts.registry.jobs.cancel, job_id))


@router.post("/v1/fine_tuning/jobs/{job_id}/pause")
async def pause_job(job_id: str, parts: PartsDep) -> dict[str, Any]:
    """Have a job wait; it goes on from its last checkpoint when it is resumed."""
    return job_json(await asyncio.to_thread(parts.registry.jobs.pause, job_id))


@router.post("/v1/fine_tuning/jobs/{job_id}/resume")
async def resume_job(job_id: str, parts: PartsDep) -> dict[str, Any]:
    """Have a paused job go on."""
    return job_json(await asyncio.to_thread(parts.registry.jobs.resume, job_id))


@router.get("/v1/fine_tuning/jobs/{job_id}/events")
async def list_job_events(
    job_id: str, parts: PartsDep, after: str | None = None, limit: Limit = 20
) -> dict[str, Any]:
    """What happened in a job, newest first."""
    found, has_more = await asyncio.to_thread(parts.registry.jobs.events, job_id, after, limit)
    return page_json([_event_json(event) for event in found], has_more)


@router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints")
async def list_job_checkpoints(
    job_id: str, parts: PartsDep, after: str | None = None, limit: Limit = 10
) -> dict[str, Any]:
    """The states that a job can go on from, newest first."""
    found, has_more = await asyncio.to_thread(parts.registry.jobs.checkpoints, job_id, after, limit)
    return page_json([_checkpoint_json(checkpoint) for checkpoint in found], has_more)


def job_json(job: Job) -> dict[str, Any]:
    """A job as OpenAI's clients read it; `status` may also be `paused`."""
    request = job.request
    return {
        "id": job.id,
        "object": "fine_tuning.job",
        "status": job.status,
        "model": job.base,
        "fine_tuned_model": job.fine_tuned_model,
        "created_at": _seconds(job.created_at),
        "finished_at": _seconds(job.finished_at),
        "estimated_finish": _seconds(job.estimated_finish),
        "training_file": job.training_file,
        "validation_file": job.validation_file,
        "result_files": list(job.result_files),
        "trained_tokens": job.trained_tokens,
        "error": job.error,
        "seed": request["seed"],
        "hyperparameters": request["hyperparameters"],
        "method": {"type": "supervised", "supervised": {"hyperparameters": request["hyperparameters"]}},
        "metadata": request["metadata"],
        "integrations": [],
        "user_provided_suffix": request["suffix"],
        "organization_id": ORGANISATION,
        "multigraft": {"task": job.task, "promote": request["promote"], "worker": job.worker},
    }


def _event_json(event: JobEvent) -> dict[str, Any]:
    return {
        "id": event.id,
        "object": "fine_tuning.job.event",
        "created_at": _seconds(event.at),
        "level": event.note.level,
        "message": event.note.message,
        "type": event.note.kind,
        "data": event.note.data,
    }


def _checkpoint_json(checkpoint: JobCheckpoint) -> dict[str, Any]:
    return {
        "id": checkpoint.id,
        "object": "fine_tuning.job.checkpoint",
        "created_at": _seconds(checkpoint.at),
        "fine_tuning_job_id": checkpoint.job,
        "fine_tuned_model_checkpoint": f"{checkpoint.job}:step-{checkpoint.step}",
        "step_number": checkpoint.step,
        "metrics": {"step": checkpoint.step, **checkpoint.metrics},
    }


def _seconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp())
