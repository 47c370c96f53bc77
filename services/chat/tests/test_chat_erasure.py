"""Erasure of what users have in chat, and what they take along."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from chat_harness import TENANT, USER, chat_under_test
from session_rig import COLLEAGUE, OWNER, Chatting
from sqlalchemy import text

from wireroom_chat.adapters.responses_sql import SqlResponses
from wireroom_chat.ports.responses import Owner, StoredResponse
from wireroom_common.bus import Envelope, event_type
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import set_current_principal
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import privacy_pb2, privacy_pb2_grpc
from wireroom_protos.events.v1 import events_pb2


@pytest_asyncio.fixture
async def chatting(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[Chatting]:
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, "local", [], with_provider=False) as chat:
        yield Chatting(chat)


async def erase(chatting: Chatting, user: UUID | None, erasure_id: UUID | None = None) -> UUID:
    wanted = erasure_id or uuid4()
    event = events_pb2.PrivacyErasureRequested(erasure_id=str(wanted), user_id=str(user or ""))
    subscription = next(entry for entry in chatting.chat.service.subscriptions if entry.consumer == "chat.erasure")
    assert subscription.work is not None
    envelope = Envelope(
        uuid4(), "auth", event_type(event), datetime.now(UTC), str(wanted), event.SerializeToString(), tenant_id=TENANT
    )
    async with chatting.chat.database.tenant(TENANT) as connection:
        await subscription.work(connection, envelope)
    return wanted


async def answers(chatting: Chatting) -> list[Any]:
    rows = await chatting.events("privacy.erasure.part_done")
    return [events_pb2.PrivacyErasurePartDone.FromString(bytes(row.data)) for row in rows]


async def left(chatting: Chatting) -> dict[str, int]:
    tables = ("sessions", "messages", "feedback", "responses", "artefacts")
    async with chatting.chat.database.tenant(TENANT) as connection:
        return {
            table: (await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one()  # noqa: S608 - constants
            for table in tables
        }


async def filled(chatting: Chatting) -> None:
    """A session with an empty turn's worth of rows, a response and an artefact of the user."""
    session = (await chatting.call("CreateSession", title="The heron")).session
    async with chatting.chat.database.tenant(TENANT) as connection:
        message = new_id()
        await connection.execute(
            text(
                "INSERT INTO messages (tenant_id, id, session_id, owner_id, number, role, content, status, created_at, finished_at)"
                " VALUES (:tenant, :id, :session, :owner, 1, 'user', 'Where is the heron?', 'completed', now(), now())"
            ),
            {"tenant": TENANT, "id": message, "session": UUID(session.id), "owner": USER},
        )
        await connection.execute(
            text(
                "INSERT INTO feedback (tenant_id, message_id, user_id, score, comment, created_at)"
                " VALUES (:tenant, :id, :owner, 1, 'heron', now())"
            ),
            {"tenant": TENANT, "id": message, "owner": USER},
        )
        await connection.execute(
            text(
                "INSERT INTO artefacts (tenant_id, id, user_id, name, media_type, data, created_at, expires_at)"
                " VALUES (:tenant, :id, :owner, 'heron.pdf', 'application/pdf', 'x', now(), now() + interval '1 day')"
            ),
            {"tenant": TENANT, "id": new_id(), "owner": USER},
        )
    store = SqlResponses(chatting.chat.database)
    long = json.dumps([{"text": "heron " * 300_000}]).encode()
    await store.add(Owner(TENANT, USER), StoredResponse(new_id(), None, datetime.now(UTC), long, b"{}"))


async def test_a_user_goes_and_is_told_of_when_all_is_gone(chatting: Chatting) -> None:
    await filled(chatting)
    await chatting.by(COLLEAGUE).call("CreateSession", title="Theirs")
    erasure_id = await erase(chatting, USER)
    assert await answers(chatting) == []
    assert (await chatting.call("ListSessions")).sessions == []
    with pytest.raises(WireroomError) as refused:
        await chatting.call("CreateSession", title="Again")
    assert (refused.value.kind, refused.value.code) == (ErrorKind.FORBIDDEN, "owner_erased")
    await chatting.periodic("erase-users")()
    assert await left(chatting) == {"sessions": 1, "messages": 0, "feedback": 0, "responses": 0, "artefacts": 0}
    (done,) = await answers(chatting)
    expected = {"sessions": 1, "messages": 1, "feedback": 1, "responses": 1, "artefacts": 1, "budgets": 0}
    assert (done.part, done.erasure_id, dict(done.counts)) == ("chat", str(erasure_id), expected)
    await chatting.periodic("erase-users")()
    await erase(chatting, USER, erasure_id)
    assert await answers(chatting) == [done, done]


async def test_a_tenant_keeps_no_text(chatting: Chatting) -> None:
    await filled(chatting)
    await chatting.by(COLLEAGUE).call("CreateSession", title="Theirs")
    async with chatting.chat.database.tenant(TENANT) as connection:
        await connection.execute(
            text(
                "INSERT INTO assistants (tenant_id, name, weights, last_version, created_at, updated_at)"
                " VALUES (:id, 'clerk', '{}', 1, now(), now())"
            ),
            {"id": TENANT},
        )
    await erase(chatting, None)
    await chatting.periodic("erase-users")()
    assert set((await left(chatting)).values()) == {0}
    async with chatting.chat.database.tenant(TENANT) as connection:
        assert (await connection.execute(text("SELECT 1 FROM assistants"))).all() == []
    assert len(await answers(chatting)) == 1


async def test_what_a_user_takes_along(chatting: Chatting) -> None:
    await filled(chatting)
    await chatting.by(COLLEAGUE).call("CreateSession", title="Theirs")
    stub: Any = privacy_pb2_grpc.TextExportServiceStub(chatting.chat.channel)
    set_current_principal(replace(OWNER, permissions=OWNER.permissions | {"privacy:erase:self"}))
    texts: dict[str, str] = {}
    pieces = 0
    async for entry in stub.ExportTexts(privacy_pb2.ExportTextsRequest(), timeout=20):
        texts[entry.list] = texts.get(entry.list, "") + entry.json.decode()
        pieces += entry.more
    assert list(texts) == ["sessions", "messages", "feedback", "responses", "artefacts"]
    assert pieces > 0
    parsed = {name: json.loads(found) for name, found in texts.items()}
    assert parsed["sessions"]["title"] == "The heron"
    assert parsed["messages"]["content"] == "Where is the heron?"
    assert json.loads(parsed["responses"]["items"])[0]["text"].startswith("heron heron")
    set_current_principal(OWNER)
    with pytest.raises(WireroomError) as refused:
        [entry async for entry in stub.ExportTexts(privacy_pb2.ExportTextsRequest(), timeout=20)]
    assert refused.value.kind is ErrorKind.FORBIDDEN


async def test_nothing_is_left_out_between_pages_of_large_texts(chatting: Chatting) -> None:
    store = SqlResponses(chatting.chat.database)
    ids = [new_id() for _ in range(9)]
    for identity in ids:
        await store.add(Owner(TENANT, USER), StoredResponse(identity, None, datetime.now(UTC), b"[]", b"{}"))
    stub: Any = privacy_pb2_grpc.TextExportServiceStub(chatting.chat.channel)
    set_current_principal(replace(OWNER, permissions=OWNER.permissions | {"privacy:erase:self"}))
    entries = [entry async for entry in stub.ExportTexts(privacy_pb2.ExportTextsRequest(), timeout=20)]
    assert [json.loads(entry.json)["id"] for entry in entries] == sorted(map(str, ids))
