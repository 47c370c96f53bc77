"""What is left of answers whose process died or whose caller left: rows, bills, stored responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from chat_harness import CALLER, ChatUnderTest, _body, chat_under_test
from chat_providers import open_provider
from failover_rig import Suite
from sqlalchemy import text

from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.adapters.providers.http import ProviderSessions
from wireroom_common.clock import SystemClock
from wireroom_common.errors import WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_common.testing.scripted_provider import ScriptedProvider
from wireroom_protos.chat.v1 import chat_pb2, responses_pb2, responses_pb2_grpc

MODEL = "scripted/scripted-model"


@pytest_asyncio.fixture
async def chat(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[ChatUnderTest]:
    async with chat_under_test(await migrated_database("chat"), tmp_path, "grpc", []) as under_test:
        yield under_test


# --- a caller who leaves


@pytest.mark.parametrize("stream", [True, False])
async def test_who_leaves_while_all_connections_are_in_use_pays_nothing(
    migrated_database: MigratedDatabase, *, stream: bool
) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(ScriptedProvider())
        sessions = ProviderSessions(max_connections=1, wait=20.0)
        await sessions.start()
        stack.push_async_callback(sessions.stop)
        suite = Suite(await migrated_database("chat"), a, a, {"a": open_provider("a", a.base_url, sessions)}, sessions)
        places = sessions.places("a")
        async with places:
            waiting = asyncio.create_task(suite.stream() if stream else suite.complete())

            async def waits() -> bool:
                return bool(places._waiters)  # noqa: SLF001 - nothing else tells that somebody waits

            await eventually(waits)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        assert not a.requests
        (call,) = await suite.usage()
        assert (call.status, call.tokens_in, call.tokens_out, call.micros) == ("cancelled", 0, 0, 0)
        assert suite.health.releases == [("a", False)]


async def _begun_response(chat: ChatUnderTest, **members: object) -> tuple[str, list[dict[str, object]], object]:
    """A stream of a response that stands still after two words, and its events so far."""
    chat.provider.script(tokens=["One ", "two ", "three"], stall_after=2)
    set_current_principal(CALLER)
    stub = responses_pb2_grpc.ResponseServiceStub(chat.channel)
    body = orjson.dumps({"model": MODEL, "input": "Count", "stream": True, **members})
    call = stub.StreamResponse(responses_pb2.StreamResponseRequest(body=body), timeout=30)
    events: list[dict[str, object]] = []
    async for part in call:
        if part.HasField("event"):
            events.append(orjson.loads(part.event.data))
            if events[-1]["type"] == "response.output_text.delta" and events[-1]["delta"] == "two ":
                break
    return str(events[0]["response"]["id"]), events, call  # type: ignore[index]


async def _stored(chat: ChatUnderTest, name: str) -> dict[str, object] | None:
    set_current_principal(CALLER)
    stub = responses_pb2_grpc.ResponseServiceStub(chat.channel)
    try:
        answer = await stub.GetResponse(responses_pb2.GetResponseRequest(id=name), timeout=10)
    except WireroomError:
        return None
    found: dict[str, object] = orjson.loads(answer.body)
    return found


async def test_a_response_whose_client_leaves_is_stored_as_far_as_it_went(chat: ChatUnderTest) -> None:
    name, _, call = await _begun_response(chat)
    call.cancel()  # type: ignore[attr-defined]
    kept = await eventually(lambda: _stored(chat, name))
    assert kept is not None
    assert (kept["status"], kept["error"], kept["incomplete_details"]) == ("cancelled", None, None)
    (item,) = kept["output"]  # type: ignore[misc]
    assert item["status"] == "incomplete"
    assert item["content"][0]["text"] == "One two "
    # The conversation can be gone on with.
    chat.provider.script(tokens=["three"])
    set_current_principal(CALLER)
    stub = responses_pb2_grpc.ResponseServiceStub(chat.channel)
    body = orjson.dumps({"model": MODEL, "input": "Go on", "previous_response_id": name})
    await stub.CreateResponse(responses_pb2.CreateResponseRequest(body=body), timeout=10)
    assert [message["content"] for message in chat.provider.requests[-1].body["messages"]] == ["Count", "One two ", "Go on"]


async def test_one_that_is_not_to_be_stored_is_not(chat: ChatUnderTest) -> None:
    name, _, call = await _begun_response(chat, store=False)
    call.cancel()  # type: ignore[attr-defined]
    await eventually(lambda: _ended(chat))
    assert await _stored(chat, name) is None
    async with chat.database.system() as connection:
        assert (await connection.execute(text("SELECT count(*) FROM responses"))).scalar_one() == 0


async def _ended(chat: ChatUnderTest) -> bool:
    rows = await chat.rows()
    return bool(rows) and rows[-1].status == "cancelled"


# --- a process that dies


@pytest.mark.parametrize("stream", [True, False])
async def test_what_nobody_takes_up_is_booked_from_its_checkpoint(chat: ChatUnderTest, *, stream: bool) -> None:
    """The answer is under way here; to the sweep of another replica it is abandoned. What this one settles later changes nothing."""
    chat.provider.script(tokens=["One ", "two"], first_byte_delay=20)
    set_current_principal(CALLER)
    body = _body({"model": MODEL, **({"stream": True} if stream else {})})
    call = (
        chat.stub.StreamComplete(chat_pb2.StreamCompleteRequest(body=body), timeout=30)
        if stream
        else chat.stub.Complete(chat_pb2.CompleteRequest(body=body), timeout=30)
    )
    reading = asyncio.create_task(call.read()) if stream else asyncio.ensure_future(call)

    async def running() -> bool:
        return any(row.status == "running" and row.checkpoint for row in await chat.rows())

    await eventually(running)
    ledger = SqlLedger(chat.database, SystemClock())
    assert await ledger.settle_abandoned(SystemClock(), timedelta(0)) == 1
    (row,) = await chat.rows()
    assert (row.status, row.error_code, row.checkpoint) == ("failed", "process_lost", None)
    assert row.path == [MODEL]
    assert (row.tokens_in > 0, row.tokens_out, row.micros > 0) == (True, 0, True)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await eventually(lambda: chat.provider.live == 0)
    async with chat.database.tenant(CALLER.tenant()) as connection:
        booked = (await connection.execute(text("SELECT * FROM usage"))).all()
    assert [(part.number, part.tokens_in, part.micros, part.reported) for part in booked] == [
        (1, row.tokens_in, row.micros, False)
    ]
