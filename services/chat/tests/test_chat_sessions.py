"""Sessions: made, read, changed, deleted, searched, kept apart."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import pytest
import pytest_asyncio
from chat_harness import TENANT, USER, chat_under_test, passage
from session_rig import ADMIN, COLLEAGUE, OWNER, STRANGER, Chatting

from wireroom_chat.domain.sessions import checked_title, clean_text, title_of
from wireroom_common.bus.envelope import Envelope
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.events.v1 import events_pb2

PASSAGES = [
    passage(
        1, "The Aurora pump delivers 14 litres per minute. Its motor draws 450 watts.", title="Aurora manual", dense_score=0.62
    )
]


@pytest_asyncio.fixture
async def chatting(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[Chatting]:
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, "local", PASSAGES, with_provider=False, session_retention_days=30) as chat:
        yield Chatting(chat)


async def new(chatting: Chatting, **members: object) -> str:
    return str((await chatting.call("CreateSession", **members)).session.id)


async def test_session_is_made_read_changed_and_deleted(chatting: Chatting) -> None:
    made = (await chatting.call("CreateSession", title="Pumps  and\nmore", grounding=b'{"sources":["docs"]}')).session
    assert (made.title, made.model, made.version, made.message_count) == ("Pumps and more", "grounded", 1, 0)
    assert made.owner_id == str(USER)
    changed = (
        await chatting.call("UpdateSession", id=made.id, title="Wells", archived=True, grounding=b"", version=made.version)
    ).session
    assert (changed.title, changed.archived, changed.grounding, changed.version) == ("Wells", True, b"", 2)
    read = (await chatting.call("GetSession", id=made.id)).session
    assert read == changed
    with pytest.raises(WireroomError) as caught:
        await chatting.call("UpdateSession", id=made.id, title="Late", version=1)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.CONFLICT, "version_conflict")
    await chatting.call("DeleteSession", id=made.id)
    with pytest.raises(WireroomError) as caught:
        await chatting.call("GetSession", id=made.id)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.NOT_FOUND, "session_not_found")
    told = await chatting.events("chat.session.created", "chat.session.deleted")
    assert [(row.type, row.subject) for row in told] == [("chat.session.created", made.id), ("chat.session.deleted", made.id)]
    assert events_pb2.ChatSessionDeleted.FromString(bytes(told[1].data)).reason == "owner"


async def test_deleting_leaves_no_text(chatting: Chatting) -> None:
    turn = await chatting.send("How many litres per minute does the Aurora pump deliver?")
    await chatting.call("AddFeedback", message_id=turn.message_id, score=1, comment="yes")
    await chatting.call("DeleteSession", id=turn.session_id)
    async with chatting.chat.database.tenant(TENANT) as connection:
        for table in ("sessions", "messages", "feedback"):
            count = await connection.exec_driver_sql(f"SELECT count(*) FROM {table}")  # noqa: S608 - constants
            assert count.scalar_one() == 0


@pytest.mark.parametrize("principal", [COLLEAGUE, STRANGER])
async def test_sessions_of_others_do_not_exist(chatting: Chatting, principal: object) -> None:
    turn = await chatting.send("How many litres per minute does the Aurora pump deliver?")
    other = chatting.by(principal)  # type: ignore[arg-type]  # parametrized
    calls = [
        ("GetSession", {"id": turn.session_id}),
        ("UpdateSession", {"id": turn.session_id, "title": "Mine"}),
        ("DeleteSession", {"id": turn.session_id}),
        ("ListMessages", {"session_id": turn.session_id}),
        ("AddFeedback", {"message_id": turn.message_id, "score": 1}),
    ]
    for name, members in calls:
        with pytest.raises(WireroomError) as caught:
            await other.call(name, **members)
        assert caught.value.kind is ErrorKind.NOT_FOUND, name
    for attempt in (other.send("And its motor?", session_id=turn.session_id), other.export(turn.session_id, "json")):
        with pytest.raises(WireroomError) as caught:
            await attempt
        assert caught.value.code == "session_not_found"
    assert not (await other.call("ListSessions")).sessions
    assert not (await other.call("ListSessions", q="Aurora")).sessions
    assert (await chatting.call("GetSession", id=turn.session_id)).session.title.startswith("How many litres")


async def test_admin_reads_with_an_audit_record_for_each_reading_and_changes_nothing(chatting: Chatting) -> None:
    turn = await chatting.send("How many litres per minute does the Aurora pump deliver?")
    admin = chatting.by(ADMIN)
    assert (await admin.call("GetSession", id=turn.session_id)).session.id == turn.session_id
    assert len(await admin.messages(turn.session_id)) == 2
    await admin.export(turn.session_id, "json")
    assert [entry.id for entry in (await admin.call("ListSessions", owner_id=str(USER))).sessions] == [turn.session_id]
    facts = [events_pb2.AuditRecorded.FromString(bytes(row.data)) for row in await admin.events("audit.recorded")]
    assert [(fact.action, orjson.loads(fact.details_json).get("what")) for fact in facts] == [
        ("chat.session.read", "session"),
        ("chat.session.read", "messages"),
        ("chat.session.read", "export"),
        ("chat.sessions.listed", None),
    ]
    rows = await admin.events("audit.recorded")
    assert {row.actor for row in rows} == {ADMIN.subject}
    for name in ("UpdateSession", "DeleteSession"):
        with pytest.raises(WireroomError) as caught:
            await admin.call(name, id=turn.session_id)
        assert caught.value.kind is ErrorKind.NOT_FOUND
    await chatting.call("GetSession", id=turn.session_id)
    assert len(await chatting.events("audit.recorded")) == 4


async def test_list_of_another_owner_needs_the_permission(chatting: Chatting) -> None:
    with pytest.raises(WireroomError) as caught:
        await chatting.by(COLLEAGUE).call("ListSessions", owner_id=str(USER))
    assert (caught.value.kind, caught.value.code) == (ErrorKind.FORBIDDEN, "permission_missing")


async def test_permissions_are_required(chatting: Chatting) -> None:
    from dataclasses import replace  # noqa: PLC0415 - used here only

    nobody = chatting.by(replace(OWNER, permissions=frozenset({"llm:invoke"})))
    session_id = str(uuid4())
    for name, members in (
        ("CreateSession", {}),
        ("GetSession", {"id": session_id}),
        ("ListSessions", {}),
        ("UpdateSession", {"id": session_id}),
        ("DeleteSession", {"id": session_id}),
        ("ListMessages", {"session_id": session_id}),
        ("AddFeedback", {"message_id": session_id, "score": 1}),
    ):
        with pytest.raises(WireroomError) as caught:
            await nobody.call(name, **members)
        assert caught.value.code == "permission_missing", name
    with pytest.raises(WireroomError) as caught:
        await nobody.send("Hello there")
    assert caught.value.code == "permission_missing"


async def test_pages_hold_each_session_once_newest_first(chatting: Chatting) -> None:
    made = [await new(chatting, title=f"Session {number}") for number in range(7)]
    seen: list[str] = []
    token = ""
    while True:
        page = await chatting.call("ListSessions", page_size=3, page_token=token)
        seen += [entry.id for entry in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert seen == made[::-1]
    with pytest.raises(WireroomError) as caught:
        await chatting.call("ListSessions", page_token="bogus")
    assert caught.value.code == "page_token_invalid"


async def test_search_looks_into_titles_and_own_messages(chatting: Chatting) -> None:
    pumps = (await chatting.send("How many litres per minute does the Aurora pump deliver?")).session_id
    wells = await new(chatting, title="Deep wells of Lindau")
    await chatting.by(COLLEAGUE).send("What about the Aurora pump and Lindau?")

    async def found(words: str, **members: object) -> list[str]:
        return [entry.id for entry in (await chatting.call("ListSessions", q=words, **members)).sessions]

    assert await found("aurora") == [pumps]
    assert await found("litres minute") == [pumps]
    assert await found("lindau") == [wells]
    assert await found("zebra") == []
    assert await found("aurora", archived=True) == []
    assert await found("'; DROP TABLE sessions; -- \" & | !") == []
    with pytest.raises(WireroomError) as caught:
        await found("x" * 201)
    assert caught.value.code == "query_too_long"


async def test_messages_are_paged_both_ways(chatting: Chatting) -> None:
    session_id = (await chatting.send("How many litres per minute does the Aurora pump deliver?")).session_id
    for _ in range(2):
        await chatting.send("What does the Aurora motor draw?", session_id=session_id)
    first = await chatting.call("ListMessages", session_id=session_id, page_size=4)
    rest = await chatting.call("ListMessages", session_id=session_id, page_size=4, page_token=first.next_page_token)
    assert [message.number for message in [*first.messages, *rest.messages]] == [1, 2, 3, 4, 5, 6]
    assert rest.next_page_token == ""
    newest = await chatting.call("ListMessages", session_id=session_id, page_size=2, newest_first=True)
    older = await chatting.call(
        "ListMessages", session_id=session_id, page_size=2, newest_first=True, page_token=newest.next_page_token
    )
    assert [message.number for message in [*newest.messages, *older.messages]] == [6, 5, 4, 3]


async def test_feedback_replaces_what_was_said_before(chatting: Chatting) -> None:
    turn = await chatting.send("How many litres per minute does the Aurora pump deliver?")
    await chatting.call("AddFeedback", message_id=turn.message_id, score=1, tags=["clear", "short"], comment="Good.")
    await chatting.call("AddFeedback", message_id=turn.message_id, score=-1, tags=["wrong"])
    assert [message.feedback for message in await chatting.messages(turn.session_id)] == [0, -1]
    told = [events_pb2.ChatFeedbackAdded.FromString(bytes(row.data)) for row in await chatting.events("chat.feedback.added")]
    assert [(event.score, list(event.tags)) for event in told] == [(1, ["clear", "short"]), (-1, ["wrong"])]
    assert chatting.chat.infra is not None
    assert chatting.chat.infra.registry.get_sample_value("wireroom_chat_feedback_total", {"score": "good"}) == 1


@pytest.mark.parametrize(
    "members",
    [
        {"score": 0},
        {"score": 2},
        {"score": 1, "tags": ["x"] * 11},
        {"score": 1, "tags": [""]},
        {"score": 1, "comment": "x" * 2001},
    ],
)
async def test_feedback_out_of_bounds_is_refused(chatting: Chatting, members: dict[str, object]) -> None:
    turn = await chatting.send("How many litres per minute does the Aurora pump deliver?")
    with pytest.raises(WireroomError) as caught:
        await chatting.call("AddFeedback", message_id=turn.message_id, **members)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, "feedback_invalid")


async def test_feedback_on_a_question_is_not_found(chatting: Chatting) -> None:
    turn = await chatting.send("How many litres per minute does the Aurora pump deliver?")
    with pytest.raises(WireroomError) as caught:
        await chatting.call("AddFeedback", message_id=turn.user_message_id, score=1)
    assert caught.value.code == "message_not_found"


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"model": "no-such-model"}, "model_not_found"),
        ({"assistant": "no-such-assistant"}, "assistant_not_found"),
        ({"title": "x" * 201}, "title_too_long"),
        ({"grounding": b"[1]"}, "request_invalid"),
        ({"grounding": b'{"sources":["moon"]}'}, "request_invalid"),
        ({"grounding": b"{"}, "json_malformed"),
    ],
)
async def test_draft_that_cannot_work_is_refused_and_nothing_is_kept(
    chatting: Chatting, members: dict[str, object], code: str
) -> None:
    with pytest.raises(WireroomError) as caught:
        await chatting.call("CreateSession", **members)
    assert caught.value.code == code
    assert not (await chatting.call("ListSessions")).sessions


async def test_sessions_that_were_not_used_for_long_are_purged(chatting: Chatting) -> None:
    old = (await chatting.send("How many litres per minute does the Aurora pump deliver?")).session_id
    fresh = await new(chatting)
    running = await new(chatting)
    past = datetime.now(UTC) - timedelta(days=31)
    await chatting.run("UPDATE sessions SET updated_at = :past WHERE id = ANY(:ids)", past=past, ids=[UUID(old), UUID(running)])
    await chatting.run(
        "UPDATE sessions SET turn_message_id = id, turn_until = now() + interval '1 minute' WHERE id = :id", id=UUID(running)
    )
    await chatting.periodic("purge-sessions")()
    assert {entry.id for entry in (await chatting.call("ListSessions")).sessions} == {fresh, running}
    told = await chatting.events("chat.session.deleted")
    assert [(row.subject, events_pb2.ChatSessionDeleted.FromString(bytes(row.data)).reason) for row in told] == [
        (old, "retention")
    ]


async def test_deleted_users_sessions_go_and_no_others(chatting: Chatting) -> None:
    mine = (await chatting.send("How many litres per minute does the Aurora pump deliver?")).session_id
    theirs = await new(chatting.by(COLLEAGUE))
    event = events_pb2.AuthUserDeleted(user_id=str(USER), by="admin")
    envelope = Envelope(
        uuid4(), "auth", "auth.user.deleted", datetime.now(UTC), str(USER), event.SerializeToString(), tenant_id=TENANT
    )
    subscription = next(entry for entry in chatting.chat.service.subscriptions if entry.consumer == "chat.erasure")
    assert subscription.work is not None
    async with chatting.chat.database.tenant(TENANT) as connection:
        await subscription.work(connection, envelope)
    with pytest.raises(WireroomError):
        await chatting.call("GetSession", id=mine)
    await chatting.periodic("purge-sessions")()
    assert await chatting.run("SELECT id FROM sessions") == [(UUID(theirs),)]
    told = await chatting.events("chat.session.deleted")
    assert [events_pb2.ChatSessionDeleted.FromString(bytes(row.data)).reason for row in told] == ["user_deleted"]


def test_titles_come_from_the_first_words() -> None:
    assert title_of("What is it?") == "What is it?"
    title = title_of("Please tell me everything about the municipal water supply of Lindau, and more\nthan that.")
    assert title == "Please tell me everything about the municipal water supply\u2026"
    assert len(title_of("x" * 500)) == 61
    assert checked_title("a\x00b\tc\r\nd") == "a b c d".replace("a b", "ab")


def test_control_characters_are_taken_out_of_texts() -> None:
    assert clean_text("a\x00b\x1bc\r\nd\re\tf\x9b") == "abc\nd\ne\tf"
    assert clean_text("\ud800") == "?"
