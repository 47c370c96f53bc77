"""Texts of collections that name their providers: what reaches whom on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_asyncio
from assistants_rig import ADMIN, call, create, refused
from chat_harness import CALLER, ChatUnderTest, ask, chat_under_test, passage
from hypothesis import given, settings
from hypothesis import strategies as st
from session_rig import Chatting

from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.domain.checkpoint import checkpoint_of, request_of
from wireroom_chat.domain.frame_codec import pack, unpack
from wireroom_chat.domain.frames import Frame, Info
from wireroom_chat.domain.passages import Passage
from wireroom_chat.domain.providers import ProviderModel
from wireroom_chat.domain.request import parse_request
from wireroom_chat.domain.source_terms import ANY, NOT_ALLOWED, SourceTerms
from wireroom_chat.usecases.provider_documents import ProviderDocument
from wireroom_chat.usecases.quoting import NOT_READABLE
from wireroom_common.errors import ErrorKind
from wireroom_common.principal import set_current_principal
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_common.testing.scripted_provider import ScriptedProvider
from wireroom_protos.chat.v1 import chat_pb2, responses_pb2, responses_pb2_grpc

QUESTION = "How much water does the Aurora pump deliver?"
SECRET = "The Aurora pump delivers 14 litres per minute. Its motor draws 450 watts."
ANSWER = "The Aurora pump delivers 14 litres per minute [1]."
PLAIN = "The Aurora pump is painted green. The Aurora pump has two wheels."
LOCAL = SourceTerms(frozenset({frozenset({"local"})}))
MODELS = """
version: 1
aliases:
  pair:
    candidates: [cloud/m, house/m]
