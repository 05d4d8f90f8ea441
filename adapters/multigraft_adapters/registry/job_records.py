"""What the registry answers of files and training jobs: plain, frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

QUEUED: Final = "queued"
VALIDATING: Final = "validating_files"
RUNNING: Final = "running"
PAUSED: Final = "paused"
SUCCEEDED: Final = "succeeded"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
STATUSES = (QUEUED, VALIDATING, RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED)
CLAIMABLE = (QUEUED, VALIDATING, RUNNING)
"""Of these a worker may take one that no other has."""
UNFINISHED = (*CLAIMABLE, PAUSED)

FINE_TUNE: Final = "fine-tune"
RESULTS: Final = "fine-tune-results"
PURPOSES = (FINE_TUNE, RESULTS)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file by its id. The store's blobs keep its content under `key`."""

    id: str
    digest: str
    filename: str
    purpose: str
    num_bytes: int
    created_at: datetime

    @property
    def key(self) -> str:
        """By content, and a copy of each file's own: deleting one never meets the upload of another."""
        return f"files/{self.digest.removeprefix('sha256:')}/{self.id}"


@dataclass(frozen=True, slots=True)
class NewJob:
    """What a job is asked to be. `request` holds what else the caller gave, as the worker reads it."""

    task: str
    base: str
    training_file: str
    validation_file: str | None
    request: Mapping[str, Any] = field(hash=False)
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A training job. Times are in UTC. `error` has `code`, `message` and `param`."""

    id: str
    status: str
    task: str
    base: str
    training_file: str
    validation_file: str | None
    request: Mapping[str, Any] = field(hash=False, repr=False)
    created_at: datetime
    finished_at: datetime | None
    estimated_finish: datetime | None
    trained_tokens: int | None
    fine_tuned_model: str | None
    result_files: tuple[str, ...]
    error: Mapping[str, Any] | None = field(hash=False)
    worker: str | None
    attempts: int


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker has, and the lease by which it has it."""

    job: Job
    lease: str


@dataclass(frozen=True, slots=True)
class Note:
    """An event to be: `kind` is `message` or `metrics`, the latter with numbers in `data`."""

    message: str
    level: str = "info"
    kind: str = "message"
    data: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class JobEvent:
    """What happened in a job, and when (UTC)."""

    id: str
    at: datetime
    note: Note


@dataclass(frozen=True, slots=True)
class JobCheckpoint:
    """A state from which a job can go on, at a step of its training."""

    id: str
    job: str
    step: int
    metrics: Mapping[str, Any] = field(hash=False)
    at: datetime
