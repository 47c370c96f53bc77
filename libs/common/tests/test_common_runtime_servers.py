"""The servers from wheels: kept across restarts, adopted when their parent was killed."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from wireroom_common.runtime.embedded import EmbeddedPostgres, EmbeddedValkey


@pytest.fixture
def data_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="wrsrv"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


def test_postgres_keeps_rows_and_has_vectors(data_dir: Path) -> None:
    server = EmbeddedPostgres(data_dir)
    admin = server.admin_url(server.start())
    with psycopg.connect(admin) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE TABLE kept AS SELECT '[1,2]'::vector AS v")
    leftover = EmbeddedPostgres(data_dir)
    assert leftover.admin_url(leftover.start()) == admin
    server.stop()
    again = EmbeddedPostgres(data_dir)
    try:
        with psycopg.connect(again.admin_url(again.start())) as connection:
            assert connection.execute("SELECT v <-> '[1,2]' FROM kept").fetchone() == (0.0,)
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
    finally:
        again.stop()


def test_postgres_folder_of_another_version_is_refused(data_dir: Path) -> None:
    (data_dir / "postgresql").mkdir()
    (data_dir / "postgresql" / "PG_VERSION").write_text("15\n")
    with pytest.raises(RuntimeError, match="PostgreSQL 15"):
        EmbeddedPostgres(data_dir).start()


def test_valkey_keeps_keys_and_is_adopted(data_dir: Path) -> None:
    server = EmbeddedValkey(data_dir)
    url = server.start()
    with redis.Redis.from_url(url) as client:
        client.set("kept", "yes")
    adopted = EmbeddedValkey(data_dir)
    assert adopted.start() == url
    adopted.stop()
    again = EmbeddedValkey(data_dir)
    try:
        with redis.Redis.from_url(again.start()) as client:
            assert client.get("kept") == b"yes"
    finally:
        again.stop()
