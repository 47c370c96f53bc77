from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from chat_harness import CALLER, OTHER_TENANT, TENANT, USER, ChatUnderTest, aiter_of, chat_under_test
from sqlalchemy import text

from wireroom_chat.adapters.erasures_sql import begin_erasure
from wireroom_chat.adapters.responses_sql import SqlResponses
from wireroom_chat.ports.responses import Owner, StoredResponse
from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, set_current_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import compatibility_pb2, compatibility_pb2_grpc, responses_pb2, responses_pb2_grpc

MODEL = "scripted/scripted-model"
OTHER_USER = replace(CALLER, subject=str(UUID(int=9)))
OTHERS = [OTHER_USER, replace(CALLER, tenant_id=OTHER_TENANT)]


@pytest_asyncio.fixture
async def chat(migrated_database: MigratedDatabase, tmp_path: Path) -> AsyncIterator[ChatUnderTest]:
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, "grpc", []) as under_test:
        yield under_test


class Caller:
    """The two services, called as one principal."""

    def __init__(self, chat: ChatUnderTest, principal: Principal = CALLER) -> None:
        self._principal = principal
        self._responses = responses_pb2_grpc.ResponseServiceStub(chat.channel)
        self._texts = compatibility_pb2_grpc.CompatibilityServiceStub(chat.channel)

    async def create(self, **members: Any) -> dict[str, Any]:
        body = orjson.dumps({"model": MODEL, "input": "Hi", **members})
        set_current_principal(self._principal)
        answer = await self._responses.CreateResponse(responses_pb2.CreateResponseRequest(body=body), timeout=30)
        result: dict[str, Any] = orjson.loads(answer.body)
        return result

    async def events(self, **members: Any) -> list[dict[str, Any]]:
        body = orjson.dumps({"model": MODEL, "input": "Hi", "stream": True, **members})
        set_current_principal(self._principal)
        call = self._responses.StreamResponse(responses_pb2.StreamResponseRequest(body=body), timeout=30)
        async with aclosing(aiter_of(call)) as parts:
            return [orjson.loads(part.event.data) async for part in parts if part.HasField("event")]

    async def get(self, name: str) -> bytes:
        set_current_principal(self._principal)
        return (await self._responses.GetResponse(responses_pb2.GetResponseRequest(id=name), timeout=30)).body

    async def delete(self, name: str) -> None:
        set_current_principal(self._principal)
        await self._responses.DeleteResponse(responses_pb2.DeleteResponseRequest(id=name), timeout=30)

    async def items(self, name: str, **page: Any) -> dict[str, Any]:
        set_current_principal(self._principal)
        request = responses_pb2.ListInputItemsRequest(id=name, **{"limit": 20, **page})
        result: dict[str, Any] = orjson.loads((await self._responses.ListInputItems(request, timeout=30)).body)
        return result

    async def embed(self, **members: Any) -> Any:
        set_current_principal(self._principal)
        return await self._texts.Embed(compatibility_pb2.EmbedRequest(body=orjson.dumps(members)), timeout=30)

    async def complete_text(self, **members: Any) -> Any:
        set_current_principal(self._principal)
        return await self._texts.CompleteText(compatibility_pb2.CompleteTextRequest(body=orjson.dumps(members)), timeout=30)


async def test_a_stored_response_is_what_was_answered_and_its_owners_alone(chat: ChatUnderTest) -> None:
    mine = Caller(chat)
    made = await mine.create()
    assert orjson.loads(await mine.get(made["id"])) == made
    for principal in OTHERS:
        theirs = Caller(chat, principal)
        for attempt in (theirs.get(made["id"]), theirs.delete(made["id"]), theirs.items(made["id"])):
            with pytest.raises(WireroomError) as caught:
                await attempt
            assert caught.value.kind is ErrorKind.NOT_FOUND
        with pytest.raises(WireroomError) as refused:
            await theirs.create(previous_response_id=made["id"])
        assert refused.value.code == "previous_response_not_found"
    await mine.delete(made["id"])
    with pytest.raises(WireroomError):
        await mine.get(made["id"])


