"""Training jobs: listed, made, followed, paused, resumed, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.datastructures import FormData, UploadFile
from starlette.responses import Response

from multigraft_adapters.errors import InvalidRequestError, MultigraftError, RouteNotFoundError
from multigraft_adapters.manifest import TASK_TYPES
from multigraft_adapters.registry import Job, JobEvent
from multigraft_adapters.registry.job_records import CANCELLED, CLAIMABLE, FAILED, PAUSED, SUCCEEDED, UNFINISHED
from multigraft_server.api.files import MAX_FIELD_BYTES, keep_file
from multigraft_server.api.forms import read_form
from multigraft_server.api.job_schemas import PROMOTE_VALUES, JobBody
from multigraft_server.api.jobs import queue_job
from multigraft_server.console.bodies import body_of
from multigraft_server.console.curves import charts_of
from multigraft_server.console.view import View, ViewDep
from multigraft_server.parts import Parts

HOME = "/console/jobs"
PAGE = 20
MAX_EVENTS = 2000
SHOWN_EVENTS = 50
NO_FILES_TYPE = "image-classification"
"""Its rows name files, which a job does not have."""
JOB_TYPES = tuple(name for name in TASK_TYPES if name != NO_FILES_TYPE)
METHODS = ("lora", "ia3", "bottleneck", "prompt", "prefix", "head")
NUMBERS = {"n_epochs": int, "batch_size": int, "learning_rate_multiplier": float}
FIELDS = ("task", "task_type", "method", "rank", *NUMBERS, "seed", "promote")
KINDS = {SUCCEEDED: "good", FAILED: "bad", CANCELLED: "", PAUSED: "warn"}
"""The colour of a status; others are under way."""

router = APIRouter(prefix="/console")


class Change(NamedTuple):
    """What may be done to a job: the question, what is said afterwards, and in which statuses."""

    question: str
    button: str
    done: str
    statuses: tuple[str, ...]


CHANGES = {
    "pause": Change(
        "It stops at its next checkpoint and can go on from there.", "Pause the job", "paused", CLAIMABLE
    ),
    "resume": Change("It goes on as soon as a worker is free.", "Resume the job", "resumed", (PAUSED,)),
    "cancel": Change("It ends for good: nothing of it is published.", "Cancel the job", "cancelled", UNFINISHED),
}


@router.get("/jobs")
async def list_jobs(view: ViewDep, after: str | None = None) -> Response:
    """The jobs, newest first, page by page."""
    return view.page("jobs.html", at="jobs", after=after, **await _listed(view.parts, after))


@router.get("/jobs/live")
async def list_live(view: ViewDep, after: str | None = None) -> Response:
    """The table of the same."""
    return view.fragment("jobs_live.html", **await _listed(view.parts, after))


@router.get("/jobs/new")
async def ask(view: ViewDep) -> Response:
    """The form of a new job; the address may fill its fields."""
    return view.page(
        "job_new.html",
        at="jobs",
        given={name: view.request.query_params.get(name, "") for name in FIELDS},
        task_types=JOB_TYPES,
        methods=METHODS,
        promotes=PROMOTE_VALUES if view.may("promote") else PROMOTE_VALUES[:1],
        has_worker=view.parts.settings.with_worker,
        once=view.console.once.new(),
    )


@router.post("/jobs/files")
async def create(view: ViewDep) -> Response:
    """Keep the files and queue a job, as the API's routes do."""
    with view.parts.uploads.admitted():
        limits = {"max_files": 2, "max_fields": 32, "max_part_size": MAX_FIELD_BYTES}
        files, fields = await read_form(view.request, _read, **limits)
        try:
            job = await _queue(view, files, fields)
        except MultigraftError as error:
            view.say("refused", view.told(error))
            return view.go(f"{HOME}/new?{urlencode({name: fields[name] for name in FIELDS})}")
    view.say("done", f"The job for the task {job.task} is queued.")
    return view.go(f"{HOME}/{job.id}")


@router.get("/jobs/{job_id}")
async def show(job_id: str, view: ViewDep) -> Response:
    """One job."""
    return view.page("job.html", at="jobs", **await _followed(view.parts, job_id))


@router.get("/jobs/{job_id}/live")
async def show_live(job_id: str, view: ViewDep) -> Response:
    """What changes of it."""
    return view.fragment("job_live.html", **await _followed(view.parts, job_id))


@router.get("/jobs/{job_id}/{change}")
async def ask_to_change(job_id: str, change: str, view: ViewDep) -> Response:
    """Whether it is meant."""
    job = await asyncio.to_thread(view.parts.registry.jobs.get, job_id)
    return view.page("job_change.html", at="jobs", job=job, name=change, change=_change_of(change))


