"""The whole chat service on real servers: PostgreSQL, the scripted provider, both kinds of channel; only its neighbour rag is ours."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import grpc.aio
import orjson
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from sqlalchemy import text

from wireroom_chat.app import assemble
from wireroom_chat.domain.passages import Citation, Passage, Quote, SourceKind, Span
from wireroom_chat.domain.request import Grounding
from wireroom_chat.domain.terms import Terms
from wireroom_chat.ports.retrieval import Retrieval
from wireroom_chat.settings import ChatSettings
from wireroom_common.cache import Caches
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind, set_current_principal
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    ensure_key,
    grpc_server,
    load_trusted,
    open_channel,
)
from wireroom_common.runtime.service import Service
from wireroom_common.testing.scripted_provider import ScriptedProvider
from wireroom_protos.chat.v1 import chat_pb2, chat_pb2_grpc
from wireroom_protos.events.v1 import events_pb2

TENANT = UUID("0198a000-0000-7000-8000-000000000001")
OTHER_TENANT = UUID("0198a000-0000-7000-8000-000000000002")
USER = UUID("0198a000-0000-7000-8000-0000000000aa")
CALLER = Principal(PrincipalKind.USER, str(USER), TENANT, frozenset({"Analyst"}), frozenset({"llm:invoke"}))
# A port where nobody listens.
NO_REDIS = "redis://127.0.0.1:1/0"
FIXTURES = Path(__file__).parent / "fixtures"


def passage(number: int, content: str, **changes: Any) -> Passage:
    values: dict[str, Any] = {
        "id": f"p{number}",
        "document_id": f"0198a000-0000-7000-8000-{number:012d}",
        "version": 1,
        "kind": SourceKind.DOCUMENT,
        "title": "",
        "url": "",
        "page": 1,
        "start": 100,
        "end": 100 + len(content),
        "text": content,
        "score": 0.03,
        "dense_score": 0.5,
        "lexical_score": 2.0,
    }
    return Passage(**(values | changes))


class MemoryRetrieval:
    """Passages in memory. Ranks by shared stems, or gives `fixed`; verifies quotes against the passages' texts."""

    def __init__(self, passages: Sequence[Passage], *, fixed: bool = True) -> None:
        self.passages = list(passages)
        self.fixed = fixed
        self.refuse_quotes = False
        self.asked: list[tuple[str, Grounding]] = []
        self.verified: list[list[Quote]] = []
        self.checked: list[list[Span]] = []
        self._terms = Terms()

    async def retrieve(self, query: str, grounding: Grounding) -> list[Passage]:
        self.asked.append((query, grounding))
        found = [item for item in self.passages if not grounding.kinds or item.kind in grounding.kinds]
        if not self.fixed:
            wanted = set(self._terms.question(query))
            found = sorted(found, key=lambda item: -len(wanted & set(self._terms.content(item.text))))
        return found[: grounding.top_k]

    async def verify(self, quotes: Sequence[Quote]) -> list[Citation | None]:
        self.verified.append(list(quotes))
        return [None if self.refuse_quotes else self._verify(quote) for quote in quotes]

    async def stand(self, spans: Sequence[Span]) -> bool:
        self.checked.append(list(spans))
        return all(
            any(span.document_id == item.document_id and span.quote in item.text for item in self.passages) for span in spans
        )

    def _verify(self, quote: Quote) -> Citation | None:
        for item in self.passages:
            start, end = quote.span
            if item.document_id == quote.passage.document_id and quote.text in item.text[start - item.start : end - item.start]:
                digest = hashlib.sha256(f"{item.document_id}:{start}:{end}:{quote.text}".encode()).hexdigest()
                return Citation(quote, f"c-{digest[:16]}")
        return None


class NoVectors:
    """No model at hand: only the very same question finds a kept answer."""

    async def vector(self, content: str) -> Sequence[float]:
        return (await self.vectors([content]))[0][0]

    async def vectors(self, texts: Sequence[str]) -> list[tuple[Sequence[float], int]]:
        del texts
        raise WireroomError(ErrorKind.UNAVAILABLE, "embedding_model_not_loaded", "No model in this test.")


class TestInfra:
    """What the runtime would hand to the service."""

    __test__ = False

    def __init__(self, database: Database, redis_url: str = NO_REDIS) -> None:
        self._database = database
        self._redis = Redis.from_url(redis_url, socket_timeout=2, socket_connect_timeout=2)
        self.registry = CollectorRegistry()
        self.clock = SystemClock()
        self._caches = Caches(self._redis, self.clock, self.registry)

    def database(self, service: str) -> Database:
        assert service == "chat"
        return self._database

    def redis(self) -> Any:
        return self._redis

    def caches(self) -> Caches:
        return self._caches

    def channel(self, service: str) -> grpc.aio.Channel:
        raise AssertionError(f"No channel to {service} in this test.")

    def data_dir(self, service: str) -> str:
        raise AssertionError(f"{service} keeps no files.")

    def secret(self, name: str) -> bytes:
        assert name == "master"
        return b"master secret of the test, 32 bytes and more"

    def announce(self, message: str) -> None:
        raise AssertionError(message)

    def public_url(self) -> str:
        return "http://127.0.0.1:8000"

    def draining(self) -> bool:
        return False


