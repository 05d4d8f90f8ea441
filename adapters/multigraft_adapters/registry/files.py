"""Uploaded files as the registry knows them; their content is in the store's blobs."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from multigraft_adapters.errors import ConflictError
from multigraft_adapters.registry import job_reading as reading
from multigraft_adapters.registry.database import Database
from multigraft_adapters.registry.job_records import UNFINISHED, StoredFile
from multigraft_adapters.registry.job_tables import FileRow, JobRow

FILE_ID = "file-"


def new_file(digest: str, filename: str, purpose: str, num_bytes: int) -> StoredFile:
    """A file with an id of its own, to be stored and then registered."""
    return StoredFile(reading.new_id(FILE_ID), digest, filename, purpose, num_bytes, datetime.now(UTC))


class Files:
    """Files by id. The content is put into the store before `add` and deleted after `delete`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, file: StoredFile) -> StoredFile:
        """Registers a file that `new_file` made, whose content is stored."""
        with self._database.writing() as session:
            return add_file(session, file)

    def get(self, id: str) -> StoredFile:
        """One file; raises FileNotStoredError."""
        with self._database.reading() as session:
            return reading.stored_file(reading.file_row(session, id))

    def listed(
        self, purpose: str | None = None, after: str | None = None, limit: int = 100, oldest_first: bool = False
    ) -> tuple[list[StoredFile], bool]:
        """Files beyond the id `after`, newest first, and whether there are more. Raises FileNotStoredError."""
        query = select(FileRow)
        if purpose is not None:
            query = query.filter_by(purpose=purpose)
        with self._database.reading() as session:
            number = None if after is None else reading.file_row(session, after).number
            return reading.page(
                session,
                FileRow,
                query,
                reading.stored_file,
                after=number,
                limit=limit,
                oldest_first=oldest_first,
            )

    def delete(self, id: str) -> StoredFile:
        """Forgets a file. Raises FileNotStoredError, ConflictError while a job that has not ended needs it."""
        with self._database.writing() as session:
            row = reading.file_row(session, id)
            needs = or_(JobRow.training_file == id, JobRow.validation_file == id)
            job = session.scalar(select(JobRow.id).where(needs, JobRow.status.in_(UNFINISHED)).limit(1))
            if job is not None:
                raise ConflictError(
                    f"the file {id} is needed by the job {job}, which has not ended; cancel it first"
                )
            found = reading.stored_file(row)
            session.delete(row)
            return found


def add_file(session: Session, file: StoredFile) -> StoredFile:
    """`Files.add` within a transaction."""
    row = FileRow(
        id=file.id,
        digest=file.digest,
        filename=file.filename,
        purpose=file.purpose,
        num_bytes=file.num_bytes,
        created_at=reading.now_of(session),
    )
    session.add(row)
    session.flush()
    return reading.stored_file(row)