@router.post("/jobs/{job_id}/{change}")
async def change_job(job_id: str, change: str, view: ViewDep) -> Response:
    """Pause, resume or cancel, as the API's routes do."""
    jobs = view.parts.registry.jobs
    verbs: dict[str, Callable[[str], Job]] = {"pause": jobs.pause, "resume": jobs.resume, "cancel": jobs.cancel}
    made: Awaitable[Job] = asyncio.to_thread(verbs[_known(change)], job_id)
    return await view.act(made, f"The job is {CHANGES[change].done}.", to=f"{HOME}/{job_id}")


def _change_of(name: str) -> Change:
    return CHANGES[_known(name)]


def _known(change: str) -> str:
    if change not in CHANGES:
        raise RouteNotFoundError("no route has this path")
    return change


async def _listed(parts: Parts, after: str | None) -> dict[str, Any]:
    jobs, has_more = await asyncio.to_thread(parts.registry.jobs.listed, after, PAGE)
    counts = await asyncio.to_thread(parts.registry.jobs.counts)
    return {
        "jobs": jobs,
        "counts": counts,
        "kinds": KINDS,
        "next_page": jobs[-1].id if has_more else None,
        "has_worker": parts.settings.with_worker,
    }


async def _followed(parts: Parts, job_id: str) -> dict[str, Any]:
    """A job with its newest events, the curves of what they measured, and what may be done to it."""
    job, events, has_more = await asyncio.to_thread(_read_job, parts, job_id)
    measured = [event.note.data or {} for event in reversed(events) if event.note.kind == "metrics"]
    return {
        "job": job,
        "kind": KINDS.get(job.status, "warn"),
        "has_ended": job.status not in UNFINISHED,
        "waits": job.status in CLAIMABLE and job.worker is None,
        "has_worker": parts.settings.with_worker,
        "charts": charts_of(measured),
        "events": events[:SHOWN_EVENTS],
        "has_more": has_more or len(events) > SHOWN_EVENTS,
        "changes": {name: one for name, one in CHANGES.items() if job.status in one.statuses},
    }


def _read_job(parts: Parts, job_id: str) -> tuple[Job, list[JobEvent], bool]:
    jobs = parts.registry.jobs
    return jobs.get(job_id), *jobs.events(job_id, None, MAX_EVENTS)


Files = dict[str, tuple[str, bytes]]


async def _read(form: FormData) -> tuple[Files, dict[str, str]]:
    """The files by their fields, as name and content, and the fields of text."""
    files: Files = {}
    for name in ("training", "validation"):
        part = form.get(name)
        if isinstance(part, UploadFile) and part.filename:
            files[name] = (part.filename, await part.read())
    texts = {name: form.get(name) for name in (*FIELDS, "once")}
    return files, {name: value.strip() if isinstance(value, str) else "" for name, value in texts.items()}


async def _queue(view: View, files: Files, fields: dict[str, str]) -> Job:
    if "training" not in files:
        raise InvalidRequestError("choose a file of training data", param="training")
    key = f"console-{fields['once']}" if fields["once"] else None
    made = await asyncio.to_thread(view.parts.registry.jobs.made_by, key) if key else None
    if made is not None:
        return made  # the form was sent again: its files are not kept twice
    body = _body(view.parts, fields)
    body.new_job(view.parts.spec, None)  # what cannot be a job keeps no files
    ids = {}
    for name, (filename, content) in files.items():
        ids[f"{name}_file"] = (await keep_file(view.parts, filename, content)).id
    return await queue_job(view.parts, view.caller, body.model_copy(update=ids), key)


def _body(parts: Parts, fields: dict[str, str]) -> JobBody:
    """The API's body. What is left empty is the method's own. Raises InvalidRequestError."""
    if not fields["task"]:
        raise InvalidRequestError("give the task a name", param="task")
    method: dict[str, Any] = {"name": fields["method"] or METHODS[0]}
    if fields["rank"] and method["name"] != METHODS[0]:
        raise InvalidRequestError(f"rank is {METHODS[0]}'s: {method['name']} has none", param="rank")
    if fields["rank"]:
        method["rank"] = _number(fields, "rank", int)
    recipe: dict[str, Any] = {"task": {"name": fields["task"]}, "method": method}
    if fields["task_type"]:
        recipe["task"]["type"] = fields["task_type"]
    if fields["promote"]:
        recipe["promote"] = fields["promote"]
    told = {name: _number(fields, name, kind) for name, kind in NUMBERS.items() if fields[name]}
    return body_of(
        JobBody,
        {
            "model": parts.spec.name,
            "training_file": "",
            "seed": _number(fields, "seed", int) if fields["seed"] else None,
            "hyperparameters": told,
            "multigraft": recipe,
        },
    )


def _number(fields: dict[str, str], name: str, kind: Callable[[str], int | float]) -> int | float:
    try:
        return kind(fields[name])
    except ValueError:
        raise InvalidRequestError(f"{name}: {fields[name][:40]!r} is no number", param=name) from None
