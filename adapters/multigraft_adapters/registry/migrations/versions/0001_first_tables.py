"""The first tables: tasks, versions, aliases with their history, events, the change counter."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tasks",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("next_number", sa.Integer, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("task", sa.String(64), sa.ForeignKey("tasks.name", name="fk_versions_task"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("digest", sa.String(80), nullable=False, index=True),
        sa.Column("task_type", sa.String(64), nullable=False),
        sa.Column("manifest", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("task", "digest", name="uq_versions_task_digest"),
    )
    op.create_table(
        "alias_changes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("task", sa.String(64), nullable=False),
        sa.Column("alias", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("parent", sa.Integer, sa.ForeignKey("alias_changes.id", name="fk_alias_changes_parent")),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.ForeignKeyConstraint(
            ["task", "version"], ["versions.task", "versions.number"], name="fk_alias_changes_version"
        ),
    )
    op.create_index("ix_alias_changes_alias", "alias_changes", ["task", "alias"])
    op.create_table(
        "aliases",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column(
            "change", sa.Integer, sa.ForeignKey("alias_changes.id", name="fk_aliases_change"), nullable=False
        ),
        sa.ForeignKeyConstraint(
            ["task", "version"], ["versions.task", "versions.number"], name="fk_aliases_version"
        ),
    )
    op.create_table(
        "events",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("actor", sa.String(256), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("task", sa.String(64), nullable=False, index=True),
        sa.Column("detail", sa.JSON, nullable=False),
    )
    counter = op.create_table(
        "change_counter",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("value", sa.Integer, nullable=False),
        sa.CheckConstraint("id = 1", name="ck_change_counter_one_row"),
    )
    op.bulk_insert(counter, [{"id": 1, "value": 0}])
