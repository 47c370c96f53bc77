"""Alembic's entry: the connection, the lock and the schema come from the caller."""

from wireroom_common.db.migrate import run_env

run_env()
