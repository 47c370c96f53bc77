"""Two scripted providers behind one name, and everything between them and the caller but the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import orjson
from chat_harness import CALLER, MemoryRetrieval, ask, passage
from chat_providers import open_anthropic, open_provider, provider_sessions
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from wireroom_chat.adapters.ledger import SqlLedger
from wireroom_chat.adapters.providers.http import ProviderSessions
from wireroom_chat.domain.catalogue import Catalogue
from wireroom_chat.domain.extractive import QuoteSelector
from wireroom_chat.domain.frames import End, Info
from wireroom_chat.domain.pricing import Pricing
from wireroom_chat.domain.providers import Alias, Candidate, Price, ProviderModel, Strategy
from wireroom_chat.domain.terms import Terms
from wireroom_chat.domain.wire import Links
from wireroom_chat.metrics import ChatMetrics
from wireroom_chat.ports.providers import ChatProvider
from wireroom_chat.usecases.answer_cache import AnswerCache
from wireroom_chat.usecases.completing import CompleteChat
from wireroom_chat.usecases.generating import Generator
from wireroom_chat.usecases.grounding import GroundedAnswer
from wireroom_chat.usecases.quoting import QuotedAnswer
from wireroom_chat.usecases.run import Runs
from wireroom_chat.usecases.streams import Streams
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import WireroomError
from wireroom_common.principal import Principal
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
        # Calls that ended without the provider's fault, and whether it had answered.
        self.releases: list[tuple[str, bool]] = []
        self.blocked: set[str] = set()

    def order(self, candidates: Any, strategy: Strategy) -> list[Candidate]:
        assert strategy is Strategy.ORDERED
        return list(candidates)

    def blocked_for(self, candidate: Candidate) -> float:
        return 60.0 if candidate.model.provider in self.blocked else 0.0

    def began(self, candidate: Candidate) -> None:
        assert candidate.model.provider not in self.blocked

    def succeeded(self, candidate: Candidate, *, first_token_seconds: float, tokens_out: int, seconds: float) -> None:
        assert 0 <= first_token_seconds <= seconds
        assert tokens_out >= 0
        self.successes.append(candidate.model.provider)

    def released(self, candidate: Candidate, *, alive: bool) -> None:
        self.releases.append((candidate.model.provider, alive))

    def failed(self, candidate: Candidate, error: WireroomError) -> None:
        self.failures.append((candidate.model.provider, error.code))


class Suite:
    """Two scripted providers, `a` and `b`, behind the alias `pair`."""

    def __init__(
        self,
        database: Database,
        a: ScriptedProvider,
        b: ScriptedProvider,
        providers: Mapping[str, ChatProvider],
        sessions: ProviderSessions,
    ) -> None:
        self.sessions = sessions
        self.database, self.a, self.b = database, a, b
        self.providers = providers
        self.health = Health()
        self.retrieval = MemoryRetrieval(PASSAGES)
        self.completing = self.build()

    def build(self, *, prefill: bool = False, cache: AnswerCache | None = None) -> CompleteChat:
        clock, terms = SystemClock(), Terms()
        selector = QuoteSelector(terms)
        retrieval = self.retrieval
        directory = Directory(self.providers, prefill=prefill)
        self.runs = Runs(SqlLedger(self.database, clock), Pricing(None), clock, ChatMetrics(CollectorRegistry()))
        return CompleteChat(
            directory=directory,
            generator=Generator(directory, self.health, jitter=lambda: 0.0),
            quoted=QuotedAnswer(retrieval, selector),
            grounded=GroundedAnswer(retrieval, selector, terms),
            runs=self.runs,
            streams=Streams(),
            links=Links("http://127.0.0.1:8000"),
            terms=terms,
            cache=cache,
        )

    def speak_anthropic(self, *names: str) -> None:
        """Providers that cannot say all that OpenAI's can."""
        for name in names:
            server = self.a if name == "a" else self.b
            self.providers = {**self.providers, name: open_anthropic(name, server.base_url, self.sessions)}
        self.completing = self.build()

    async def stream(self, principal: Principal = CALLER, **members: Any) -> tuple[list[Info], list[dict[str, Any]], End | None]:
        infos: list[Info] = []
        chunks: list[dict[str, Any]] = []
        end = None
        async with aclosing(self.completing.stream(principal, body_of(members))) as frames:
            async for frame in frames:
                if isinstance(frame.part, Info):
                    infos.append(frame.part)
                elif isinstance(frame.part, bytes):
                    chunks.append(orjson.loads(frame.part))
                else:
                    end = frame.part
        return infos, chunks, end

    async def complete(self, principal: Principal = CALLER, **members: Any) -> tuple[dict[str, Any], Info]:
        body, info = await self.completing.complete(principal, body_of(members))
        return orjson.loads(body), info

    async def usage(self) -> list[Any]:
        await self.runs.drain()
        async with self.database.tenant(CALLER.tenant()) as connection:
            return list((await connection.execute(text("SELECT * FROM usage ORDER BY generation_id, number"))).all())


def body_of(members: Mapping[str, Any]) -> bytes:
    return orjson.dumps({"model": "pair", "messages": ask(QUESTION), **members})


def text_of(chunks: list[dict[str, Any]]) -> str:
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def reasons_of(chunks: list[dict[str, Any]]) -> list[str]:
    return [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]]


@asynccontextmanager
async def suite_of(database: Database) -> AsyncIterator[Suite]:
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(ScriptedProvider())
        b = await stack.enter_async_context(ScriptedProvider())
        sessions = provider_sessions()
        await sessions.start()
        stack.push_async_callback(sessions.stop)
        providers = {name: open_provider(name, server.base_url, sessions) for name, server in (("a", a), ("b", b))}
        yield Suite(database, a, b, providers, sessions)
