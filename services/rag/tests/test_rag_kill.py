"""kill -9 of the worker's process while jobs stand in every state. The queue is the database: no broker has a part in it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import pytest_asyncio
from rag_servers import Clamd

from wireroom_common.db import DatabaseUrl
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import rag_pb2

STATES = ("received", "scanned", "extracted", "chunked", "embedded")
LOCK = 471_100_815
# A version named after a state waits for the lock before it leaves that state.
STALL = f"""
    CREATE FUNCTION rag.stall() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.state <> OLD.state AND NEW.title = OLD.state || '.txt' THEN PERFORM pg_advisory_xact_lock({LOCK}); END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER stall BEFORE UPDATE ON rag.document_versions FOR EACH ROW EXECUTE FUNCTION rag.stall();
"""

StartWorker = Callable[[], psutil.Process]


@pytest.fixture
def start_worker(rag_database: Any, fresh_database_url: str, model_files: Any, tmp_path: Path) -> Iterator[StartWorker]:
    """A process of the service; all of them are killed in the end."""
    folder = tmp_path / "clamd"
    folder.mkdir()
    clamd = Clamd(folder)
    clamd.start()
    settings = {
        "clamd": clamd.address,
        "extraction_processes": len(STATES) + 1,
        "lease_seconds": 3,
        "heartbeat_seconds": 0.5,
    }
    started: list[subprocess.Popen[bytes]] = []

    def start() -> psutil.Process:
        script = str(Path(__file__).with_name("rag_worker_process.py"))
        command = [sys.executable, script, fresh_database_url, str(tmp_path), str(model_files.directory), json.dumps(settings)]
        started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))
        return psutil.Process(started[-1].pid)

    yield start
    for process in started:
        process.kill()
        process.wait(10)
    clamd.stop()


@pytest_asyncio.fixture
async def stall(rag_database: Any, fresh_database_url: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """A connection that holds the lock; versions wait for it."""
    url = DatabaseUrl.parse(fresh_database_url).url.set(drivername="postgresql").render_as_string(hide_password=False)
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(STALL)
        await connection.execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        yield connection


async def test_every_job_of_a_killed_process_ends_indexed_once_whatever_its_state(
    start_rag: Any, start_worker: StartWorker, stall: psycopg.AsyncConnection[Any]
) -> None:
    rag = await start_rag()
    # This process takes uploads only: its worker does not run.
    await rag.service.stop()
    user = rag.user()
    documents = {}
    for state in STATES:
        text = "".join(
            f"Paragraph {number} of the {state} ledger counts {number * 7} barrels of tar.\n\n" for number in range(60)
        )
        documents[state] = (await rag.upload(user, f"{state}.txt", text.encode())).id
    victim = start_worker()

    async def standing() -> bool:
        rows = await rag.rows(user.tenant_id, "SELECT title, state FROM document_versions")
        return all(row.title == f"{row.state}.txt" for row in rows)

    await eventually(standing, within=60, what="a job in each state")
    children = victim.children(recursive=True)
    assert children
    victim.kill()
    victim.wait(10)
    killed = time.monotonic()
    await eventually(lambda: not any(child.is_running() for child in children), what="no process of it left")
    await stall.execute("SELECT pg_advisory_unlock(%s)", (LOCK,))
    start_worker()
    for document_id in documents.values():
        document = await rag.processed(user, document_id, within=60)
        assert (document.state, document.reason_code) == (rag_pb2.DOCUMENT_STATE_INDEXED, "")
        assert document.chunks > 1
    assert time.monotonic() - killed < 60
    (counts,) = await rag.rows(
        user.tenant_id,
        "SELECT count(*) AS chunks, count(DISTINCT (document_id, start_at)) AS places, (SELECT sum(chunks) FROM document_versions) AS"
        " claimed, (SELECT sum(chunks) FROM index_statistics) AS counted FROM chunks",
    )
    assert counts.chunks == counts.places == counts.claimed == counts.counted
    events = await rag.events()
    assert (events.count("rag.document.indexed"), events.count("rag.document.failed")) == (len(STATES), 0)
