"""The registry's tables. A change needs a new file in `migrations/versions/`; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, kept as naive UTC: SQLite has no time zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Table(DeclarativeBase):
    """Base of the table classes; its `metadata` is the whole schema."""


class TaskRow(Table):
    """A task. `next_number` only grows, so that a version's number is never used twice. One with `pinned_at` is to
    stay in memory. Only keys of its `tenant` see it; None: only keys without a tenant."""

    __tablename__ = "tasks"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    next_number: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    pinned_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    tenant: Mapped[str | None] = mapped_column(String(64))


class VersionRow(Table):
    """A version: an adapter's digest and manifest (canonical JSON) under a task's number.

    `retired_at` is set when it must not be served any more; the row stays, for its number and its history.
    """

    __tablename__ = "versions"
    __table_args__ = (UniqueConstraint("task", "digest", name="uq_versions_task_digest"),)

    task: Mapped[str] = mapped_column(ForeignKey("tasks.name", name="fk_versions_task"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[str] = mapped_column(String(80), index=True)
    task_type: Mapped[str] = mapped_column(String(64))
    manifest: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    retired_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class TagRow(Table):
    """A name with a value at a version."""

    __tablename__ = "tags"
    __table_args__ = (
        ForeignKeyConstraint(["task", "number"], ["versions.task", "versions.number"], name="fk_tags_version"),
    )

    task: Mapped[str] = mapped_column(String(64), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(256))


class AliasChangeRow(Table):
    """One state that an alias was set to. `parent` is the state before: the line that rollback walks.

    A split has its `weights` by version; `version` is then the heaviest.
    """

    __tablename__ = "alias_changes"
    __table_args__ = (
        ForeignKeyConstraint(
            ["task", "version"], ["versions.task", "versions.number"], name="fk_alias_changes_version"
        ),
        Index("ix_alias_changes_alias", "task", "alias"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(String(64))
    alias: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    weights: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    parent: Mapped[int | None] = mapped_column(ForeignKey("alias_changes.id", name="fk_alias_changes_parent"))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class AliasRow(Table):
    """An alias' present state: the change that it stands on. `revision` grows with every move.

    An alias that was removed keeps its row, so that no revision is ever used twice.
    """

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(["task", "version"], ["versions.task", "versions.number"], name="fk_aliases_version"),
    )

    task: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    version: Mapped[int]
    weights: Mapped[dict[str, float] | None] = mapped_column(JSON(none_as_null=True))
    revision: Mapped[int]
    change: Mapped[int] = mapped_column(ForeignKey("alias_changes.id", name="fk_aliases_change"))
    removed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class EventRow(Table):
    """Who changed what, and when."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    actor: Mapped[str] = mapped_column(String(256))
    action: Mapped[str] = mapped_column(String(64))
    task: Mapped[str] = mapped_column(String(64), index=True)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)


class ChangeCounterRow(Table):
    """One row that every writing transaction bumps, so that other processes notice."""

    __tablename__ = "change_counter"
    __table_args__ = (CheckConstraint("id = 1", name="ck_change_counter_one_row"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[int]
