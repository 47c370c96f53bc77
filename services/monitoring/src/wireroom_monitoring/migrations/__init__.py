"""Alembic revisions of the monitoring schema."""