"""


def secret(terms: SourceTerms = LOCAL, **changes: Any) -> Passage:
    return passage(1, SECRET, title="Aurora manual", dense_score=0.62, terms=terms, **changes)


@dataclass
class House:
    """A service with a provider outside, `cloud`, which is asked first, and one inside, `house`."""

    chat: ChatUnderTest
    cloud: ScriptedProvider
    house: ScriptedProvider

    def holds(self, *passages: Passage) -> None:
        self.chat.retrieval.passages = list(passages)

    def told(self, provider: ScriptedProvider) -> str:
        """All that was sent to it."""
        return "\n".join(str(request.body) for request in provider.requests)

    @property
    def leaked(self) -> bool:
        """Whether the provider outside knows anything of the text."""
        told = self.told(self.cloud)
        return any(word in told for word in ("14 litres", "450 watts"))


@pytest_asyncio.fixture
async def rig(migrated_database: MigratedDatabase, tmp_path: Path, clean_valkey_url: str) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        cloud, house = [await stack.enter_async_context(ScriptedProvider()) for _ in range(2)]
        for provider in (cloud, house):
            provider.script(tokens=[ANSWER])
        file = tmp_path / "providers.yaml"
        file.write_text(MODELS)
        entries = [
            {"name": "cloud", "base_url": cloud.base_url, "models": ["m"]},
            {"name": "house", "base_url": house.base_url, "models": ["m"], "local": True},
        ]
        chat = await stack.enter_async_context(
            chat_under_test(
                await migrated_database("chat"),
                tmp_path,
                "local",
                [secret()],
                with_provider=False,
                redis_url=clean_valkey_url,
                providers=entries,
                providers_file=file,
                default_model="pair",
            )
        )
        yield House(chat, cloud, house)


def text_of(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_provider_that_is_not_named_is_passed_over_as_first_choice(rig: House, streamed: bool) -> None:  # noqa: FBT001 - a row
    members = {"model": "grounded", "messages": ask(QUESTION), "cache": "off"}
    info = (await rig.chat.stream(**members))[0] if streamed else (await rig.chat.complete_response(**members)).info
    assert (info.answer_mode, list(info.provider_path)) == ("generated", ["house/m"])
    assert SECRET in rig.told(rig.house)
    assert not rig.cloud.requests
    # Without terms the first one is asked as ever.
    rig.holds(secret(ANY))
    assert list((await rig.chat.complete_response(**members)).info.provider_path) == ["cloud/m"]


async def test_the_strictest_of_all_passages_decides_and_each_collection_must_name_the_provider(rig: House) -> None:
    members = {"model": "grounded", "messages": ask(QUESTION), "cache": "off"}
    named = SourceTerms(frozenset({frozenset({"cloud", "local"})}))
    rig.holds(secret(named), passage(2, PLAIN, dense_score=0.6, terms=LOCAL))
    assert list((await rig.chat.complete_response(**members)).info.provider_path) == ["house/m"]
    rig.holds(secret(named), passage(2, PLAIN, dense_score=0.6))
    assert list((await rig.chat.complete_response(**members)).info.provider_path) == ["cloud/m"]
    rig.cloud.reset()
    both = SourceTerms(frozenset({frozenset({"cloud"}), frozenset({"local"})}))
    rig.holds(secret(both))
    answer = await rig.chat.complete(**members)
    assert text_of(answer).startswith(NOT_READABLE)
    assert not rig.cloud.requests


async def test_no_fallback_leads_to_a_provider_that_is_not_named(rig: House) -> None:
    rig.house.script(status=503)
    answer = await rig.chat.complete_response(model="grounded", messages=ask(QUESTION), cache="off")
    assert (answer.info.answer_mode, set(answer.info.provider_path)) == ("extractive", {"house/m"})
    assert SECRET.split(". ", maxsplit=1)[0] in text_of(orjson.loads(answer.body))
    assert not rig.cloud.requests


async def test_no_broken_answer_is_continued_by_a_provider_that_is_not_named(rig: House) -> None:
    words = [" The", " Aurora", " pump", " delivers", " 14", " litres", " per", " minute", " [1].", " It", " is", " so."]
    rig.house.enqueue(tokens=words, cut_after=10)
    rig.house.script(tokens=[" It is so."])
    body = orjson.dumps({"model": "grounded", "messages": ask(QUESTION), "cache": "off", "stream": True})
    set_current_principal(CALLER)
    parts = [part async for part in rig.chat.stub.StreamComplete(chat_pb2.StreamCompleteRequest(body=body), timeout=30)]
    chunks = [chunk for part in parts for chunk in (part.data, *part.more)]
    assert [list(part.info.provider_path) for part in parts if part.HasField("info")][-1] == ["house/m", "house/m"]
    assert len(rig.house.requests) == 2
    assert "14 litres per minute" in str(rig.house.requests[-1].body["messages"][-2:])
    assert any(b"14 litres" in chunk for chunk in chunks)
    assert not rig.cloud.requests


async def test_where_nobody_is_named_quotes_answer_or_the_caller_learns_why(rig: House) -> None:
    answer = await rig.chat.complete_response(model="cloud/m", messages=ask(QUESTION), grounding={}, cache="off")
    assert answer.info.answer_mode == "extractive"
    assert text_of(orjson.loads(answer.body)).startswith(NOT_READABLE)
    strict = rig.chat.complete(model="cloud/m", messages=ask(QUESTION), grounding={}, disable_fallback=True, cache="off")
    error = await refused(strict)
    assert (error.kind, error.code) == (ErrorKind.FORBIDDEN, NOT_ALLOWED)
    # The extractive model asks nobody.
    assert (await rig.chat.complete_response(model="extractive", messages=ask(QUESTION))).info.answer_mode == "extractive"
    assert not rig.cloud.requests


async def test_what_a_tool_finds_goes_to_those_who_are_named_from_then_on(rig: House) -> None:
    rig.chat.principal = ADMIN
    await create(rig.chat, model="pair", tools=["search_knowledge"])
    rig.cloud.enqueue(tool_calls=[call(1, "search_knowledge", {"query": "Aurora pump"})])
    answer = await rig.chat.complete_response(model="assistant/clerk", messages=ask(QUESTION))
    assert list(answer.info.provider_path) == ["cloud/m", "house/m"]
    assert "14 litres" in text_of(orjson.loads(answer.body))
    assert (len(rig.cloud.requests), rig.leaked) == (1, False)
    assert SECRET in rig.told(rig.house)


async def test_what_a_tool_finds_is_withheld_where_nobody_is_named_and_the_answer_goes_on(rig: House) -> None:
    rig.chat.principal = ADMIN
    await create(rig.chat, model="cloud/m", tools=["search_knowledge"])
    rig.cloud.enqueue(tool_calls=[call(1, "search_knowledge", {"query": "Aurora pump"})])
    rig.cloud.script(tokens=["I may not read that."])
    answer = await rig.chat.complete(model="assistant/clerk", messages=ask(QUESTION))
    assert "I may not read that." in text_of(answer)
    assert "collection_provider_not_allowed" in str(rig.cloud.requests[-1].body["messages"][-1])
    assert (len(rig.cloud.requests), rig.leaked) == (2, False)


async def test_passages_that_an_assistant_has_from_the_start_are_kept_from_others_too(rig: House) -> None:
    rig.chat.principal = ADMIN
    await create(rig.chat, model="pair", tools=[], sources={"kinds": ["docs"], "upfront": True})
    answer = await rig.chat.complete_response(model="assistant/clerk", messages=ask(QUESTION))
    assert list(answer.info.provider_path) == ["house/m"]
    assert not rig.cloud.requests


async def test_what_a_session_was_answered_is_told_again_only_to_those_who_are_named(rig: House) -> None:
    chatting = Chatting(rig.chat, ADMIN)
    first = await chatting.send(QUESTION, model="extractive")
    assert "14 litres" in str(orjson.loads(first.body))
    rig.holds(passage(2, PLAIN, dense_score=0.6))
    told_outside = chatting.send("Say that in other words, please.", session_id=first.session_id, model="cloud/m")
    assert (await refused(told_outside)).code == NOT_ALLOWED
    assert not rig.cloud.requests
    inside = await chatting.send("Say that in other words, please.", session_id=first.session_id, model="house/m")
    assert inside.info.provider == "house"
    assert "14 litres" in rig.told(rig.house)
    # A session that knows nothing of it is free.
    other = await chatting.send("What colour has the Aurora pump?", model="cloud/m")
    assert (other.info.provider, rig.leaked) == ("cloud", False)


async def test_a_kept_answer_keeps_its_terms(rig: House) -> None:
    chatting = Chatting(rig.chat, ADMIN)
    assert (await chatting.send(QUESTION, model="grounded")).info.provider == "house"
    kept = await chatting.send(QUESTION, model="grounded")
    assert (kept.info.cache, kept.info.provider) == ("hit", "wireroom")
    told_outside = chatting.send("Say that in other words, please.", session_id=kept.session_id, model="cloud/m")
    assert (await refused(told_outside)).code == NOT_ALLOWED
    assert not rig.cloud.requests


@pytest.mark.parametrize("streamed", [False, True])
async def test_responses_remember_the_terms_of_those_before_them(rig: House, streamed: bool) -> None:  # noqa: FBT001 - a row
    stub = responses_pb2_grpc.ResponseServiceStub(rig.chat.channel)

    async def respond(**members: Any) -> dict[str, Any]:
        set_current_principal(CALLER)
        if not streamed:
            request = responses_pb2.CreateResponseRequest(body=orjson.dumps(members))
            answer: dict[str, Any] = orjson.loads((await stub.CreateResponse(request, timeout=30)).body)
            return answer
        request_of_all = responses_pb2.StreamResponseRequest(body=orjson.dumps({**members, "stream": True}))
        parts = [part async for part in stub.StreamResponse(request_of_all, timeout=30)]
        events = [orjson.loads(part.event.data) for part in parts if part.HasField("event")]
        last: dict[str, Any] = events[-1]["response"]
        return last

    first = await respond(model="grounded", input=QUESTION)
    assert not rig.cloud.requests
    second = await respond(model="house/m", input="Say it again.", previous_response_id=first["id"])
    assert "14 litres" in rig.told(rig.house)
    for earlier in (first, second):
        told_outside = respond(model="cloud/m", input="Say it in other words.", previous_response_id=earlier["id"])
        assert (await refused(told_outside)).code == NOT_ALLOWED
    assert not rig.cloud.requests


NAMES = st.sampled_from(["local", "a", "b", "c"])
SETS = st.frozensets(st.frozensets(NAMES, max_size=4), max_size=5)
MODEL = st.builds(ProviderModel, provider=st.sampled_from(["a", "b", "local"]), name=st.just("m"), local=st.booleans())


@given(first=SETS, second=SETS, model=MODEL)
@settings(max_examples=200)
def test_together_terms_allow_what_each_allows_and_stay_so_when_written_down(
    first: frozenset[frozenset[str]], second: frozenset[frozenset[str]], model: ProviderModel
) -> None:
    terms = [SourceTerms(first), SourceTerms(second)]
    union = SourceTerms.union(terms)
    assert union.allow(model) is all(one.allow(model) for one in terms)
    assert SourceTerms.read(orjson.loads(orjson.dumps(union.written()))).allow(model) is union.allow(model)


def test_terms_of_messages_reach_whoever_goes_on_and_are_nobodys_to_send() -> None:
    request = replace(parse_request(orjson.dumps({"model": "m", "messages": ask("?"), "stream": True}), stream=True), terms=LOCAL)
    checkpoint = orjson.loads(orjson.dumps(checkpoint_of(request, None, continuable=True)))
    assert request_of(checkpoint).terms == LOCAL
    frame = Frame(1, Info("c", "m", AnswerMode.GENERATED, "house", source_terms=LOCAL.written()))
    assert unpack(pack([frame])) == [frame]
    # What cannot be understood is nobody's.
    assert not SourceTerms.read("local").allow(ProviderModel("local", "m", local=True))


def test_a_provider_is_marked_as_local_where_it_is_configured() -> None:
    document = ProviderDocument.model_validate({"base_url": "http://10.0.0.7/v1", "models": {"m": None}, "local": True})
    (model,) = [entry.model("house", name, local=document.local) for name, entry in document.models.items()]
    assert LOCAL.allow(model)
    assert not LOCAL.allow(replace(model, local=False))