@dataclass
class ChatUnderTest:
    service: Service
    database: Database
    provider: ScriptedProvider
    retrieval: MemoryRetrieval
    stub: chat_pb2_grpc.InferenceServiceStub
    principal: Principal = CALLER
    infra: TestInfra | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    # For the stubs of other services.
    channel: Any = None

    async def complete(self, **members: Any) -> dict[str, Any]:
        response = await self.complete_response(**members)
        answer: dict[str, Any] = orjson.loads(response.body)
        return answer

    async def complete_response(self, **members: Any) -> chat_pb2.CompleteResponse:
        set_current_principal(self.principal)
        return await self.stub.Complete(chat_pb2.CompleteRequest(body=_body(members)), timeout=30)

    async def stream(self, **members: Any) -> tuple[chat_pb2.CompletionInfo, list[bytes]]:
        set_current_principal(self.principal)
        call = self.stub.StreamComplete(chat_pb2.StreamCompleteRequest(body=_body({**members, "stream": True})), timeout=30)
        info, chunks = None, []
        async with aclosing(aiter_of(call)) as parts:
            async for part in parts:
                if part.WhichOneof("part") == "info":
                    assert info is None
                    assert not chunks
                    info = part.info
                else:
                    chunks += [part.data, *part.more]
        assert info is not None
        return info, chunks

    async def rows(self) -> list[Any]:
        async with self.database.tenant(TENANT) as connection:
            return list((await connection.execute(text("SELECT * FROM generations ORDER BY id"))).all())

    async def events(self) -> list[tuple[str, Any]]:
        classes = {
            "chat.completion.completed": events_pb2.ChatCompletionCompleted,
            "chat.completion.failed": events_pb2.ChatCompletionFailed,
            "chat.completion.cancelled": events_pb2.ChatCompletionCancelled,
        }
        async with self.database.system() as connection:
            found = (await connection.execute(text("SELECT type, data FROM outbox ORDER BY id"))).all()
        return [(row.type, classes[row.type].FromString(bytes(row.data))) for row in found if row.type in classes]


async def aiter_of(call: Any) -> AsyncIterator[Any]:
    async for item in call:
        yield item


def ask(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def _body(members: dict[str, Any]) -> bytes:
    return orjson.dumps({"messages": ask("What is it?"), **members})


def provider_settings(provider: ScriptedProvider, **changes: Any) -> ChatSettings:
    entry = {"name": "scripted", "base_url": provider.base_url, "api_key": "sk-secret-of-the-test", "models": ["scripted-model"]}
    return ChatSettings(providers=[entry], **changes)


@asynccontextmanager
async def chat_under_test(
    database: Database,
    key_dir: Path,
    channel_kind: str,
    passages: Sequence[Passage],
    *,
    with_provider: bool = True,
    redis_url: str = NO_REDIS,
    source: Retrieval | None = None,
    **settings: Any,
) -> AsyncIterator[ChatUnderTest]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(ScriptedProvider())
        infra = TestInfra(database, redis_url)
        retrieval = MemoryRetrieval(passages)
        chosen = provider_settings(provider, **settings) if with_provider else ChatSettings(**settings)
        service = assemble(chosen, infra, source or retrieval, NoVectors())
        assert service.start is not None
        assert service.stop is not None
        await service.start()
        stack.push_async_callback(service.stop)

        key = ensure_key(key_dir, "gateway")
        verifier = PrincipalVerifier(load_trusted(key_dir), clock, reload=lambda: load_trusted(key_dir))
        guard = CallGuard(verifier=verifier, metrics=ServerMetrics(infra.registry), tracer=NoOpTracer())
        network = LocalNetwork()
        if channel_kind == "local":
            server = network.server("chat", interceptors=(guard,))
            target = "local:chat"
        else:
            server = grpc_server(guard)
            target = f"grpc://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        for register in service.rpc:
            register(server)
        await server.start()
        stack.push_async_callback(server.stop, 1.0)
        channel = ServiceChannel(
            open_channel(target, network),
            signer=PrincipalSigner("gateway", key, clock),
            metrics=ClientMetrics(infra.registry),
            tracer=NoOpTracer(),
        )
        stack.push_async_callback(channel.close)
        yield ChatUnderTest(
            service, database, provider, retrieval, chat_pb2_grpc.InferenceServiceStub(channel), infra=infra, channel=channel
        )
