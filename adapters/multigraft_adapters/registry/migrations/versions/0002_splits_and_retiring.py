"""Splits of aliases by weight, removed aliases, retired versions, tags."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("retired_at", sa.DateTime))
    op.add_column("alias_changes", sa.Column("weights", sa.JSON))
    op.add_column("aliases", sa.Column("weights", sa.JSON))
    op.add_column("aliases", sa.Column("removed_at", sa.DateTime))
    op.create_table(
        "tags",
        sa.Column("task", sa.String(64), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.String(256), nullable=False),
        sa.ForeignKeyConstraint(["task", "number"], ["versions.task", "versions.number"], name="fk_tags_version"),
    )
