"""Nobody takes the connections to the providers from the others: how much of them one may use, and what happens when none is free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from chat_harness import CALLER, OTHER_TENANT, TENANT, ChatUnderTest, ask, chat_under_test
from chat_providers import open_provider
from failover_rig import Directory, Health, Suite
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from wireroom_chat.adapters.budgets_sql import SqlBudgets
from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.adapters.providers.http import ProviderSessions
from wireroom_chat.domain.budgets import BudgetTerms, Period, Scope
from wireroom_chat.domain.pricing import Pricing
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.ports.generations import Generation
from wireroom_chat.usecases.embedding import EmbedTexts
from wireroom_chat.usecases.generation_caps import GenerationCaps
from wireroom_chat.usecases.run import Runs
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, set_current_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_common.testing.scripted_provider import ScriptedProvider
from wireroom_protos.chat.v1 import (
    chat_pb2,
    compatibility_pb2,
    compatibility_pb2_grpc,
    conversation_pb2,
    conversation_pb2_grpc,
    responses_pb2,
    responses_pb2_grpc,
)

MODEL = "scripted-model"
CALLER_OF_ALL = replace(CALLER, permissions=frozenset({"llm:invoke", "chat:use"}))
COLLEAGUE = replace(CALLER_OF_ALL, subject="0198a000-0000-7000-8000-0000000000ab")
OTHER_COLLEAGUE = replace(CALLER_OF_ALL, subject="0198a000-0000-7000-8000-0000000000ac")
STRANGER = replace(CALLER_OF_ALL, tenant_id=OTHER_TENANT)


@pytest_asyncio.fixture
async def chat(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[ChatUnderTest]:
    limits = {"max_generations_per_user": 2, "max_generations_per_tenant": 3}
    async with chat_under_test(await migrated_database("chat"), tmp_path, "local", [], **limits) as under_test:
        under_test.principal = CALLER_OF_ALL
        yield under_test


@asynccontextmanager
async def running(chat: ChatUnderTest, principal: Principal) -> AsyncIterator[None]:
    """A stream that stands still after its first token."""
    chat.provider.enqueue(stall_after=1)
    before = chat.provider.live
    set_current_principal(principal)
    body = orjson.dumps({"model": MODEL, "stream": True, "messages": ask("Hi")})
    call = chat.stub.StreamComplete(chat_pb2.StreamCompleteRequest(body=body), timeout=60)
    async with aclosing(call) as parts:  # type: ignore[type-var]
        async for part in parts:
            if part.WhichOneof("part") == "data":
                break
        yield
    await eventually(lambda: chat.provider.live == before, within=5)


async def complete(chat: ChatUnderTest, principal: Principal) -> dict[str, Any]:
    chat.principal = principal
    return await chat.complete(model=MODEL)


async def count(chat: ChatUnderTest, table: str) -> int:
    async with chat.database.tenant(TENANT) as connection:
        return int((await connection.execute(text(f"SELECT count(*) FROM {table}"))).scalar_one())  # noqa: S608 - a name of this file


async def complete_text(chat: ChatUnderTest) -> None:
    stub = compatibility_pb2_grpc.CompatibilityServiceStub(chat.channel)
    await stub.CompleteText(
        compatibility_pb2.CompleteTextRequest(body=orjson.dumps({"model": MODEL, "prompt": "Hi"})), timeout=10
    )


async def respond(chat: ChatUnderTest) -> None:
    stub = responses_pb2_grpc.ResponseServiceStub(chat.channel)
    await stub.CreateResponse(responses_pb2.CreateResponseRequest(body=orjson.dumps({"model": MODEL, "input": "Hi"})), timeout=10)


async def send(chat: ChatUnderTest) -> None:
    stub = conversation_pb2_grpc.ChatServiceStub(chat.channel)
    await stub.Send(conversation_pb2.SendRequest(message="Hi", model=MODEL), timeout=10)


async def stream_send(chat: ChatUnderTest) -> None:
    stub = conversation_pb2_grpc.ChatServiceStub(chat.channel)
    async for _ in stub.StreamSend(conversation_pb2.StreamSendRequest(message="Hi", model=MODEL), timeout=10):
        pass


async def complete_chat(chat: ChatUnderTest) -> None:
    await chat.complete(model=MODEL)


async def stream_chat(chat: ChatUnderTest) -> None:
    await chat.stream(model=MODEL)


SURFACES = [complete_chat, stream_chat, complete_text, respond, send, stream_send]


async def test_user_at_the_limit_is_refused_on_every_surface_before_anything_is_written(chat: ChatUnderTest) -> None:
    await SqlBudgets(chat.database, SystemClock()).put(
        TENANT, BudgetTerms(Scope.TENANT, "*", Period.DAY, 10_000_000).checked(), actor="test"
    )
    async with running(chat, CALLER_OF_ALL), running(chat, CALLER_OF_ALL):
        asked, rows, reserved = len(chat.provider.requests), await count(chat, "generations"), await count(chat, "reservations")
        for surface in SURFACES:
            set_current_principal(CALLER_OF_ALL)
            with pytest.raises(WireroomError) as caught:
                await surface(chat)
            assert (caught.value.kind, caught.value.code) == (ErrorKind.RATE_LIMITED, "too_many_generations"), surface.__name__
            assert caught.value.retry_after == 1
        assert len(chat.provider.requests) == asked
        assert (await count(chat, "generations"), await count(chat, "reservations")) == (rows, reserved)
        # The others of the tenant are not the ones who wait.
        assert await complete(chat, COLLEAGUE)
    assert await complete(chat, CALLER_OF_ALL)
    # A refused turn leaves its session free.
    set_current_principal(CALLER_OF_ALL)
    await send(chat)


async def test_tenant_at_the_limit_leaves_the_other_tenants_theirs(chat: ChatUnderTest) -> None:
    async with running(chat, CALLER_OF_ALL), running(chat, CALLER_OF_ALL), running(chat, COLLEAGUE):
        with pytest.raises(WireroomError, match="Your organisation has 3 answers"):
            await complete(chat, OTHER_COLLEAGUE)
        assert await complete(chat, STRANGER)
    assert await complete(chat, OTHER_COLLEAGUE)


class _SlowVectors:
    """A built-in embedding model that answers when it is told to."""

    def __init__(self) -> None:
        self.asked, self.released = asyncio.Event(), asyncio.Event()

    async def embed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.set()
        await self.released.wait()
        return {"data": [{"index": 0, "embedding": [1.0]}], "model": body["model"], "usage": {"prompt_tokens": 1}}


async def test_embeddings_count_as_well(migrated_database: MigratedDatabase) -> None:
    clock = SystemClock()
    ledger = SqlLedger(await migrated_database("chat"), clock)
    caps = GenerationCaps(per_user=1, per_tenant=1)
    runs = Runs(ledger, Pricing(None), clock, ChatMetrics(CollectorRegistry()), caps=caps)
    model = _SlowVectors()
    embedding = EmbedTexts(Directory({}), Health(), runs, {"local": model})
    body = orjson.dumps({"model": "local", "input": "Hi"})
    first = asyncio.create_task(embedding.embed(CALLER, body))
    await model.asked.wait()
    with pytest.raises(WireroomError, match="You have 1 answers under way already"):
        await embedding.embed(CALLER, body)
    model.released.set()
    await first
    assert await embedding.embed(CALLER, body)


async def test_failed_answers_give_their_places_back(chat: ChatUnderTest) -> None:
    for _ in range(4):
        chat.provider.enqueue(status=400)
        with pytest.raises(WireroomError, match="rejected the request"):
            await complete(chat, CALLER_OF_ALL)
    assert await complete(chat, CALLER_OF_ALL)


def _generation(tenant: int, user: int) -> Generation:
    name = new_id()
    return Generation(name, UUID(int=tenant), UUID(int=user), None, f"chatcmpl-{name.hex}", MODEL, SystemClock().now())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.sampled_from(["enter", "adopt", "leave"])), max_size=60))
def test_places_are_never_more_than_the_limits_and_never_lost(steps: list[tuple[int, int, str]]) -> None:
    caps = GenerationCaps(per_user=2, per_tenant=3)
    held: list[Generation] = []
    for tenant, user, step in steps:
        generation = _generation(tenant, user)
        mine = [item for item in held if item.tenant_id == generation.tenant_id]
        own = [item for item in mine if item.user_id == generation.user_id]
        if step == "leave":
            if own:
                held.remove(own[0])
                caps.leave(own[0])
        elif step == "enter" and (len(own) >= 2 or len(mine) >= 3):
            with pytest.raises(WireroomError):
                caps.enter(generation)
        else:
            caps.enter(generation, adopted=step == "adopt")
            held.append(generation)


@pytest_asyncio.fixture
async def small(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[ChatUnderTest]:
    limits = {"max_connections": 2, "connection_wait": 0.1, "first_byte_timeout": 1.0}
    async with chat_under_test(await migrated_database("chat"), tmp_path, "local", [], **limits) as under_test:
        yield under_test


async def test_waiting_for_a_connection_is_no_failure_of_the_provider_and_not_billed(small: ChatUnderTest) -> None:
    async with running(small, STRANGER), running(small, STRANGER):
        asked = len(small.provider.requests)
        ways: list[Callable[..., Awaitable[Any]]] = [small.complete, small.stream]
        for number in range(8):
            with pytest.raises(WireroomError) as caught:
                await ways[number % 2](model=MODEL)
            assert (caught.value.kind, caught.value.code) == (ErrorKind.UNAVAILABLE, "provider_connections_exhausted")
        assert len(small.provider.requests) == asked
    # No circuit has opened: the next call is made at once.
    assert await small.complete(model=MODEL)
    rows = await eventually(lambda: _settled(small, 9), within=5)
    assert [row.micros for row in rows[:8]] == [0] * 8
    assert {row.error_code for row in rows[:8]} == {"provider_connections_exhausted"}
    assert rows[8].status == "completed"


async def _settled(chat: ChatUnderTest, expected: int) -> list[Any]:
    rows = [row for row in await chat.rows() if row.status != "running"]
    return rows if len(rows) == expected else []


async def test_provider_whose_connections_are_all_in_use_leaves_the_others_theirs(migrated_database: MigratedDatabase) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(ScriptedProvider())
        b = await stack.enter_async_context(ScriptedProvider())
        sessions = ProviderSessions(max_connections=1, wait=0.1)
        await sessions.start()
        stack.push_async_callback(sessions.stop)
        # Another key of the same provider has no connections of its own.
        providers = {name: open_provider(name, server.base_url, sessions) for name, server in (("a", a), ("b", b))}
        other_key = open_provider("a", a.base_url, sessions)
        suite = Suite(await migrated_database("chat"), a, b, providers, sessions)
        a.script(stall_after=1)
        async with aclosing(providers["a"].batches({"model": "m", "stream": True, "messages": ask("Hi")})) as batches:
            await anext(batches)
            answer, info = await suite.complete()
            assert answer["choices"][0]["message"]["content"]
            assert info.path == ("a/m", "b/m")
            with pytest.raises(WireroomError, match="All connections to the provider 'a' are in use"):
                await other_key.complete({"model": "m", "messages": ask("Hi")})
        assert suite.health.failures == []
        assert suite.health.releases == [("a", False)]
        first, second = await suite.usage()
        assert (first.status, first.error_code) == ("failed", "provider_connections_exhausted")
        assert (first.tokens_in, first.tokens_out, first.micros) == (0, 0, 0)
        assert second.status == "completed"


async def test_free_connection_goes_to_a_call_that_waits(migrated_database: MigratedDatabase) -> None:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(ScriptedProvider())
        sessions = ProviderSessions(max_connections=2, wait=5.0)
        await sessions.start()
        stack.push_async_callback(sessions.stop)
        provider = open_provider("a", a.base_url, sessions)
        suite = Suite(await migrated_database("chat"), a, a, {"a": provider}, sessions)
        answers = await asyncio.gather(*(suite.complete() for _ in range(12)))
        assert len(answers) == 12
        assert a.completed == 12
