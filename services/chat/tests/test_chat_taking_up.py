"""Answers with sources, quotes and assistants, gone on with by a process that did not begin them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from chat_harness import CALLER, ChatUnderTest, MemoryRetrieval, ask, chat_under_test, passage
from failover_rig import Suite, body_of, reasons_of, suite_of, text_of
from test_chat_stream_service import cut_off

from wireroom_chat.domain.checkpoint import checkpoint_of, request_of
from wireroom_chat.domain.frames import Info
from wireroom_chat.domain.passages import Citation, Passage, Quote, SourceKind
from wireroom_chat.domain.request import Grounding, parse_request
from wireroom_chat.domain.source_terms import SourceTerms
from wireroom_chat.ports.generations import Origin
from wireroom_chat.usecases.stream_opening import Opening, Part
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import current_principal, set_current_principal
from wireroom_common.rpc.context import received_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import (
    chat_pb2,
    compatibility_pb2,
    compatibility_pb2_grpc,
    conversation_pb2,
    conversation_pb2_grpc,
    responses_pb2,
    responses_pb2_grpc,
)

PUMP = (
    "The Aurora pump delivers 14 litres per minute. Its motor draws 450 watts. The pump weighs nine kilograms without its hose."
)
TRAM = "The city council of Lindau approved the new tram line on Tuesday. Construction will cost 186 million euros."
PASSAGES = [
    passage(1, PUMP, title="Aurora manual", dense_score=0.62),
    passage(2, TRAM, title="Tram", kind=SourceKind.ARTICLE, url="https://news.example/tram", page=0, dense_score=0.6),
]
SENTENCES = [
    "The Aurora pump delivers 14 litres per minute [1]. ",
    "Construction of the tram line will cost 186 million euros [2]. ",
    "Its motor draws 450 watts [1].",
]
QUESTION = "What does the Aurora pump deliver, and what does the tram line cost?"


@pytest_asyncio.fixture
async def suite(migrated_database: MigratedDatabase) -> AsyncIterator[Suite]:
    async with suite_of(await migrated_database("chat")) as found:
        found.retrieval.passages = list(PASSAGES)
        yield found


class Dead:
    """A streamed answer of which its process has sent some chunks. It is not ended, and so not settled, until the test is over."""

    def __init__(self, opening: Opening, produce: AsyncGenerator[Part, None]) -> None:
        self.opening = opening
        self.produce = produce
        self.info: Info | None = None
        self.chunks: list[bytes] = []

    @classmethod
    async def after(cls, suite: Suite, chunks: int, **members: Any) -> Dead:
        request = parse_request(body_of({"messages": ask(QUESTION), **members}), stream=True)
        opening, produce = await suite.completing._opened(CALLER, request, Origin(), grace=0)  # noqa: SLF001 - what a dead process had
        dead = cls(opening, produce)
        async for part in produce:
            if isinstance(part, Info):
                dead.info = part
            else:
                dead.chunks += part if isinstance(part, list) else [part]
            if len(dead.chunks) >= chunks:
                break
        # What another process finds has been through JSON.
        dead.opening = Opening(CALLER, opening.generation, 0, orjson.loads(orjson.dumps(opening.checkpoint)))
        return dead

    async def taken_up(self, suite: Suite) -> tuple[list[Info], list[dict[str, Any]]]:
        """What comes then; all chunks, those of the dead process first."""
        infos, chunks = [], list(self.chunks)
        async with aclosing(suite.completing.take_up(self.opening, self.info, self.chunks)) as parts:
            async for part in parts:
                if isinstance(part, Info):
                    infos.append(part)
                else:
                    chunks += part if isinstance(part, list) else [part]
        return infos, [orjson.loads(chunk) for chunk in chunks]


@asynccontextmanager
async def dead_after(suite: Suite, chunks: int, **members: Any) -> AsyncIterator[Dead]:
    dead = await Dead.after(suite, chunks, **members)
    try:
        yield dead
    finally:
        await dead.produce.aclose()


def _annotations(chunks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [note for chunk in chunks for choice in chunk["choices"] for note in choice["delta"].get("annotations") or ()]


def _same(chunks: list[dict[str, Any]], reference: list[dict[str, Any]]) -> None:
    assert text_of(chunks) == text_of(reference)
    assert reasons_of(chunks) == ["stop"]
    assert sum(choice["delta"].get("role") is not None for chunk in chunks for choice in chunk["choices"]) == 1
    assert _annotations(chunks) == _annotations(reference)
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_a_grounded_answer_goes_on_after_every_chunk(suite: Suite) -> None:
    suite.a.script(tokens=SENTENCES)
    _, reference, _ = await suite.stream(model="grounded", messages=ask(QUESTION))
    assert len(_annotations(reference)) == 3
    for count in range(1, len(reference)):
        suite.a.script(tokens=SENTENCES)
        async with dead_after(suite, count, model="grounded") as dead:
            said = text_of([orjson.loads(chunk) for chunk in dead.chunks])
            rest = "".join(SENTENCES)[len(said) :]
            suite.a.script(tokens=[rest] if rest else [""])
            infos, chunks = await dead.taken_up(suite)
        _same(chunks, reference)
        if said and not any("annotations" in str(chunk) for chunk in dead.chunks):
            # The same sources under the same numbers, and what has been said.
            asked = suite.a.requests[-1].body["messages"]
            assert "=== source 1" in asked[-3]["content"]
            assert asked[-2] == {"role": "assistant", "content": said}
            assert infos[-1].path == ("a/m", "a/m")


async def test_the_bill_of_both_processes_is_booked_once(suite: Suite) -> None:
    suite.a.script(tokens=SENTENCES, usage=False)
    async with dead_after(suite, 3, model="grounded") as dead:
        suite.a.script(tokens=SENTENCES[2:], usage=False)
        await dead.taken_up(suite)
    await suite.runs.drain()
    first, second = await suite.usage()
    assert (first.error_code, first.status, second.status) == ("process_lost", "failed", "completed")
    # With its sources, as it was asked.
    assert first.tokens_in == dead.opening.checkpoint["prompt_tokens"] > 100
    assert first.tokens_out > 10
    assert second.tokens_in > first.tokens_in
    assert second.tokens_out > 5


async def test_what_sources_an_answer_came_from_is_known_after_every_chunk(suite: Suite) -> None:
    terms = SourceTerms(frozenset({frozenset({"a", "b"})}))
    suite.retrieval.passages = [replace(found, terms=terms) for found in PASSAGES]
    suite.a.script(tokens=SENTENCES)
    _, reference, _ = await suite.stream(model="grounded", messages=ask(QUESTION))
    for count in range(1, len(reference)):
        suite.a.script(tokens=SENTENCES)
        async with dead_after(suite, count, model="grounded") as dead:
            said = text_of([orjson.loads(chunk) for chunk in dead.chunks])
            suite.a.script(tokens=["".join(SENTENCES)[len(said) :]])
            infos, _ = await dead.taken_up(suite)
        assert {info.source_terms for info in infos} == {terms.written()}


async def test_what_a_tool_found_is_gone_on_with_only_by_those_who_may_read_it(suite: Suite) -> None:
    suite.a.script(tokens=SENTENCES)
    async with dead_after(suite, 3, model="grounded") as dead:
        assert dead.info is not None
        # The search before the answer found nothing of the kind: only this tells of it.
        dead.info = replace(dead.info, source_terms=(("b",),))
        suite.a.reset()
        suite.b.script(tokens=SENTENCES[2:])
        infos, chunks = await dead.taken_up(suite)
    assert (text_of(chunks), infos[-1].path) == ("".join(SENTENCES), ("a/m", "b/m"))
    assert not suite.a.requests


async def test_sources_that_have_changed_end_the_answer(suite: Suite) -> None:
    for change in ("gone", "reworded", "away"):
        suite.retrieval.passages = list(PASSAGES)
        suite.a.script(tokens=SENTENCES)
        async with dead_after(suite, 3, model="grounded") as dead:
            if change == "gone":
                suite.retrieval.passages = PASSAGES[:1]
            elif change == "reworded":
                suite.retrieval.passages = [passage(1, "Nothing of it stands here any more.", dense_score=0.62), PASSAGES[1]]
            else:
                suite.retrieval.passages = []
            with pytest.raises(WireroomError, match="stream_lost"):
                await dead.taken_up(suite)


async def test_more_passages_than_before_do_not_change_the_numbers(suite: Suite) -> None:
    suite.a.script(tokens=SENTENCES)
    _, reference, _ = await suite.stream(model="grounded", messages=ask(QUESTION))
    async with dead_after(suite, 3, model="grounded") as dead:
        suite.retrieval.passages = [passage(9, "The tram line of Lindau and the Aurora pump.", dense_score=0.9), *PASSAGES]
        suite.a.script(tokens=SENTENCES[2:])
        _, chunks = await dead.taken_up(suite)
    _same(chunks, reference)


@pytest.mark.parametrize("members", [{"model": "extractive"}, {"model": "grounded", "messages": ask("Who wrote Moby Dick?")}])
async def test_what_is_made_the_same_each_time_is_made_again(suite: Suite, members: dict[str, Any]) -> None:
    if "messages" in members:
        suite.retrieval.passages = [passage(1, PUMP, dense_score=0.01, lexical_score=0.0)]
    _, reference, _ = await suite.stream(**{"messages": ask(QUESTION), **members})
    for count in range(1, len(reference)):
        async with dead_after(suite, count, **members) as dead:
            _, chunks = await dead.taken_up(suite)
        _same(chunks, reference)
    assert not suite.a.requests


async def test_quotes_in_place_of_a_provider_are_not_gone_on_with_by_it(suite: Suite) -> None:
    suite.a.script(status=503)
    suite.b.script(status=503)
    _, reference, _ = await suite.stream(model="pair", messages=ask(QUESTION))
    async with dead_after(suite, 2, model="pair") as dead:
        suite.a.script(tokens=["Words of a model."])
        suite.b.script(tokens=["Words of a model."])
        _, chunks = await dead.taken_up(suite)
    _same(chunks, reference)


async def test_who_wants_no_fallback_gets_none(suite: Suite) -> None:
    suite.a.script(tokens=SENTENCES)
    async with dead_after(suite, 3, model="grounded", disable_fallback=True) as dead:
        with pytest.raises(WireroomError, match="stream_lost"):
            await dead.taken_up(suite)


def test_a_checkpoint_holds_the_whole_request() -> None:
    request = parse_request(
        body_of({"grounding": {"sources": ["docs:a", "news"], "since": "2026-03-01", "top_k": 3, "mode": "assist"}}), stream=True
    )
    packed = orjson.loads(orjson.dumps(checkpoint_of(request, request.grounding, continuable=True)))
    assert request_of(packed) == request
    # What an older version left.
    assert request_of({"request": packed["request"], "continuable": True}).grounding is None


# --- two replicas


class SignedRetrieval(MemoryRetrieval):
    """Answers only in the name of a user whose signature is at hand, as the rag service does."""

    async def retrieve(self, query: str, grounding: Grounding) -> list[Passage]:
        _require_signature()
        return await super().retrieve(query, grounding)

    async def verify(self, quotes: Sequence[Quote]) -> list[Citation | None]:
        _require_signature()
        return await super().verify(quotes)


def _require_signature() -> None:
    received = received_principal()
    if received is None or received.principal != current_principal():
        raise WireroomError(ErrorKind.INTERNAL, "principal_not_signable", "Nobody has signed for this caller.")


@asynccontextmanager
async def _replicas(database: Any, url: str, keys: Path, **settings: Any) -> AsyncIterator[tuple[ChatUnderTest, ChatUnderTest]]:
    shared: dict[str, Any] = {"redis_url": url, "stream_lease": 2.0, **settings}
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(
                chat_under_test(database, keys, "grpc", PASSAGES, source=SignedRetrieval(PASSAGES), **shared)
            )
            for _ in range(2)
        ]
        yield made[0], made[1]


async def _moved(first: ChatUnderTest, second: ChatUnderTest, model: str, texts: int) -> list[conversation_pb2.StreamFrame]:
    """The frames of a stream whose replica is cut off after so many chunks with text."""
    set_current_principal(first.principal)
    body = orjson.dumps({"model": model, "messages": ask(QUESTION), "stream": True})
    call = first.stub.StreamComplete(chat_pb2.StreamCompleteRequest(body=body), timeout=30)
    frames: list[conversation_pb2.StreamFrame] = []
    async for part in call:
        if part.HasField("info"):
            frames.append(conversation_pb2.StreamFrame(seq=part.seq, info=part.info))
        else:
            chunks = enumerate((part.data, *part.more), part.seq)
            frames += [conversation_pb2.StreamFrame(seq=seq, data=data) for seq, data in chunks]
        if len([frame for frame in frames if frame.data and _said([frame])]) >= texts:
            break
    streams = conversation_pb2_grpc.StreamServiceStub(second.channel)
    stream = frames[0].info.completion_id

    async def buffered() -> bool:
        resumed = streams.Resume(conversation_pb2.ResumeRequest(stream_id=stream, after_seq=frames[-1].seq - 1), timeout=5)
        found = (await anext(aiter(resumed))).frame == frames[-1]
        resumed.cancel()
        return found

    await eventually(buffered)
    cut_off(first)
    request = conversation_pb2.ResumeRequest(stream_id=stream, after_seq=frames[-1].seq, tail=frames[-3:])
    frames += [response.frame async for response in streams.Resume(request, timeout=30)]
    call.cancel()
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    return frames


def _said(frames: Sequence[conversation_pb2.StreamFrame]) -> str:
    return text_of([orjson.loads(frame.data) for frame in frames if frame.WhichOneof("part") == "data"])


async def test_another_replica_goes_on_with_a_grounded_answer_and_one_of_an_assistant(
    migrated_database: MigratedDatabase, clean_valkey_url: str, tmp_path: Path
) -> None:
    database = await migrated_database("chat")
    for model in ("grounded", "assistant/news-analyst"):
        async with _replicas(database, clean_valkey_url, tmp_path) as (first, second):
            # A sentence is shown once the next one has begun.
            first.provider.script(tokens=[*SENTENCES[:2], "And"], stall_after=3)
            second.provider.script(tokens=SENTENCES[2:])
            frames = await _moved(first, second, model, 2)
            assert frames[-1].end.status == "completed", frames[-1]
            text = _said(frames)
            assert text.startswith("".join(SENTENCES)), text
            notes = _annotations([orjson.loads(frame.data) for frame in frames if frame.data])
            cited = [text[note["url_citation"]["start_index"] : note["url_citation"]["end_index"]] for note in notes]
            assert cited == [sentence.strip() for sentence in SENTENCES]
            await eventually(lambda: first.provider.live == 0)
            (row,) = [row for row in await second.rows() if row.completion_id == frames[0].info.completion_id]
            assert (row.status, row.citations, len(row.path)) == ("completed", 3, 2)


async def test_an_assistant_whose_tools_change_something_is_not_gone_on_with(
    migrated_database: MigratedDatabase, clean_valkey_url: str, tmp_path: Path
) -> None:
    database = await migrated_database("chat")
    async with _replicas(database, clean_valkey_url, tmp_path) as (first, second):
        first.provider.script(tokens=["Let me see. ", "Then"], stall_after=2)
        frames = await _moved(first, second, "assistant/loan-advisor", 1)
        end = frames[-1].end
        assert (end.status, end.error_code) == ("failed", "stream_lost")
        assert "A tool that changes something" in end.error_detail
        assert not second.provider.requests
        await eventually(lambda: first.provider.live == 0)


async def test_without_its_caller_an_answer_from_sources_is_only_settled(suite: Suite) -> None:
    """Sources are read with the caller's signature, and a sweep has none."""
    suite.a.script(tokens=SENTENCES)
    async with dead_after(suite, 3, model="grounded") as dead:
        dead.opening = Opening(CALLER, dead.opening.generation, 30, {**dead.opening.checkpoint, "attended": False})
        asked = len(suite.retrieval.asked)
        with pytest.raises(WireroomError, match="stream_lost"):
            await dead.taken_up(suite)
        assert len(suite.retrieval.asked) == asked
    await suite.runs.drain()
    (call,) = await suite.usage()
    assert (call.error_code, call.tokens_out > 0) == ("process_lost", True)


