"""Alembic's entry: runs the migrations on the connection that the opener holds, in its transaction."""

from __future__ import annotations

from alembic import context

from multigraft_adapters.registry.tables import Table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
