"""Rows of files and jobs: finding them, pages of them, and records made of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import FileNotStoredError, InvalidRequestError, JobNotFoundError
from multigraft_adapters.registry.job_records import Job, JobCheckpoint, JobEvent, Note, StoredFile
from multigraft_adapters.registry.job_tables import FileRow, JobCheckpointRow, JobEventRow, JobRow
from multigraft_adapters.registry.names import is_name

Row = TypeVar("Row", FileRow, JobRow, JobEventRow, JobCheckpointRow)
Record = TypeVar("Record")

EVENT_ID = "ftevent-"
CHECKPOINT_ID = "ftckpt-"


def new_id(prefix: str) -> str:
    """An id that nobody guesses, such as `file-<32 hex digits>`."""
    return f"{prefix}{uuid.uuid4().hex}"


def now_of(session: Session) -> datetime:
    """The database's clock, by which leases are: processes that share a server may run on several machines."""
    if session.get_bind().dialect.name == "postgresql":
        at = session.scalar(select(func.clock_timestamp()))
        assert isinstance(at, datetime)
        return at.astimezone(UTC)
    return datetime.now(UTC)


def file_row(session: Session, id: str) -> FileRow:
    """The file's row; raises FileNotStoredError."""
    row = session.scalar(select(FileRow).filter_by(id=id)) if is_name(id) else None
    if row is None:
        raise FileNotStoredError(f"no file has the id {id[:80]!r}", param="file_id")
    return row


def job_row(session: Session, id: str) -> JobRow:
    """The job's row; raises JobNotFoundError."""
    row = session.scalar(select(JobRow).filter_by(id=id)) if is_name(id) else None
    if row is None:
        raise JobNotFoundError(f"no training job has the id {id[:80]!r}", param="fine_tuning_job_id")
    return row


def page(
    session: Session,
    kind: type[Row],
    query: Select[Any],
    read: Callable[[Row], Record],
    *,
    after: int | None,
    limit: int,
    oldest_first: bool = False,
) -> tuple[list[Record], bool]:
    """Up to `limit` rows beyond the number `after`, newest first, and whether there are more."""
    if after is not None:
        query = query.where(kind.number > after if oldest_first else kind.number < after)
    query = query.order_by(kind.number.asc() if oldest_first else kind.number.desc()).limit(limit + 1)
    found = [read(row) for row in session.scalars(query)]
    return found[:limit], len(found) > limit


def number_in(id: str, prefix: str) -> int:
    """The row's number in the id of an event or a checkpoint; raises InvalidRequestError (param `after`)."""
    digits = id.removeprefix(prefix)
    if not (id.startswith(prefix) and digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise InvalidRequestError(f"after: {id[:80]!r} is no id of this list", param="after")
    return int(digits)


def stored_file(row: FileRow) -> StoredFile:
    return StoredFile(row.id, row.digest, row.filename, row.purpose, row.num_bytes, row.created_at)


def job(row: JobRow) -> Job:
    return Job(
        id=row.id,
        status=row.status,
        task=row.task,
        base=row.base,
        training_file=row.training_file,
        validation_file=row.validation_file,
        request=row.request,
        created_at=row.created_at,
        finished_at=row.finished_at,
        estimated_finish=row.estimated_finish,
        trained_tokens=row.trained_tokens,
        fine_tuned_model=row.fine_tuned_model,
        result_files=tuple(row.result_files),
        error=row.error,
        worker=row.worker,
        attempts=row.attempts,
    )


def job_event(row: JobEventRow) -> JobEvent:
    return JobEvent(f"{EVENT_ID}{row.number}", row.at, Note(row.message, row.level, row.kind, row.data))


def job_checkpoint(row: JobCheckpointRow) -> JobCheckpoint:
    return JobCheckpoint(f"{CHECKPOINT_ID}{row.number}", row.job, row.step, row.metrics, row.at)


def tell(session: Session, row: JobRow, *notes: Note) -> None:
    """Leave events of a job, in order."""
    now = now_of(session)
    for note in notes:
        data = None if note.data is None else dict(note.data)
        told = {"level": note.level, "kind": note.kind, "message": note.message, "data": data}
        session.add(JobEventRow(job=row.id, at=now, **told))
        session.flush()
