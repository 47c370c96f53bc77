"""Alembic environment."""

from wireroom_common.db.migrate import run_env

run_env()
