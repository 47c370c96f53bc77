"""How completions are settled: given up, completed, left behind by a process, or without a row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import pytest_asyncio
from chat_harness import CALLER, TENANT, ChatUnderTest, _body, ask, chat_under_test, passage
from sqlalchemy import text
from structlog.testing import capture_logs

from wireroom_chat.adapters.ledger import ABANDONED, SqlLedger
from wireroom_common.clock import ManualClock
from wireroom_common.errors import WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import chat_pb2

PASSAGES = [passage(1, "The Aurora pump delivers 14 litres per minute.", title="Aurora manual", dense_score=0.62)]
MODEL = "scripted/scripted-model"


@pytest_asyncio.fixture(params=["local", "grpc"])
async def chat(
    request: pytest.FixtureRequest, migrated_database: MigratedDatabase, tmp_path: Path
) -> AsyncIterator[ChatUnderTest]:
    database = await migrated_database("chat")
    async with chat_under_test(
        database, tmp_path, request.param, PASSAGES, first_byte_timeout=2.0, idle_timeout=2.0
    ) as under_test:
        yield under_test


@pytest.mark.parametrize("stream", [True, False])
async def test_cancelled_call_closes_the_provider_socket_and_is_settled(chat: ChatUnderTest, stream: bool) -> None:  # noqa: FBT001 - parametrized
    chat.provider.script(stall_after=2)
    task = asyncio.create_task((chat.stream if stream else chat.complete)(model=MODEL, messages=ask("Hi")))
    await eventually(lambda: chat.provider.live == 1, within=5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: chat.provider.live == 0, within=1, what="the provider's generation ends")
    assert chat.provider.cancelled == 1
    events = await eventually(chat.events, within=5)
    assert [name for name, _ in events] == ["chat.completion.cancelled"]
    assert (await chat.rows())[0].status == "cancelled"


def _settled(chat: ChatUnderTest, status: str) -> float:
    assert chat.infra is not None
    samples = [sample for metric in chat.infra.registry.collect() for sample in metric.samples]
    return sum(
        sample.value
        for sample in samples
        if sample.name == "wireroom_chat_completions_total" and sample.labels["status"] == status
    )


@pytest.mark.parametrize("stream", [True, False])
async def test_call_cancelled_while_its_row_is_written_is_settled(chat: ChatUnderTest, stream: bool) -> None:  # noqa: FBT001 - parametrized
    chat.provider.script(tokens=["Hello"])
    # From now on it is known that no budget binds the caller: rows are written beside the calls of providers.
    await chat.complete(model=MODEL, messages=ask("Hi"))
    lock_taken, release = asyncio.Event(), asyncio.Event()

    async def hold_the_table() -> None:
        async with chat.database.tenant(TENANT) as connection:
            await connection.execute(text("LOCK TABLE generations IN SHARE MODE"))
            lock_taken.set()
            await release.wait()

    holder = asyncio.create_task(hold_the_table())
    await lock_taken.wait()
    task = asyncio.create_task((chat.stream if stream else chat.complete)(model=MODEL, messages=ask("Hi")))
    await eventually(lambda: chat.provider.completed == 2, within=5)
    task.cancel()
    # Across a connection the cancellation takes its time; an answer that is whole before it arrives is a completed one.
    await eventually(lambda: _settled(chat, "cancelled") == 1, within=5)
    release.set()
    await holder
    await asyncio.gather(task, return_exceptions=True)

    async def both() -> list[str]:
        names = [name for name, _ in await chat.events()]
        return names if len(names) > 1 else []

    assert await eventually(both, within=5) == ["chat.completion.completed", "chat.completion.cancelled"]
    assert [row.status for row in await chat.rows()] == ["completed", "cancelled"]


async def test_client_that_stops_reading_ends_the_generation(chat: ChatUnderTest) -> None:
    chat.provider.script(tokens=["x" * 2000] * 20000)
    set_current_principal(CALLER)
    call = chat.stub.StreamComplete(chat_pb2.StreamCompleteRequest(body=_body({"model": MODEL, "stream": True})), timeout=60)
    async with aclosing(call) as parts:  # type: ignore[type-var]
        async for part in parts:
            if part.WhichOneof("part") == "data":
                break
        assert chat.provider.live == 1
    await eventually(lambda: chat.provider.live == 0, within=1)
    events = await eventually(chat.events, within=5)
    assert [name for name, _ in events] == ["chat.completion.cancelled"]


async def test_completed_answer_is_settled_with_its_tokens(chat: ChatUnderTest) -> None:
    answer = await chat.complete(model=MODEL, messages=ask("Hi"))
    row = (await chat.rows())[0]
    assert (row.status, row.tokens_in, row.tokens_out, row.provider, row.answer_mode) == (
        "completed",
        7,
        6,
        "scripted",
        "generated",
    )
    ((name, event),) = await chat.events()
    assert name == "chat.completion.completed"
    assert (event.completion_id, event.tokens_in, event.tokens_out, event.model) == (answer["id"], 7, 6, MODEL)


async def test_completion_of_a_dead_process_is_settled_once(chat: ChatUnderTest) -> None:
    await chat.complete(model="extractive", messages=ask("Hello"))
    async with chat.database.tenant(TENANT) as connection:
        await connection.execute(text("UPDATE generations SET status = 'running', finished_at = NULL"))
        await connection.execute(text("SELECT 1"))
    clock = ManualClock(datetime.now(UTC) + timedelta(minutes=29))
    ledger = SqlLedger(chat.database, clock)
    assert await ledger.settle_abandoned(clock, timedelta(minutes=30)) == 0
    clock.advance(120)
    assert await asyncio.gather(*(ledger.settle_abandoned(clock, timedelta(minutes=30)) for _ in range(3))) != [0, 0, 0]
    row = (await chat.rows())[0]
    assert (row.status, row.error_code) == ("failed", ABANDONED)
    assert [name for name, _ in await chat.events()] == ["chat.completion.completed", "chat.completion.failed"]


@pytest.mark.parametrize("stream", [True, False])
async def test_row_that_cannot_be_written_does_not_hide_the_first_error(
    chat: ChatUnderTest,
    fresh_database_url: str,
    stream: bool,  # noqa: FBT001 - parametrized
) -> None:
    # From now on it is known that no budget binds the caller: rows are written beside the calls of providers.
    await chat.complete(model=MODEL, messages=ask("Hi"))
    chat.provider.script(status=500)
    with psycopg.connect(fresh_database_url, autocommit=True) as admin:
        admin.execute("REVOKE INSERT ON chat.generations FROM chat_app")
    with capture_logs() as logs, pytest.raises(WireroomError) as caught:
        await (chat.stream if stream else chat.complete)(model=MODEL, messages=ask("Hi"))
    assert caught.value.code.startswith("provider_")
    assert [entry["log_level"] for entry in logs if entry["event"] == "chat.start.failed"] == ["error"]
    assert [row.status for row in await chat.rows()] == ["completed"]
