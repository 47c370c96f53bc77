"""Alembic's entry point for the schema `auth`."""

from wireroom_common.db.migrate import run_env

run_env()
