"""Turns of sessions: what is kept, what the model is told, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
import pytest_asyncio
from chat_harness import TENANT, chat_under_test, passage
from session_rig import COLLEAGUE, OWNER, Chatting, asked_of, said

from wireroom_chat.domain.passages import SourceKind
from wireroom_chat.ports.generations import Generation, Origin, Outcome
from wireroom_chat.usecases.quoting import FIRST_LINE
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import conversation_pb2
from wireroom_protos.events.v1 import events_pb2

PUMP = (
    "The Aurora pump delivers 14 litres per minute. Its motor draws 450 watts.\n"
    "The pump must never be run without water, because the seals overheat."
)
TRAM = "The city council of Lindau approved the new tram line on Tuesday. Construction will cost 186 million euros and begin next spring."
PASSAGES = [
    passage(1, PUMP, title="Aurora manual", page=2, dense_score=0.62),
    passage(
        2,
        TRAM,
        title="Tram line approved",
        kind=SourceKind.ARTICLE,
        url="https://news.example/tram?id=1",
        page=0,
        dense_score=0.55,
    ),
]
MODEL = "scripted/scripted-model"
LITRES = "How many litres per minute does the Aurora pump deliver?"


@pytest_asyncio.fixture(params=["local", "grpc"])
async def chatting(
    request: pytest.FixtureRequest, migrated_database: MigratedDatabase, tmp_path: Path
) -> AsyncIterator[Chatting]:
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, request.param, PASSAGES, stream_grace=0, first_byte_timeout=5.0) as chat:
        yield Chatting(chat)


@pytest_asyncio.fixture
async def bare(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[Chatting]:
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, "local", PASSAGES, with_provider=False, max_message_characters=200) as chat:
        yield Chatting(chat)


async def test_first_turn_makes_a_titled_session_and_works_without_a_provider(bare: Chatting) -> None:
    turn = await bare.send(LITRES)
    assert said(turn).startswith(FIRST_LINE)
    assert turn.info.answer_mode == "extractive"
    session = (await bare.call("GetSession", id=turn.session_id)).session
    assert (session.title, session.model, session.message_count, session.turn_running) == (LITRES, "grounded", 2, False)
    question, answer = await bare.messages(turn.session_id)
    assert (question.id, question.role, question.content, question.status) == (turn.user_message_id, "user", LITRES, "completed")
    assert (answer.id, answer.role, answer.content, answer.status) == (turn.message_id, "assistant", said(turn), "completed")
    assert (answer.completion_id, answer.answer_mode, answer.finish_reason) == (turn.info.completion_id, "extractive", "stop")
    notes = orjson.loads(answer.annotations)
    assert notes == orjson.loads(turn.body)["choices"][0]["message"]["annotations"]
    span = notes[0]["url_citation"]
    assert answer.content[span["start_index"] : span["end_index"]] == "The Aurora pump delivers 14 litres per minute. [1]"


async def test_events_of_a_turn_carry_counts_and_no_text(bare: Chatting) -> None:
    turn = await bare.send(LITRES)
    told = await bare.events("chat.session.created", "chat.message.created")
    assert [row.type for row in told] == ["chat.session.created", "chat.message.created", "chat.message.created"]
    events = [events_pb2.ChatMessageCreated.FromString(bytes(row.data)) for row in told[1:]]
    assert [(event.role, event.message_id) for event in events] == [
        ("user", turn.user_message_id),
        ("assistant", turn.message_id),
    ]
    assert all(event.tokens > 0 and event.session_id == turn.session_id for event in events)
    assert b"Aurora" not in b"".join(bytes(row.data) for row in told)


async def test_follow_up_finds_what_the_question_before_was_about(bare: Chatting) -> None:
    turn = await bare.send(LITRES)
    follow = await bare.send("And what does its motor draw?", session_id=turn.session_id)
    assert said(follow) == f"{FIRST_LINE}\n\nIts motor draws 450 watts. [1]"
    # Each is asked of both kinds of sources.
    sought = list(dict.fromkeys(query for query, _ in bare.chat.retrieval.asked))
    assert sought[0] == LITRES
    assert "Aurora" in sought[1]
    assert sought[1].startswith("And what does its motor draw?")


async def test_model_is_told_what_was_said_before(chatting: Chatting) -> None:
    chatting.chat.provider.script(tokens=["Blue", "."])
    first = await chatting.send("What is my colour?", model=MODEL)
    chatting.chat.provider.script(tokens=["Blue again."])
    second = await chatting.send("And now?", session_id=first.session_id)
    assert asked_of(chatting.chat.provider) == [
        {"role": "user", "content": "What is my colour?"},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "And now?"},
    ]
    assert second.info.model == MODEL
    assert [message.content for message in await chatting.messages(first.session_id)] == [
        "What is my colour?",
        "Blue.",
        "And now?",
        "Blue again.",
    ]


async def test_streamed_turn_keeps_what_it_sent(chatting: Chatting) -> None:
    chatting.chat.provider.script(tokens=["One", " two", " three."])
    parts = await chatting.stream("Count, please!", model=MODEL)
    assert [part.frame.seq for part in parts] == list(range(1, len(parts) + 1))
    assert parts[0].frame.HasField("info")
    assert parts[-1].frame.end.status == "completed"
    assert parts[0].message_id
    assert not any(part.message_id for part in parts[1:])
    chunks = [orjson.loads(part.frame.data) for part in parts if part.frame.HasField("data")]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    answer = (await chatting.messages(parts[0].session_id))[1]
    assert (answer.id, answer.content, answer.status) == (parts[0].message_id, text, "completed")
    assert text == "One two three."


async def test_second_turn_of_a_session_conflicts_until_the_first_has_ended(chatting: Chatting) -> None:
    session_id = (await chatting.call("CreateSession", model=MODEL)).session.id
    chatting.chat.provider.script(stall_after=2)
    first = asyncio.create_task(chatting.send("Take your time!", session_id=session_id))
    await eventually(lambda: chatting.chat.provider.live == 1, within=5)
    assert (await chatting.call("GetSession", id=session_id)).session.turn_running
    outcomes = await asyncio.gather(*(chatting.send("Now me!", session_id=session_id) for _ in range(3)), return_exceptions=True)
    assert [(outcome.kind, outcome.code) for outcome in outcomes if isinstance(outcome, WireroomError)] == [
        (ErrorKind.CONFLICT, "turn_in_progress")
    ] * 3
    # Other sessions are not concerned.
    assert (await chatting.send(LITRES, model="extractive")).session_id != session_id
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first

    async def free() -> bool:
        return not (await chatting.call("GetSession", id=session_id)).session.turn_running

    await eventually(free, within=5)
    chatting.chat.provider.script(tokens=["Here."])
    assert said(await chatting.send("Now me!", session_id=session_id)) == "Here."


async def test_parallel_turns_of_one_session_take_turns(bare: Chatting) -> None:
    session_id = (await bare.call("CreateSession")).session.id
    outcomes = await asyncio.gather(*(bare.send(LITRES, session_id=session_id) for _ in range(8)), return_exceptions=True)
    good = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert good
    assert {outcome.code for outcome in outcomes if isinstance(outcome, WireroomError)} <= {"turn_in_progress"}
    messages = await bare.messages(session_id)
    assert len(messages) == 2 * len(good)
    assert [message.role for message in messages] == ["user", "assistant"] * len(good)
    assert (await bare.call("GetSession", id=session_id)).session.message_count == len(messages)


async def test_cancelled_stream_keeps_its_partial_text(chatting: Chatting) -> None:
    chatting.chat.provider.script(stall_after=2, tokens=["Half", " an", " answer"])
    set_current_principal(OWNER)
    request = conversation_pb2.StreamSendRequest(message="Say it!", model=MODEL)
    call = chatting.turns.StreamSend(request, timeout=30)
    session_id, text = "", ""
    async for part in call:
        session_id = session_id or part.session_id
        if part.frame.HasField("data"):
            delta = orjson.loads(part.frame.data)["choices"][0]["delta"]
            text += delta.get("content") or ""
        if text == "Half an":
            break
    call.cancel()

    async def ended() -> bool:
        return (await chatting.messages(session_id))[1].status == "cancelled"

    await eventually(ended, within=5)
    answer = (await chatting.messages(session_id))[1]
    assert answer.content == "Half an"
    # What was cut off is part of the conversation.
    chatting.chat.provider.script(tokens=["Right."])
    await chatting.send("Go on!", session_id=session_id)
    assert [message["content"] for message in asked_of(chatting.chat.provider)] == ["Say it!", "Half an", "Go on!"]


async def test_failed_turn_frees_the_session_and_is_not_told_again(chatting: Chatting) -> None:
    session_id = (await chatting.call("CreateSession", model=MODEL)).session.id
    chatting.chat.provider.script(status=400)
    with pytest.raises(WireroomError) as caught:
        await chatting.send("Are you there?", session_id=session_id)
    assert caught.value.code == "provider_rejected_request"
    assert [(message.status, message.error_code) for message in await chatting.messages(session_id)] == [
        ("completed", ""),
        ("failed", "provider_rejected_request"),
    ]
    chatting.chat.provider.script(tokens=["Yes."])
    await chatting.send("And now?", session_id=session_id)
    assert asked_of(chatting.chat.provider) == [{"role": "user", "content": "And now?"}]


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"message": "   \n"}, "message_empty"),
        ({"message": "x" * 201}, "message_too_long"),
        ({"message": "Hello", "model": "no-such-model"}, "model_not_found"),
        ({"message": "Hello", "grounding": b'{"mode":"wild"}'}, "request_invalid"),
        ({"message": "Hello", "session_id": str(uuid4())}, "session_not_found"),
        ({"message": "Hello", "session_id": "mine"}, "id_malformed"),
    ],
)
async def test_question_that_cannot_be_answered_leaves_nothing_behind(bare: Chatting, members: dict[str, Any], code: str) -> None:
    with pytest.raises(WireroomError) as caught:
        await bare.send(**members)
    assert caught.value.code == code
    assert await bare.run("SELECT id FROM sessions") == []


async def test_default_limit_of_a_message_is_a_thousand_characters(chatting: Chatting) -> None:
    with pytest.raises(WireroomError) as caught:
        await chatting.send("x" * 1001)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, "message_too_long")
    assert (await chatting.send("x" * 1000, model="extractive")).session_id


async def test_archived_session_takes_no_turn(bare: Chatting) -> None:
    session_id = (await bare.call("CreateSession")).session.id
    await bare.call("UpdateSession", id=session_id, archived=True)
    with pytest.raises(WireroomError) as caught:
        await bare.send(LITRES, session_id=session_id)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.CONFLICT, "session_archived")


async def test_turn_of_a_dead_process_blocks_no_longer_than_its_lease(bare: Chatting) -> None:
    turn = await bare.send(LITRES)
    message_id = UUID(turn.message_id)

    async def interrupted(until: datetime) -> None:
        await bare.run("UPDATE messages SET status = 'streaming', finished_at = NULL, content = '' WHERE id = :id", id=message_id)
        await bare.run(
            "UPDATE sessions SET turn_message_id = :id, turn_until = :until WHERE id = :session",
            id=message_id,
            until=until,
            session=UUID(turn.session_id),
        )

    now = datetime.now(UTC)
    await interrupted(now + timedelta(seconds=30))
    with pytest.raises(WireroomError) as caught:
        await bare.send(LITRES, session_id=turn.session_id)
    assert caught.value.code == "turn_in_progress"
    await interrupted(now - timedelta(seconds=1))
    assert said(await bare.send(LITRES, session_id=turn.session_id)).startswith(FIRST_LINE)
    lost = (await bare.messages(turn.session_id))[1]
    assert (lost.status, lost.error_code) == ("failed", "turn_lost")
    # Without another question the periodic look finds it.
    await interrupted(now - timedelta(seconds=1))
    await bare.periodic("renew-turns")()
    lost = (await bare.messages(turn.session_id))[1]
    assert (lost.status, lost.error_code) == ("failed", "turn_lost")
    assert not (await bare.call("GetSession", id=turn.session_id)).session.turn_running


async def test_lease_of_a_living_turn_is_renewed(chatting: Chatting) -> None:
    session_id = (await chatting.call("CreateSession", model=MODEL)).session.id
    chatting.chat.provider.script(stall_after=1)
    task = asyncio.create_task(chatting.send("Take your time!", session_id=session_id))
    await eventually(lambda: chatting.chat.provider.live == 1, within=5)
    await chatting.run("UPDATE sessions SET turn_until = now() - interval '1 second' WHERE id = :id", id=UUID(session_id))
    await chatting.periodic("renew-turns")()
    assert (await chatting.call("GetSession", id=session_id)).session.turn_running
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_sink_is_idempotent_and_takes_an_answer_that_came_late(bare: Chatting) -> None:
    from wireroom_chat.adapters.turns_sql import SqlTurns  # noqa: PLC0415 - only here
    from wireroom_chat.usecases.conversations import RunningTurns, SessionAnswers  # noqa: PLC0415 - only here

    turn = await bare.send(LITRES)
    message_id = UUID(turn.message_id)
    await bare.run("UPDATE messages SET status = 'failed', error_code = 'turn_lost', content = '' WHERE id = :id", id=message_id)
    assert bare.chat.infra is not None
    turns = SqlTurns(bare.chat.database)
    sink = SessionAnswers(turns, RunningTurns(turns, bare.chat.infra.clock, 60, 60), bare.chat.infra.clock)
    generation = Generation(
        uuid4(),
        TENANT,
        UUID(OWNER.subject),
        None,
        "chatcmpl-late",
        "grounded",
        datetime.now(UTC),
        Origin("session", turn.message_id),
    )

    def outcome(content: str) -> Outcome:
        return Outcome(
            status="completed",
            text=content,
            message=None,
            annotations=[{"type": "url_citation", "url_citation": {"title": "a\x00b"}}],
            finish_reason="stop",
            answer_mode="generated",
            path=(),
            tokens_in=3,
            tokens_out=4,
            micros=0,
            error_code="",
        )

    await sink.finished(generation, outcome("Late\x00 but here."))
    await sink.finished(generation, outcome("Not this."))
    answer = (await bare.messages(turn.session_id))[1]
    assert (answer.content, answer.status, answer.error_code) == ("Late but here.", "completed", "")
    assert orjson.loads(answer.annotations)[0]["url_citation"]["title"] == "ab"


async def test_replica_that_goes_on_with_an_answer_keeps_its_lease(bare: Chatting) -> None:
    from wireroom_chat.session_wiring import SessionWiring  # noqa: PLC0415 - only here
    from wireroom_chat.settings import ChatSettings  # noqa: PLC0415 - only here
    from wireroom_chat.usecases.stream_opening import Opening  # noqa: PLC0415 - only here

    turn = await bare.send(LITRES)
    await bare.run(
        "UPDATE sessions SET turn_message_id = :id, turn_until = now() + interval '1 second' WHERE id = :session",
        id=UUID(turn.message_id),
        session=UUID(turn.session_id),
    )
    assert bare.chat.infra is not None
    other = SessionWiring(ChatSettings(turn_lease=600), bare.chat.database, bare.chat.infra.clock)
    generation = Generation(
        uuid4(),
        TENANT,
        UUID(OWNER.subject),
        None,
        "chatcmpl-1",
        "grounded",
        datetime.now(UTC),
        Origin("session", turn.message_id),
    )

    async def rest(*_: object) -> AsyncIterator[bytes]:
        yield b"chunk"

    revived = other.adopting(rest)(Opening(OWNER, generation, 1.0, {}), (), ())  # type: ignore[arg-type]  # any generator
    assert [part async for part in revived] == [b"chunk"]
    await other._running.renew()  # noqa: SLF001 - what the periodic work does
    until = (await bare.run("SELECT turn_until FROM sessions WHERE id = :id", id=UUID(turn.session_id)))[0][0]
    assert until > datetime.now(UTC) + timedelta(seconds=300)


async def test_history_ends_at_fifty_messages(chatting: Chatting) -> None:
    session_id = (await chatting.call("CreateSession", model=MODEL)).session.id
    for number in range(30):
        chatting.chat.provider.script(tokens=[f"Answer {number}."])
        await chatting.send(f"Question {number}?", session_id=session_id)
    told = asked_of(chatting.chat.provider)
    assert len(told) == 51
    assert told[0] == {"role": "user", "content": "Question 4?"}
    assert told[-1] == {"role": "user", "content": "Question 29?"}
    assert len(await chatting.messages(session_id, page_size=100)) == 60


async def test_colleagues_words_never_reach_the_model(chatting: Chatting) -> None:
    chatting.chat.provider.script(tokens=["Secret answer."])
    await chatting.by(COLLEAGUE).send("Secret question?", model=MODEL)
    chatting.chat.provider.script(tokens=["Hi."])
    await chatting.send("Hello?", model=MODEL)
    assert "Secret" not in orjson.dumps(asked_of(chatting.chat.provider)).decode()


async def test_old_messages_are_summarised_once_and_billed(migrated_database: MigratedDatabase, tmp_path: Path) -> None:
    database = await migrated_database("chat")
    async with chat_under_test(
        database, tmp_path, "local", PASSAGES, history_policy="summarise", history_messages=8, history_tokens=1000
    ) as chat:
        chatting = Chatting(chat)
        session_id = (await chatting.call("CreateSession", model=MODEL)).session.id
        for number in range(5):
            chat.provider.script(tokens=[f"Answer {number}."])
            await chatting.send(f"Question {number}?", session_id=session_id)
        before = len(chat.provider.requests)
        chat.provider.script(tokens=["We talked about questions."])
        await chatting.send("Question 5?", session_id=session_id)
        summary, answer = list(chat.provider.requests)[before:]
        assert "Question 0?" in summary.body["messages"][1]["content"]
        assert "We talked about questions." in answer.body["messages"][0]["content"]
        assert answer.body["messages"][0]["role"] == "user"
        assert [message["content"] for message in answer.body["messages"][2:]] == [
            "Question 3?",
            "Answer 3.",
            "Question 4?",
            "Answer 4.",
            "Question 5?",
        ]
        # The next turn needs no new one.
        before = len(chat.provider.requests)
        chat.provider.script(tokens=["Answer 6."])
        await chatting.send("Question 6?", session_id=session_id)
        assert len(chat.provider.requests) == before + 1
        assert "We talked about questions." in asked_of(chat.provider)[0]["content"]
        # 5 turns, the summary, 2 turns: each has its row in the ledger.
        assert len(await chat.rows()) == 8


async def test_turn_without_a_summary_goes_on_truncated(migrated_database: MigratedDatabase, tmp_path: Path) -> None:
    database = await migrated_database("chat")
    async with chat_under_test(
        database, tmp_path, "local", PASSAGES, with_provider=False, history_policy="summarise", history_messages=2
    ) as chat:
        chatting = Chatting(chat)
        session_id = (await chatting.send(LITRES)).session_id
        for _ in range(3):
            turn = await chatting.send(LITRES, session_id=session_id)
        assert said(turn).startswith(FIRST_LINE)