# --- what is made of a stream: responses and texts


async def _parts_until(call: Any, enough: Any) -> list[Any]:
    parts = []
    async for part in call:
        parts.append(part)
        if enough(part):
            break
    return parts


async def _all_buffered(replica: ChatUnderTest, frames: Sequence[conversation_pb2.StreamFrame]) -> None:
    streams = conversation_pb2_grpc.StreamServiceStub(replica.channel)
    request = conversation_pb2.ResumeRequest(stream_id=frames[0].info.completion_id, after_seq=frames[-1].seq - 1)

    async def buffered() -> bool:
        resumed = streams.Resume(request, timeout=5)
        found = (await anext(aiter(resumed))).frame == frames[-1]
        resumed.cancel()
        return found

    await eventually(buffered)


async def test_another_replica_makes_the_rest_of_a_response_and_stores_it(
    migrated_database: MigratedDatabase, clean_valkey_url: str, tmp_path: Path
) -> None:
    database = await migrated_database("chat")
    async with _replicas(database, clean_valkey_url, tmp_path) as (first, second):
        first.provider.script(tokens=["One ", "two ", "three ", "four."], stall_after=2)
        second.provider.script(tokens=["three ", "four."])
        set_current_principal(first.principal)
        body = orjson.dumps({"model": "scripted/scripted-model", "input": "Count", "stream": True})
        call = responses_pb2_grpc.ResponseServiceStub(first.channel).StreamResponse(
            responses_pb2.StreamResponseRequest(body=body), timeout=30
        )
        parts = await _parts_until(call, lambda part: b'"two "' in part.event.data)
        frames = [frame for part in parts for frame in part.frames]
        await _all_buffered(second, frames)
        events = [orjson.loads(part.event.data) for part in parts if part.HasField("event")]
        name = events[0]["response"]["id"]
        cut_off(first)
        stub = responses_pb2_grpc.ResponseServiceStub(second.channel)
        request = responses_pb2.ResumeResponseRequest(
            body=body, id=name, stream_id=frames[0].info.completion_id, events=len(events), tail=frames[-4:]
        )
        events += [orjson.loads(part.event.data) async for part in stub.ResumeResponse(request, timeout=30)]
        call.cancel()
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        last = events[-1]
        assert (last["type"], last["response"]["id"]) == ("response.completed", name)
        assert last["response"]["output"][0]["content"][0]["text"] == "One two three four."
        # One item under one name from its first event to its last.
        items = {event["item_id"] for event in events if "item_id" in event} | {last["response"]["output"][0]["id"]}
        assert len(items) == 1
        assert last["response"]["created_at"] == events[0]["response"]["created_at"]
        kept = await stub.GetResponse(responses_pb2.GetResponseRequest(id=name), timeout=10)
        assert orjson.loads(kept.body) == last["response"]
        await eventually(lambda: first.provider.live == 0)
        kept = await stub.GetResponse(responses_pb2.GetResponseRequest(id=name), timeout=10)
        assert orjson.loads(kept.body)["status"] == "completed"
        set_current_principal(replace(CALLER, subject=str(UUID(int=9))))
        with pytest.raises(WireroomError, match="stream_not_found"):
            await anext(aiter(stub.ResumeResponse(request, timeout=10)))


