"""Training jobs as workers see them: each is had by one at a time, by a lease that must be renewed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import LeaseLostError
from multigraft_adapters.registry import job_reading as reading
from multigraft_adapters.registry.database import Database
from multigraft_adapters.registry.files import add_file
from multigraft_adapters.registry.job_records import (
    CLAIMABLE,
    FAILED,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    VALIDATING,
    Claim,
    Note,
    StoredFile,
)
from multigraft_adapters.registry.job_tables import JobCheckpointRow, JobRow
from multigraft_adapters.registry.records import Version

MAX_LOST = 5
"""A job whose workers fell silent so often is given to no other."""


class JobLeases:
    """What a worker does with a job that it has. All but `claim` raise LeaseLostError when it has it no more.

    A lease is of `lease_s` seconds by the database's clock. The job of a worker that does not renew it in time is
    given to another.
    """

    def __init__(self, database: Database, lease_s: float) -> None:
        self._database = database
        self._lease = timedelta(seconds=lease_s)

    def claim(self, worker: str, base: str) -> Claim | None:
        """The oldest job on this base that nobody has; None where there is none."""
        with self._database.reading() as session:
            if session.scalar(_free(base, reading.now_of(session)).limit(1)) is None:
                return None  # without waiting for a writer's turn
        with self._database.writing() as session:
            now = reading.now_of(session)
            for row in session.scalars(_free(base, now)):
                if self._give(session, row, worker, now):
                    assert row.lease is not None
                    return Claim(reading.job(row), row.lease)
        return None

    def renew(self, claim: Claim) -> str:
        """Keeps the job for another `lease_s`, and says its status: what is not claimable is to be stopped.

        One that was paused and resumed meanwhile is running again.
        """
        with self._held(claim) as (session, row):
            row.leased_until = reading.now_of(session) + self._lease
            if row.status == QUEUED:
                row.status = RUNNING
            return row.status

    def status(self, claim: Claim) -> str:
        """The job's status, without renewing."""
        with self._database.reading() as session:
            row = reading.job_row(session, claim.job.id)
            _check(row, claim)
            return row.status

    def tell(
        self, claim: Claim, *notes: Note, running: bool = False, estimated_finish: datetime | None = None
    ) -> None:
        """Leaves events; with `running`, a job whose files are sound is running from now on."""
        with self._held(claim) as (session, row):
            if running and row.status == VALIDATING:
                row.status = RUNNING
            if estimated_finish is not None:
                row.estimated_finish = estimated_finish
            reading.tell(session, row, *notes)

    def add_checkpoint(self, claim: Claim, step: int, metrics: Mapping[str, Any]) -> None:
        """Notes a state that the job can go on from; one at a step that there is already changes nothing."""
        with self._held(claim) as (session, row):
            if session.scalar(select(JobCheckpointRow).filter_by(job=row.id, step=step)) is None:
                at = reading.now_of(session)
                session.add(JobCheckpointRow(job=row.id, step=step, metrics=dict(metrics), at=at))

    def release(self, claim: Claim, *notes: Note, lost: bool = False) -> None:
        """Gives the job up, for whoever takes it next, if it is to go on; `lost` counts like a silent worker."""
        with self._held(claim) as (session, row):
            row.lost += lost
            if row.status in CLAIMABLE:
                row.status = QUEUED
            row.lease = row.leased_until = row.worker = row.estimated_finish = None
            reading.tell(session, row, *notes)

    def fail(self, claim: Claim, error: Mapping[str, Any]) -> None:
        """Ends the job with an error of `code`, `message` and `param`."""
        with self._held(claim) as (session, row):
            _end(session, row, FAILED)
            row.error = dict(error)
            reading.tell(session, row, Note(str(error["message"]), "error"))

    def succeed(
        self, claim: Claim, trained_tokens: int | None, results: Sequence[StoredFile], *notes: Note
    ) -> Callable[[Session, Version], None]:
        """What ends the job well, in the transaction that registers the version that it made."""

        def end(session: Session, version: Version) -> None:
            row = reading.job_row(session, claim.job.id)
            _check(row, claim)
            if row.status not in CLAIMABLE:
                raise LeaseLostError(f"the job {row.id} is {row.status}")
            _end(session, row, SUCCEEDED)
            row.trained_tokens = trained_tokens
            row.fine_tuned_model = f"{version.task}@{version.number}"
            row.result_files = [add_file(session, file).id for file in results]
            made = Note(f"the job is done: it made {row.fine_tuned_model}", data={"digest": version.digest})
            reading.tell(session, row, *notes, made)

        return end

    def _give(self, session: Session, row: JobRow, worker: str, now: datetime) -> bool:
        """Give the job to a worker, unless too many were lost with it; then it has failed."""
        notes = []
        if row.lease is not None:
            row.lost += 1
            notes.append(Note(f"the worker {row.worker} fell silent; another takes the job", "warn"))
        if row.lost >= MAX_LOST:
            _end(session, row, FAILED)
            message = f"{row.lost} times its worker or its training was killed; it is not tried again"
            row.error = {"code": "training_failed", "message": message, "param": None}
            reading.tell(session, row, *notes, Note(message, "error"))
            return False
        row.lease, row.worker, row.leased_until = uuid.uuid4().hex, worker, now + self._lease
        row.attempts += 1
        row.status = VALIDATING
        reading.tell(session, row, *notes, Note(f"the worker {worker} has taken the job and checks its files"))
        return True

    @contextmanager
    def _held(self, claim: Claim) -> Iterator[tuple[Session, JobRow]]:
        with self._database.writing() as session:
            row = reading.job_row(session, claim.job.id)
            _check(row, claim)
            yield session, row


def _free(base: str, now: datetime) -> Select[Any]:
    """The jobs that a worker may take, oldest first."""
    free = or_(JobRow.lease.is_(None), JobRow.leased_until < now)
    return select(JobRow).where(JobRow.status.in_(CLAIMABLE), JobRow.base == base, free).order_by(JobRow.number)


def _check(row: JobRow, claim: Claim) -> None:
    """The token says it: an expired lease that nobody else has taken is still the worker's."""
    if row.lease != claim.lease:
        raise LeaseLostError(f"the job {row.id} is no longer this worker's")


def _end(session: Session, row: JobRow, status: str) -> None:
    row.status = status
    row.finished_at = reading.now_of(session)
    row.lease = row.leased_until = row.estimated_finish = None