@pytest.mark.parametrize("name", ["", "resp_", "resp_x", "resp_\x00", str(UUID(int=1)), f"resp_{UUID(int=1).hex}"])
async def test_a_name_that_names_nothing_is_not_found(chat: ChatUnderTest, name: str) -> None:
    with pytest.raises(WireroomError) as caught:
        await Caller(chat).get(name)
    assert caught.value.kind is ErrorKind.NOT_FOUND


async def test_the_permission_is_needed_for_each_call(chat: ChatUnderTest) -> None:
    nobody = Caller(chat, replace(CALLER, permissions=frozenset({"docs:read"})))
    for attempt in (
        nobody.create(),
        nobody.get("x"),
        nobody.items("x"),
        nobody.delete("x"),
        nobody.embed(),
        nobody.complete_text(),
    ):
        with pytest.raises(WireroomError) as caught:
            await attempt
        assert caught.value.code == "permission_missing"


async def test_a_conversation_is_asked_as_a_whole_until_a_part_of_it_is_gone(chat: ChatUnderTest) -> None:
    mine = Caller(chat)
    chat.provider.script(tokens=["A"])
    first = await mine.create(input="1", instructions="x")
    second = (await mine.events(input="2", previous_response_id=first["id"]))[-1]["response"]
    third = await mine.create(input="3", previous_response_id=second["id"])
    asked = chat.provider.requests[-1].body["messages"]
    assert [(message["role"], message["content"]) for message in asked] == [
        ("user", "1"),
        ("assistant", "A"),
        ("user", "2"),
        ("assistant", "A"),
        ("user", "3"),
    ]
    assert third["previous_response_id"] == second["id"]
    await mine.delete(first["id"])
    with pytest.raises(WireroomError) as caught:
        await mine.create(input="4", previous_response_id=third["id"])
    assert caught.value.code == "previous_response_not_found"


async def test_input_items_come_in_pages(chat: ChatUnderTest) -> None:
    mine = Caller(chat)
    made = await mine.create(input=[{"role": "user", "content": str(number)} for number in range(5)])
    first = await mine.items(made["id"], limit=2, ascending=True)
    assert ([item["content"][0]["text"] for item in first["data"]], first["has_more"]) == (["0", "1"], True)
    rest = await mine.items(made["id"], limit=3, ascending=True, after=first["last_id"])
    assert ([item["content"][0]["text"] for item in rest["data"]], rest["has_more"]) == (["2", "3", "4"], False)
    newest = await mine.items(made["id"], limit=1)
    assert newest["data"][0]["content"][0]["text"] == "4"
    with pytest.raises(WireroomError) as caught:
        await mine.items(made["id"], after="nothing")
    assert caught.value.code == "item_unknown"


async def test_a_caller_that_leaves_ends_the_generation_and_finds_what_was_made(chat: ChatUnderTest) -> None:
    chat.provider.script(tokens=["word "] * 1000, token_delay=0.05)
    stub = responses_pb2_grpc.ResponseServiceStub(chat.channel)
    set_current_principal(CALLER)
    body = orjson.dumps({"model": MODEL, "input": "Hi", "stream": True})
    call = stub.StreamResponse(responses_pb2.StreamResponseRequest(body=body), timeout=30)
    async for part in call:
        if part.HasField("event") and part.event.type == "response.output_text.delta":
            break
    call.cancel()
    assert chat.service.stop is not None
    await chat.service.stop()
    assert [row.status for row in await chat.rows()] == ["cancelled"]

    async def kept() -> list[Any]:
        async with chat.database.tenant(TENANT) as connection:
            return list((await connection.execute(text("SELECT response FROM responses"))).scalars())

    (found,) = await eventually(kept)
    assert orjson.loads(found)["status"] == "cancelled"