async def test_another_replica_makes_the_rest_of_a_text(
    migrated_database: MigratedDatabase, clean_valkey_url: str, tmp_path: Path
) -> None:
    database = await migrated_database("chat")
    async with _replicas(database, clean_valkey_url, tmp_path) as (first, second):
        first.provider.script(tokens=["One ", "two ", "three ", "four."], stall_after=2)
        second.provider.script(tokens=["three ", "four."])
        set_current_principal(first.principal)
        body = orjson.dumps({"model": "scripted/scripted-model", "prompt": "Count", "stream": True, "max_tokens": 50})
        call = compatibility_pb2_grpc.CompatibilityServiceStub(first.channel).StreamCompleteText(
            compatibility_pb2.StreamCompleteTextRequest(body=body), timeout=30
        )
        parts = await _parts_until(call, lambda part: b'"two "' in part.data)
        frames = [frame for part in parts for frame in part.frames]
        await _all_buffered(second, frames)
        chunks = [part.data for part in parts if part.HasField("data")]
        cut_off(first)
        request = compatibility_pb2.ResumeCompleteTextRequest(
            body=body, stream_id=frames[0].info.completion_id, chunks=len(chunks), tail=frames[-4:]
        )
        rest = compatibility_pb2_grpc.CompatibilityServiceStub(second.channel).ResumeCompleteText(request, timeout=30)
        chunks += [part.data async for part in rest]
        call.cancel()
        choices = [choice for chunk in map(orjson.loads, chunks) for choice in chunk["choices"]]
        assert "".join(choice["text"] for choice in choices) == "One two three four."
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]
        assert len({orjson.loads(chunk)["id"] for chunk in chunks}) == 1
        await eventually(lambda: first.provider.live == 0)
