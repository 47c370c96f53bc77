"""Several providers behind one name: what a caller sees and what is booked when one of them fails, at whichever token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import orjson
import pytest
import pytest_asyncio
from chat_harness import CALLER, MemoryRetrieval, ask, passage
from chat_providers import open_provider, provider_sessions
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.continuation import CONTINUE
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.pricing import Pricing
from wireroom_chat.domain.providers import Alias, Candidate, Price, ProviderModel, Strategy
from wireroom_chat.domain.terms import Terms, count_tokens
from wireroom_chat.domain.wire import Links
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.ports import ChatProvider
from wireroom_chat.usecases.completing import CompleteChat
from wireroom_chat.usecases.generating import Generator
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import NO_PROVIDER, QuotedAnswer
from wireroom_chat.usecases.run import Runs
from wireroom_chat.usecases.streams import End, Info, Streams
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_common.testing.scripted_provider import ScriptedProvider

PRICE = Price(1_000_000, 3_000_000, "test")
QUESTION = "How much water does the Aurora pump deliver?"
PASSAGES = [
    passage(
        1, "The Aurora pump delivers 14 litres per minute. Its motor draws 450 watts.", title="Aurora manual", dense_score=0.62
    )
]
TOKENS = [f" word{number}" for number in range(200)]


class Directory:
    """The candidates of one alias, `pair`."""

    def __init__(self, providers: Mapping[str, ChatProvider], *, prefill: bool = False) -> None:
        self._providers = providers
        candidates = [Candidate(ProviderModel(name, "m", PRICE, prefill=prefill)) for name in providers]
        self._catalogue = Catalogue(candidates, [Alias("pair", tuple(candidates))], default="pair")

    def catalogue(self) -> Catalogue:
        return self._catalogue

    def provider(self, candidate: Candidate) -> ChatProvider:
        return self._providers[candidate.model.provider]


class Health:
    """Keeps the order and writes down what it hears."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.successes: list[str] = []
        self.blocked: set[str] = set()

    def order(self, candidates: Any, strategy: Strategy) -> list[Candidate]:
        assert strategy is Strategy.ORDERED
        return list(candidates)

    def blocked_for(self, candidate: Candidate) -> float:
        return 60.0 if candidate.model.provider in self.blocked else 0.0

    def succeeded(self, candidate: Candidate, *, first_token_seconds: float, tokens_out: int, seconds: float) -> None:
        assert 0 <= first_token_seconds <= seconds
        assert tokens_out >= 0
        self.successes.append(candidate.model.provider)

    def failed(self, candidate: Candidate, error: WireroomError) -> None:
        self.failures.append((candidate.model.provider, error.code))


class Suite:
    """Two scripted providers, `a` and `b`, behind the alias `pair`."""

    def __init__(
        self, database: Database, a: ScriptedProvider, b: ScriptedProvider, providers: Mapping[str, ChatProvider]
    ) -> None:
        self.database, self.a, self.b = database, a, b
        self.providers = providers
        self.health = Health()
        self.completing = self.build()

    def build(self, *, prefill: bool = False) -> CompleteChat:
        clock, terms = SystemClock(), Terms()
        selector = QuoteSelector(terms)
        retrieval = MemoryRetrieval(PASSAGES)
        directory = Directory(self.providers, prefill=prefill)
        self.runs = Runs(SqlLedger(self.database), Pricing(None), clock, ChatMetrics(CollectorRegistry()))
        return CompleteChat(
            directory=directory,
            generator=Generator(directory, self.health, jitter=lambda: 0.0),
            quoted=QuotedAnswer(retrieval, selector),
            grounded=GroundedAnswer(retrieval, selector, terms),
            runs=self.runs,
            streams=Streams(),
            links=Links("http://127.0.0.1:8000"),
        )

    async def stream(self, **members: Any) -> tuple[list[Info], list[dict[str, Any]], End | None]:
        infos: list[Info] = []
        chunks: list[dict[str, Any]] = []
        end = None
        async with aclosing(self.completing.stream(CALLER, _body(members))) as frames:
            async for frame in frames:
                if isinstance(frame.part, Info):
                    infos.append(frame.part)
                elif isinstance(frame.part, bytes):
                    chunks.append(orjson.loads(frame.part))
                else:
                    end = frame.part
        return infos, chunks, end

    async def complete(self, **members: Any) -> tuple[dict[str, Any], Info]:
        body, info = await self.completing.complete(CALLER, _body(members))
        return orjson.loads(body), info

    async def usage(self) -> list[Any]:
        await self.runs.drain()
        async with self.database.tenant(CALLER.tenant()) as connection:
            return list((await connection.execute(text("SELECT * FROM usage ORDER BY generation_id, number"))).all())


