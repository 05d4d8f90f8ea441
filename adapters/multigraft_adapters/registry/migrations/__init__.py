"""Alembic's environment and the registry's migrations, run by `registry.database` when it opens the file."""
