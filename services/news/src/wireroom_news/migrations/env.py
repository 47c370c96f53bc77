"""Run by alembic."""

from wireroom_common.db.migrate import run_env

run_env()