async def test_the_end_of_a_response_takes_the_place_of_what_was_kept_when_its_caller_left(chat: ChatUnderTest) -> None:
    """The process that lost the call, and the one that made the rest, may store it in any order."""
    store, now = SqlResponses(chat.database), SystemClock().now()
    owner, stranger = Owner(TENANT, USER), Owner(TENANT, UUID(int=9))
    for order in (("cancelled", "completed"), ("completed", "cancelled")):
        name = new_id()
        for status in order:
            body = orjson.dumps({"status": status})
            await store.add(owner, StoredResponse(name, None, now, b"[]", body), final=status == "completed")
        await store.add(stranger, StoredResponse(name, None, now, b"[]", b"{}"))
        found = await store.get(owner, name)
        assert found is not None
        assert orjson.loads(found.response)["status"] == "completed"


async def test_a_failed_answer_is_told_as_an_event_once_the_stream_has_begun(chat: ChatUnderTest) -> None:
    chat.provider.script(tokens=["One ", "two "], cut_after=1)
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    events = await Caller(chat).events(tools=[function])
    assert (events[0]["type"], events[-1]["type"]) == ("response.created", "response.failed")
    failed = events[-1]["response"]
    assert failed["error"]["code"] == "server_error"
    assert failed["output"][0]["content"][0]["text"] == "One "
    chat.provider.script(status=400)
    with pytest.raises(WireroomError):
        await Caller(chat).events()


async def test_responses_texts_and_embeddings_are_settled_like_completions(
    migrated_database: MigratedDatabase, tmp_path: Path
) -> None:
    database = await migrated_database("chat")
    async with chat_under_test(database, tmp_path, "local", []) as chat:
        mine = Caller(chat)
        await mine.create()
        answer = await mine.complete_text(model=MODEL, prompt=["a", "b"])
        assert orjson.loads(answer.body)["usage"]["total_tokens"] == 26
        assert answer.info.provider_path == [MODEL]
        rows = await chat.rows()
        assert [(row.status, row.tokens_in, row.tokens_out) for row in rows] == [("completed", 7, 6)] * 3
        for body in ({"model": MODEL, "input": "x"}, {"model": "nothing", "input": "x"}, {"model": "minilm-l6-v2", "input": "x"}):
            with pytest.raises(WireroomError) as caught:
                await mine.embed(**body)
            assert caught.value.code in {"model_unsuited", "model_not_found"}
        assert len(await chat.rows()) == 3


async def test_what_has_expired_is_deleted_and_a_users_responses_go_with_the_user(migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    store, now = SqlResponses(database), SystemClock().now()
    owners = [Owner(TENANT, USER), Owner(TENANT, UUID(int=9)), Owner(OTHER_TENANT, USER)]
    names = {}
    for owner in owners:
        for days in (0, 31):
            names[owner, days] = new_id()
            await store.add(owner, StoredResponse(names[owner, days], None, now - timedelta(days=days), b"[]", b"{}"))
    assert await store.expire(now - timedelta(days=30)) == 3
    found = {key for key, name in names.items() if await store.get(key[0], name)}
    assert found == {(owner, 0) for owner in owners}
    async with database.tenant(TENANT) as connection:
        await begin_erasure(connection, TENANT, new_id(), USER)
    found = {key for key, name in names.items() if await store.get(key[0], name)}
    assert found == {(owner, 0) for owner in owners[1:]}


async def test_a_conversation_is_bounded(migrated_database: MigratedDatabase) -> None:
    database = await migrated_database("chat")
    store, now, owner = SqlResponses(database), SystemClock().now(), Owner(TENANT, USER)
    names = [new_id() for _ in range(502)]
    for position, name in enumerate(names):
        previous = names[position - 1] if position else None
        await store.add(owner, StoredResponse(name, previous, now, b"[]", b'{"output":[]}'))
    whole = await store.conversation(owner, names[499])
    assert (len(whole), whole[0].previous_id) == (500, None)
    cut = await store.conversation(owner, names[501])
    assert (len(cut), cut[0].previous_id) == (500, names[1])
