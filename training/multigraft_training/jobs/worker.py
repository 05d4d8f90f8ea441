"""The worker: takes jobs from the registry, one at a time, until it is told to end."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from multigraft_adapters.bases import check_data_dir, read_spec, resolve_base
from multigraft_adapters.bases.resolve import base_display_name
from multigraft_adapters.errors import RegistryUnavailableError
from multigraft_adapters.registry import Claim, Registry
from multigraft_adapters.store import open_store
from multigraft_training.jobs.attempt import Attempt, Workplace, clean_ended

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Between two looks for a job that nobody has."""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the command was told; `once` ends the worker when no job is left."""

    base: str
    data_dir: Path
    store_url: str | None
    registry_url: str | None
    lease_s: float
    name: str | None
    once: bool


def work(options: WorkerOptions, stop: Event) -> int:
    """Do jobs until `stop` is set; how many attempts were made.

    Raises a SetupError when the base, the data folder, the store or the registry cannot be used.
    """
    data_dir = check_data_dir(options.data_dir).resolve()
    store = open_store(data_dir, options.store_url)
    base = _absolute(options.base)
    name = base_display_name(base)
    spec = read_spec(name, resolve_base(base, data_dir))
    registry = Registry.open(options.registry_url or data_dir, name)
    leases = registry.job_leases(options.lease_s)
    worker = options.name or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
    shares_folder = options.store_url is None
    place = Workplace(registry, leases, store, spec, base, data_dir, options.lease_s, shares_folder, stop)
    try:
        clean_ended(registry, data_dir)
        return _work(place, worker, options.once)
    finally:
        registry.close()


def _work(place: Workplace, worker: str, once: bool) -> int:
    attempts = 0
    while not place.stop.is_set():
        try:
            claim = place.leases.claim(worker, place.spec.name)
            if claim is not None:
                attempts += 1
                _attempt(place, claim)
                continue
        except RegistryUnavailableError as error:
            logger.warning("%s; the worker waits for it", error.message)
            place.stop.wait(POLL_SECONDS)
            continue
        if once:
            break
        place.stop.wait(POLL_SECONDS)
    return attempts


def _attempt(place: Workplace, claim: Claim) -> None:
    """Make an attempt at a job, and tell the log of it, with what the registry then says of the job."""
    told = {"job": claim.job.id, "task": claim.job.task, "attempt": claim.job.attempts}
    logger.info("attempt-begins", extra={"told": told})
    begun = time.monotonic()
    Attempt(place, claim).run()
    job = place.registry.jobs.get(claim.job.id)
    told |= {
        "seconds": round(time.monotonic() - begun, 3),
        "status": job.status,
        "fine_tuned_model": job.fine_tuned_model,
        "error": job.error["code"] if job.error else None,
    }
    logger.info("attempt-ends", extra={"told": told})


def _absolute(base: str) -> str:
    """A folder by its whole path, since training processes may run elsewhere."""
    return str(Path(base).resolve()) if Path(base).is_dir() else base
