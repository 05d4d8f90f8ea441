"""Training jobs as their callers see them: made, listed, paused, resumed, cancelled."""

from __future__ import annotations

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import ConflictError, IdempotencyConflictError
from multigraft_adapters.registry import job_reading as reading
from multigraft_adapters.registry.database import Database
from multigraft_adapters.registry.job_records import (
    CANCELLED,
    CLAIMABLE,
    PAUSED,
    QUEUED,
    STATUSES,
    UNFINISHED,
    Job,
    JobCheckpoint,
    JobEvent,
    NewJob,
    Note,
)
from multigraft_adapters.registry.job_tables import JobCheckpointRow, JobEventRow, JobRow

JOB_ID = "ftjob-"


class Jobs:
    """Training jobs by id. What a caller wants is written at once; a worker that has the job follows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, new: NewJob) -> tuple[Job, bool]:
        """A job at the end of the queue; the one that there is for the same idempotency key, and False.

        Raises FileNotStoredError when one of its files is not there, IdempotencyConflictError when the key's job
        was asked to be something else.
        """
        with self._database.writing() as session:
            known = self._known(session, new.idempotency_key)
            if known is not None:
                _check_same(known, new)
                return reading.job(known), False
            for id in filter(None, (new.training_file, new.validation_file)):
                reading.file_row(session, id)
            row = _row_of(new)
            row.created_at = reading.now_of(session)
            session.add(row)
            session.flush()
            reading.tell(session, row, Note(f"the job for task {row.task!r} is created and waits for a worker"))
            return reading.job(row), True

    def made_by(self, key: str) -> Job | None:
        """The job of an idempotency key."""
        with self._database.reading() as session:
            known = self._known(session, key)
            return None if known is None else reading.job(known)

    def get(self, id: str) -> Job:
        """One job; raises JobNotFoundError."""
        with self._database.reading() as session:
            return reading.job(reading.job_row(session, id))

    def listed(self, after: str | None = None, limit: int = 20) -> tuple[list[Job], bool]:
        """Jobs beyond the id `after`, newest first, and whether there are more. Raises JobNotFoundError."""
        with self._database.reading() as session:
            number = None if after is None else reading.job_row(session, after).number
            return reading.page(session, JobRow, select(JobRow), reading.job, after=number, limit=limit)

    def events(self, id: str, after: str | None = None, limit: int = 20) -> tuple[list[JobEvent], bool]:
        """A job's events, as `listed`."""
        number = None if after is None else reading.number_in(after, reading.EVENT_ID)
        with self._database.reading() as session:
            query = select(JobEventRow).filter_by(job=reading.job_row(session, id).id)
            return reading.page(session, JobEventRow, query, reading.job_event, after=number, limit=limit)

    def checkpoints(self, id: str, after: str | None = None, limit: int = 10) -> tuple[list[JobCheckpoint], bool]:
        """A job's checkpoints, as `listed`."""
        number = None if after is None else reading.number_in(after, reading.CHECKPOINT_ID)
        with self._database.reading() as session:
            query = select(JobCheckpointRow).filter_by(job=reading.job_row(session, id).id)
            return reading.page(
                session, JobCheckpointRow, query, reading.job_checkpoint, after=number, limit=limit
            )

    def counts(self) -> dict[str, int]:
        """How many jobs there are of every status."""
        query = select(JobRow.status, func.count()).group_by(JobRow.status)
        with self._database.reading() as session:
            found = {row[0]: row[1] for row in session.execute(query)}
        return {status: found.get(status, 0) for status in STATUSES}

    def cancel(self, id: str) -> Job:
        """Ends a job for good; again changes nothing. Raises ConflictError when it has ended otherwise."""
        with self._database.writing() as session:
            row = reading.job_row(session, id)
            if row.status != CANCELLED:
                _check(row, UNFINISHED, "cancelled")
                row.status = CANCELLED
                row.finished_at = reading.now_of(session)
                row.estimated_finish = None
                reading.tell(session, row, Note("the job was cancelled"))
            return reading.job(row)

    def pause(self, id: str) -> Job:
        """Has a job wait until it is resumed; what it trained is kept. Raises ConflictError if it has ended."""
        with self._database.writing() as session:
            row = reading.job_row(session, id)
            if row.status != PAUSED:
                _check(row, CLAIMABLE, "paused")
                row.status = PAUSED
                row.estimated_finish = None
                reading.tell(session, row, Note("the job was paused"))
            return reading.job(row)

    def resume(self, id: str) -> Job:
        """Has a paused job go on, as soon as a worker is free. Raises ConflictError when it is not paused."""
        with self._database.writing() as session:
            row = reading.job_row(session, id)
            if row.status not in CLAIMABLE:
                _check(row, (PAUSED,), "resumed")
                row.status = QUEUED
                reading.tell(session, row, Note("the job was resumed and waits for a worker"))
            return reading.job(row)

    def _known(self, session: Session, key: str | None) -> JobRow | None:
        return None if key is None else session.scalar(select(JobRow).filter_by(idempotency_key=key))


def _check_same(known: JobRow, new: NewJob) -> None:
    asked = _row_of(new)
    names = ("task", "base", "training_file", "validation_file", "request")
    changed = [name for name in names if getattr(known, name) != getattr(asked, name)]
    if changed:
        raise IdempotencyConflictError(
            f"the key made the job {known.id} of another body, whose {', '.join(changed)} differ; take a new key",
            param="Idempotency-Key",
            job=known.id,
        )


def _row_of(new: NewJob) -> JobRow:
    return JobRow(
        id=reading.new_id(JOB_ID),
        status=QUEUED,
        task=new.task,
        base=new.base,
        training_file=new.training_file,
        validation_file=new.validation_file,
        request=dict(new.request),
        idempotency_key=new.idempotency_key,
        result_files=[],
        attempts=0,
        lost=0,
    )


def _check(row: JobRow, allowed: tuple[str, ...], what: str) -> None:
    if row.status not in allowed:
        raise ConflictError(f"the job {row.id} cannot be {what}: it is {row.status}", status=row.status)