def _body(members: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"model": "pair", "messages": ask(QUESTION), **members})


def _text(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def _reasons(chunks: list[dict[str, Any]]) -> list[str]:
    return [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]


@asynccontextmanager
async def _suite(database: Database) -> AsyncIterator[Suite]:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(ScriptedProvider())
        b = await stack.enter_async_context(ScriptedProvider())
        sessions = provider_sessions()
        await sessions.start()
        stack.push_async_callback(sessions.stop)
        providers = {name: open_provider(name, server.base_url, sessions) for name, server in (("a", a), ("b", b))}
        yield Suite(database, a, b, providers)


@pytest_asyncio.fixture
async def suite(migrated_database: MigratedDatabase) -> AsyncIterator[Suite]:
    async with _suite(await migrated_database("chat")) as made:
        yield made


@pytest.mark.parametrize("prefill", [False, True])
async def test_stream_cut_at_any_token_is_continued_by_the_next_provider(suite: Suite, prefill: bool) -> None:  # noqa: FBT001 - a parameter
    suite.completing = suite.build(prefill=prefill)
    prompt = count_tokens(QUESTION)
    for cut in range(len(TOKENS) + 1):
        suite.a.script(tokens=TOKENS, cut_after=cut, prompt_tokens=prompt)
        suite.b.script(tokens=TOKENS[cut:], prompt_tokens=prompt)
        infos, chunks, _ = await suite.stream(stream_options={"include_usage": True})
        assert _text(chunks) == "".join(TOKENS), cut
        assert _reasons(chunks) == ["stop"], cut
        assert [info.path for info in infos] == [("a/m",), ("a/m", "b/m")], cut
        roles = [choice["delta"]["role"] for chunk in chunks for choice in chunk["choices"] if choice["delta"].get("role")]
        assert roles == ["assistant"], cut
        assert chunks[-1]["usage"]["completion_tokens"] == len(TOKENS)
        assert len({chunk["id"] for chunk in chunks}) == 1
        sent = suite.b.requests[-1].body["messages"][1:]
        written = "".join(TOKENS[:cut])
        expected = [{"role": "assistant", "content": written}] if written else []
        if written and not prefill:
            expected.append({"role": "user", "content": CONTINUE})
        assert sent == expected, cut
    rows = await suite.usage()
    assert [row.number for row in rows] == [1, 2] * (len(TOKENS) + 1)
    first, second = rows[::2], rows[1::2]
    # A broken stream sends no usage: our own count, which is the provider's here.
    assert [row.tokens_out for row in first] == list(range(len(TOKENS) + 1))
    assert {row.tokens_in for row in first} == {prompt}
    assert [row.tokens_out for row in second] == [len(TOKENS) - cut for cut in range(len(TOKENS) + 1)]
    assert all(row.micros == row.tokens_in + 3 * row.tokens_out for row in rows)
    assert {(row.provider, row.status) for row in rows} == {("a", "failed"), ("b", "completed")}


async def test_continuation_that_repeats_the_end_is_joined_without_it(suite: Suite) -> None:
    suite.a.script(tokens=TOKENS, cut_after=50)
    suite.b.script(tokens=TOKENS[45:])
    _, chunks, _ = await suite.stream()
    assert _text(chunks) == "".join(TOKENS)


async def test_continuation_that_begins_anew_is_joined_without_the_repetition(suite: Suite) -> None:
    suite.a.script(tokens=TOKENS, cut_after=50)
    suite.b.script(tokens=TOKENS)
    _, chunks, _ = await suite.stream()
    assert _text(chunks) == "".join(TOKENS)


@pytest.mark.parametrize(
    "members",
    [
        {"disable_fallback": True},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
    ],
    ids=["disabled", "tools", "choices", "logprobs", "json"],
)
async def test_what_cannot_be_joined_ends_with_an_error_after_the_first_token(suite: Suite, members: dict[str, Any]) -> None:
    suite.a.script(tokens=TOKENS, cut_after=3)
    with pytest.raises(WireroomError) as caught:
        await suite.stream(**members)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert suite.b.started == 0


async def test_before_the_first_token_even_tools_move_to_the_next_provider(suite: Suite) -> None:
    suite.a.script(tokens=TOKENS, cut_after=0)
    suite.b.script(tokens=["ok"])
    _, chunks, _ = await suite.stream(tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    assert _text(chunks) == "ok"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_refusals_move_to_the_next_provider(suite: Suite, status: int, stream: bool) -> None:  # noqa: FBT001 - a parameter
    suite.a.script(status=status)
    suite.b.script(tokens=["from b"])
    if stream:
        _, chunks, _ = await suite.stream()
        assert _text(chunks) == "from b"
    else:
        answer, info = await suite.complete()
        assert answer["choices"][0]["message"]["content"] == "from b"
        assert info.path == ("a/m", "b/m")
    assert [provider for provider, _ in suite.health.failures] == ["a"]
    assert suite.health.successes == ["b"]
    rows = await suite.usage()
    assert next((row.provider, row.tokens_in, row.tokens_out, row.micros) for row in rows) == ("a", 0, 0, 0)


async def test_request_that_is_wrong_is_asked_of_one_provider_only(suite: Suite) -> None:
    suite.a.script(status=400)
    with pytest.raises(WireroomError) as caught:
        await suite.complete()
    assert caught.value.code == "provider_rejected_request"
    assert suite.b.started == 0
    assert suite.health.failures == []


async def test_fallback_that_is_disabled_is_not_used(suite: Suite) -> None:
    suite.a.script(status=500)
    with pytest.raises(WireroomError) as caught:
        await suite.complete(disable_fallback=True)
    assert caught.value.code == "provider_unavailable"
    assert suite.b.started == 0
    assert all("disable_fallback" not in request.body for request in suite.a.requests)


async def test_provider_in_cooldown_is_not_asked(suite: Suite) -> None:
    suite.health.blocked = {"a"}
    suite.b.script(tokens=["from b"])
    answer, _ = await suite.complete()
    assert answer["choices"][0]["message"]["content"] == "from b"
    assert suite.a.started == 0


async def test_second_round_finds_a_provider_that_came_back(suite: Suite) -> None:
    suite.a.enqueue(status=500)
    suite.a.script(tokens=["back"])
    suite.b.script(status=500)
    answer, info = await suite.complete()
    assert answer["choices"][0]["message"]["content"] == "back"
    assert info.path == ("a/m", "b/m", "a/m")


@pytest.mark.parametrize("model", ["pair", "grounded"])
@pytest.mark.parametrize("stream", [False, True])
async def test_all_providers_down_ends_in_quotes(suite: Suite, model: str, stream: bool) -> None:  # noqa: FBT001 - a parameter
    suite.a.script(status=500)
    suite.b.script(status=503)
    if stream:
        infos, chunks, _ = await suite.stream(model=model)
        content, mode = _text(chunks), infos[0].answer_mode
        assert _reasons(chunks) == ["stop"]
    else:
        answer, info = await suite.complete(model=model)
        content, mode = answer["choices"][0]["message"]["content"], info.answer_mode
    assert content.startswith(NO_PROVIDER)
    assert "The Aurora pump delivers 14 litres per minute. [1]" in content
    assert mode == "extractive"


@pytest.mark.parametrize("members", [{"disable_fallback": True}, {"messages": ask("Who won the tournament in Paris?")}, {"n": 2}])
async def test_all_providers_down_without_fitting_quotes_is_an_error(suite: Suite, members: dict[str, Any]) -> None:
    suite.a.script(status=500)
    suite.b.script(status=500)
    with pytest.raises(WireroomError) as caught:
        await suite.complete(**members)
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert caught.value.retry_after


async def test_leaving_callers_stop_every_generation_and_each_is_booked(suite: Suite) -> None:
    """Callers that leave at random moments: nothing goes on generating, and each has its row."""
    prompt = count_tokens(QUESTION)
    suite.a.script(tokens=TOKENS, token_delay=0.002, prompt_tokens=prompt)
    leaving = 200

    async def leave(number: int) -> None:
        async with aclosing(suite.completing.stream(CALLER, _body({}))) as frames:
            seen = 0
            async for _ in frames:
                seen += 1
                if seen > number % 40:
                    return

    await asyncio.gather(*(leave(number) for number in range(leaving)))
    await eventually(lambda: suite.a.live == 0, within=1.0)
    rows = await suite.usage()
    assert len(rows) == leaving
    assert {row.status for row in rows} == {"cancelled"}
    assert all(row.tokens_in == prompt for row in rows)
