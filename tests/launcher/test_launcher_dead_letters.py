"""`wireroom dead-letters` as an operator uses it, on the servers that a command starts by itself and on a broker."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import aio_pika
import psycopg
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from wireroom.cli import main
from wireroom_common.bus import topology
from wireroom_common.bus.envelope import Envelope
from wireroom_common.bus.parking import to_bytes
from wireroom_common.bus.wire import ATTEMPTS_HEADER, ERROR_HEADER, PREFIX
from wireroom_common.db import DatabaseUrl
from wireroom_common.db.migrate import bootstrap
from wireroom_common.db.schema import messaging_tables
from wireroom_common.ids import new_id
from wireroom_protos.events.v1 import events_pb2

T = TypeVar("T")
CONSUMER = "rag.articles"
SCHEMAS = ("auth", "monitoring", "news", "rag", "chat")


@dataclass
class Result:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


Wireroom = Callable[..., Result]


@pytest.fixture
def wireroom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Wireroom]:
    """The command in this process: its imports take longer than all it does here."""
    terminate = signal.getsignal(signal.SIGTERM)
    for name in [name for name in os.environ if name.startswith("WIREROOM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **environment: str) -> Result:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = main(list(arguments))
        printed = capsys.readouterr()
        return Result(status, printed.out, printed.err)

    yield run
    signal.signal(signal.SIGTERM, terminate)


def _event() -> Envelope:
    data = events_pb2.RagDocumentDeleted(document_id="the-document").SerializeToString()
    return Envelope(new_id(), "wireroom/rag", "rag.document.deleted", datetime.now(UTC), "the-document", data, tenant_id=uuid4())


@pytest.fixture
def installation(fresh_database_url: str) -> str:
    """A database in which every service has its messaging tables."""
    bootstrap(DatabaseUrl.parse(fresh_database_url), SCHEMAS)
    with psycopg.connect(fresh_database_url) as connection:
        for schema in SCHEMAS:
            for statement in messaging_tables(schema):
                connection.execute(statement.encode())
            connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO {schema}_system".encode())
    return fresh_database_url


def _audited(url: str) -> list[tuple[str, str, dict[str, object]]]:
    with psycopg.connect(url) as connection:
        rows = connection.execute("SELECT subject, actor, data, tenant_id FROM auth.outbox ORDER BY id").fetchall()
    facts = [
        (subject, actor, events_pb2.AuditRecorded.FromString(data)) for subject, actor, data, tenant in rows if tenant is None
    ]
    assert {fact.action for _, _, fact in facts} <= {"dead_letters.replayed"}
    return [(subject, actor, json.loads(fact.details_json)) for subject, actor, fact in facts]


def test_dead_deliveries_are_listed_shown_and_replayed_with_a_note_in_the_audit_trail(
    installation: str, wireroom: Wireroom
) -> None:
    events = [_event() for _ in range(3)]
    with psycopg.connect(installation) as connection:
        for event in events:
            connection.execute(
                "INSERT INTO rag.deliveries (consumer, event_id, state, envelope, attempts, next_attempt_at, error)"
                " VALUES (%s, %s, 'dead', %s, 5, now(), %s)",
                (CONSUMER, event.id, to_bytes(event), "RuntimeError: \x1b[31mred"),
            )
    environment = {"WIREROOM_DATABASE_URL": installation}
    listed = wireroom("dead-letters", "list", CONSUMER, "--limit", "2", **environment)
    assert listed.returncode == 0, listed.stderr
    first, second, more = listed.stdout.splitlines()
    assert (str(events[0].id) in first, str(events[1].id) in second, "\x1b" in listed.stdout) == (True, True, False)
    assert f"dead-letters list {CONSUMER} --skip 2 --limit 2" in more
    shown = json.loads(wireroom("dead-letters", "show", CONSUMER, str(events[2].id), **environment).stdout)
    assert shown["payload"] == {"document_id": "the-document"}
    assert (shown["tenant_id"], shown["attempts"], shown["type"]) == (str(events[2].tenant_id), 5, "rag.document.deleted")
    unknown = wireroom("dead-letters", "replay", CONSUMER, str(events[0].id), str(UUID(int=7)), **environment)
    assert (unknown.returncode, "1 dead letters" in unknown.stderr, str(UUID(int=7)) in unknown.stderr) == (1, True, True)
    everything = wireroom("dead-letters", "replay", CONSUMER, "--all", **environment)
    assert (everything.returncode, "2 dead letters" in everything.stdout) == (0, True)
    with psycopg.connect(installation) as connection:
        states = connection.execute("SELECT state, attempts FROM rag.deliveries").fetchall()
    assert states == [("retry", 0)] * 3
    notes = _audited(installation)
    assert [(subject, details["events"]) for subject, _, details in notes] == [
        (CONSUMER, [str(events[0].id), str(UUID(int=7))]),
        (CONSUMER, "all"),
    ]
    assert {actor.partition(":")[0] for _, actor, _ in notes} == {"operator"}
    nowhere = wireroom("dead-letters", "list", "no.such.place", **environment)
    assert (nowhere.returncode, f"{CONSUMER}, " in nowhere.stderr, "outbox.rag" in nowhere.stderr) == (1, True, True)


def _on_broker(url: str, work: Callable[[AbstractChannel], Coroutine[Any, Any, T]]) -> T:
    async def run() -> T:
        async with await aio_pika.connect(url) as connection:
            return await work(await connection.channel())

    return asyncio.run(run())


def test_letters_of_the_broker_go_back_to_their_consumer(installation: str, rabbitmq_url: str, wireroom: Wireroom) -> None:
    event = _event()
    attributes = {
        "specversion": "1.0",
        "id": str(event.id),
        "source": event.source,
        "type": event.type,
        "time": event.time.isoformat(),
        "tenantid": str(event.tenant_id),
    }
    headers = {f"{PREFIX}{name}": value for name, value in attributes.items()}
    names = (topology.dead_queue(CONSUMER), CONSUMER)

    async def prepare(channel: AbstractChannel) -> None:
        for name in names:
            await channel.declare_queue(name, durable=True, arguments={"x-queue-type": "quorum"})
        for extra in ({**headers, ATTEMPTS_HEADER: 5, ERROR_HEADER: "RuntimeError: no"}, {}):
            message = aio_pika.Message(event.data, headers=dict(extra), delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
            await channel.default_exchange.publish(message, routing_key=names[0])

    async def take_back(channel: AbstractChannel) -> AbstractIncomingMessage:
        queue = await channel.get_queue(CONSUMER)
        message = await queue.get(timeout=10)
        assert message is not None
        await message.ack()
        return message

    async def clean(channel: AbstractChannel) -> None:
        for name in names:
            await channel.queue_delete(name)

    environment = {"WIREROOM_DATABASE_URL": installation, "WIREROOM_BUS_URL": rabbitmq_url}
    _on_broker(rabbitmq_url, prepare)
    try:
        listed = wireroom("dead-letters", "list", CONSUMER, **environment)
        assert listed.returncode == 0, listed.stderr
        malformed, letter = listed.stdout.splitlines()
        assert ("malformed" in malformed, str(event.id) in letter, "5 attempts" in letter) == (True, True, True)
        replayed = wireroom("dead-letters", "replay", CONSUMER, "--all")
        assert (replayed.returncode, "1 dead letters" in replayed.stdout) == (0, True), replayed.stderr
        back = _on_broker(rabbitmq_url, take_back)
        assert (back.body, back.headers[f"{PREFIX}id"], back.headers[ATTEMPTS_HEADER]) == (event.data, str(event.id), 0)
        left = wireroom("dead-letters", "list", CONSUMER)
        assert ["malformed" in line for line in left.stdout.splitlines()] == [True]
        assert [details["events"] for _, _, details in _audited(installation)] == ["all"]
    finally:
        _on_broker(rabbitmq_url, clean)
