"""Migrations run once, however many processes start them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg

from wireroom.roles import SCHEMAS

REPLICAS = 4


def test_concurrent_migrations_of_an_empty_database_agree(fresh_database_url: str, tmp_path: Path) -> None:
    environment = os.environ | {"WIREROOM_DATABASE_URL": fresh_database_url, "WIREROOM_DATABASE_ADMIN_URL": fresh_database_url}
    command = [sys.executable, "-m", "wireroom", "migrate"]
    processes = [
        subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(REPLICAS)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 0, output.decode()
    with psycopg.connect(fresh_database_url) as connection:
        for schema in SCHEMAS:
            assert connection.execute(f"SELECT count(*) FROM {schema}.alembic_version").fetchone() == (1,)  # noqa: S608 - a constant
            forced = connection.execute(
                "SELECT relname::text FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p')"
                " AND NOT relispartition AND NOT (relrowsecurity AND relforcerowsecurity)",
                (schema,),
            ).fetchall()
            assert forced == [("alembic_version",)]
