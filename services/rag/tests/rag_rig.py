"""The rag service on a real database, with real files, model and processes; only the news service beside it is scripted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc.aio
from google.protobuf.message import Message
from opentelemetry import trace
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from wireroom_common.bus import Catalogue, Envelope, event_type
from wireroom_common.bus.delivery import BusMetrics, Deliverer
from wireroom_common.cache import Caches
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import not_found
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind, current_principal, set_current_principal
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    ensure_key,
    load_trusted,
)
from wireroom_common.testing import eventually
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.news.v1 import news_pb2, news_pb2_grpc
from wireroom_protos.rag.v1 import (
    access_pb2_grpc,
    collections_pb2_grpc,
    file_batches_pb2_grpc,
    generations_pb2_grpc,
    privacy_pb2_grpc,
    processing_pb2_grpc,
    rag_pb2,
    rag_pb2_grpc,
)
from wireroom_rag.adapters.connections import worker
from wireroom_rag.app import build
from wireroom_rag.embedding.files import ModelFiles
from wireroom_rag.settings import RagSettings

FINAL = (rag_pb2.DOCUMENT_STATE_INDEXED, rag_pb2.DOCUMENT_STATE_REJECTED, rag_pb2.DOCUMENT_STATE_FAILED)
ALL_PERMISSIONS = frozenset({"docs:read", "docs:write", "news:read"})
PART = 64 * 1024


@dataclass(frozen=True)
class User:
    """A caller."""

    tenant_id: UUID = field(default_factory=uuid4)
    user_id: UUID = field(default_factory=uuid4)
    permissions: frozenset[str] = ALL_PERMISSIONS
    roles: frozenset[str] = frozenset()

    def principal(self) -> Principal:
        return Principal(
            PrincipalKind.USER, str(self.user_id), self.tenant_id, self.roles, self.permissions, credential_id=str(uuid4())
        )


class ScriptedNews(news_pb2_grpc.NewsServiceServicer):
    """Articles by (tenant, id, version); anything else is NOT_FOUND. An exception in `fail_with` answers the next calls."""

    def __init__(self) -> None:
        self.articles: dict[tuple[UUID, UUID, int], news_pb2.Article] = {}
        self.callers: list[Principal] = []
        self.fail_with: list[Exception] = []

    async def GetArticle(self, request: news_pb2.GetArticleRequest, context: Any) -> news_pb2.GetArticleResponse:  # noqa: N802, ARG002 - the rpc's signature
        principal = current_principal()
        self.callers.append(principal)
        if self.fail_with:
            raise self.fail_with.pop()
        article = self.articles.get((principal.tenant(), UUID(request.id), request.version))
        if article is None:
            raise not_found("article")
        return news_pb2.GetArticleResponse(article=article)

    async def ListArticles(self, request: news_pb2.ListArticlesRequest, context: Any) -> news_pb2.ListArticlesResponse:  # noqa: N802 - the rpc's signature
        del request, context
        raise AssertionError("rag reads single articles, it lists none.")


class _Infra:
    def __init__(self, database: Database, folder: Path, channel: grpc.aio.Channel) -> None:
        self.registry = CollectorRegistry()
        self.clock = SystemClock()
        self.told_to_stop = False
        self._database = database
        self._folder = folder
        self._channel = channel
        self._caches = Caches(None, self.clock, self.registry)

    def database(self, service: str) -> Database:
        assert service == "rag"
        return self._database

    def channel(self, service: str) -> grpc.aio.Channel:
        assert service == "news"
        return self._channel

    def data_dir(self, service: str) -> str:
        path = self._folder / service
        path.mkdir(exist_ok=True)
        return str(path)

    def caches(self) -> Caches:
        return self._caches

    def draining(self) -> bool:
        return self.told_to_stop

    def redis(self) -> Any:
        raise AssertionError("The rag service uses no Redis.")

    def secret(self, name: str) -> bytes:
        raise AssertionError(f"The rag service needs no secret ({name}).")

    def announce(self, message: str) -> None:
        raise AssertionError(f"The rag service has nothing to announce ({message}).")


class Rag:
    """One running instance and a user's hands on it."""

    def __init__(self, database: Database, folder: Path, model_files: ModelFiles, settings: Mapping[str, Any]) -> None:
        self.database = database
        self.folder = folder
        self.news = ScriptedNews()
        network = LocalNetwork()
        clock = SystemClock()
        tracer = trace.get_tracer("test")
        keys = folder / "keys"
        signers = {name: PrincipalSigner(name, ensure_key(keys, name), clock) for name in ("gateway", "rag")}
        verifier = PrincipalVerifier(load_trusted(keys), clock)
        server_metrics, client_metrics = ServerMetrics(CollectorRegistry()), ClientMetrics(CollectorRegistry())
        guard = CallGuard(verifier=verifier, metrics=server_metrics, tracer=tracer)
        self._servers = {name: network.server(name, interceptors=(guard,)) for name in ("rag", "news")}

        def channel(role: str, service: str) -> ServiceChannel:
            return ServiceChannel(network.channel(service), signer=signers[role], metrics=client_metrics, tracer=tracer)

        self._channels = [channel("gateway", "rag"), channel("rag", "news")]
        self.infra = _Infra(database, folder, self._channels[1])
        self.service = build(
            RagSettings(**{"model_dir": str(model_files.directory), "poll_seconds": 0.05, **settings}), self.infra
        )
        self.documents: Any = rag_pb2_grpc.DocumentServiceStub(self._channels[0])
        self.retrieval: Any = rag_pb2_grpc.RetrievalServiceStub(self._channels[0])
        self.processing: Any = processing_pb2_grpc.ProcessingServiceStub(self._channels[0])
        self.collections: Any = collections_pb2_grpc.CollectionServiceStub(self._channels[0])
        self.batches: Any = file_batches_pb2_grpc.FileBatchServiceStub(self._channels[0])
        self.generations: Any = generations_pb2_grpc.IndexServiceStub(self._channels[0])
        self.access: Any = access_pb2_grpc.AccessServiceStub(self._channels[0])
        self.export: Any = privacy_pb2_grpc.DocumentExportServiceStub(self._channels[0])
        self.receipts: Any = access_pb2_grpc.ReceiptServiceStub(self._channels[0])
        catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
        self._deliverer = Deliverer(catalogue, BusMetrics(CollectorRegistry()), clock)

    @property
    def channel(self) -> ServiceChannel:
        """To this service."""
        return self._channels[0]

    async def start(self) -> None:
        news_pb2_grpc.add_NewsServiceServicer_to_server(self.news, self._servers["news"])
        for register in self.service.rpc:
            register(self._servers["rag"])
        assert self.service.start is not None
        await self.service.start()
        for server in self._servers.values():
            await server.start()

    async def stop(self) -> None:
        for server in self._servers.values():
            await server.stop(1.0)
        assert self.service.stop is not None
        await self.service.stop()
        for channel in self._channels:
            await channel.close()

    def user(self, **fields: Any) -> User:
        """A new caller; of a tenant of its own unless `tenant_id` is given."""
        return User(**fields)

    async def upload(self, user: User, name: str, data: bytes | AsyncIterator[bytes], **head: Any) -> rag_pb2.Document:
        async def requests() -> AsyncIterator[rag_pb2.UploadDocumentRequest]:
            yield rag_pb2.UploadDocumentRequest(head=rag_pb2.UploadHead(filename=name, **head))
            if isinstance(data, bytes):
                for start in range(0, len(data), PART):
                    yield rag_pb2.UploadDocumentRequest(data=data[start : start + PART])
            else:
                async for part in data:
                    yield rag_pb2.UploadDocumentRequest(data=part)

        set_current_principal(user.principal())
        response = await self.documents.UploadDocument(requests())
        return response.document

    async def get(self, user: User, document_id: str) -> rag_pb2.Document:
        set_current_principal(user.principal())
        return (await self.documents.GetDocument(rag_pb2.GetDocumentRequest(id=document_id))).document

    async def delete(self, user: User, document_id: str) -> None:
        set_current_principal(user.principal())
        await self.documents.DeleteDocument(rag_pb2.DeleteDocumentRequest(id=document_id))

    async def processed(self, user: User, document_id: str, *, within: float = 30.0) -> rag_pb2.Document:
        """The document once its state is final."""

        async def final() -> rag_pb2.Document | None:
            document = await self.get(user, document_id)
            return document if document.state in FINAL else None

        return await eventually(final, within=within, what="document in a final state")

    async def index(self, user: User, name: str, data: bytes, **head: Any) -> rag_pb2.Document:
        """Upload and wait."""
        return await self.processed(user, (await self.upload(user, name, data, **head)).id)

    async def retrieve(self, user: User, query: str, **request: Any) -> list[rag_pb2.Passage]:
        set_current_principal(user.principal())
        return list((await self.retrieval.Retrieve(rag_pb2.RetrieveRequest(query=query, **request))).passages)

    async def verify(self, user: User, *spans: rag_pb2.Span) -> list[rag_pb2.VerifiedCitation]:
        set_current_principal(user.principal())
        return list((await self.retrieval.VerifyCitations(rag_pb2.VerifyCitationsRequest(spans=spans))).citations)

    async def resolve(self, user: User, citation_id: str) -> rag_pb2.ResolveCitationResponse:
        set_current_principal(user.principal())
        return await self.retrieval.ResolveCitation(rag_pb2.ResolveCitationRequest(citation_id=citation_id))

    async def deliver(self, tenant_id: UUID, event: Message, *, consumer: str = "rag.articles") -> None:
        """One event from another service, through the inbox."""
        subscription = next(entry for entry in self.service.subscriptions if entry.consumer == consumer)
        envelope = Envelope(
            id=new_id(),
            source="news",
            type=event_type(event),
            time=SystemClock().now(),
            subject="",
            data=event.SerializeToString(),
            tenant_id=tenant_id,
        )
        await self._deliverer.work(subscription, envelope)

    async def rows(self, tenant_id: UUID, query: str, **values: Any) -> list[Any]:
        """Rows of the tenant, whoever may read them."""
        async with worker(self.database, tenant_id) as connection:
            return list((await connection.execute(text(query), values)).all())

    async def run(self, name: str) -> None:
        """One turn of the service's periodic work."""
        await next(entry for entry in self.service.periodic if entry.name == name).run()

    async def events(self) -> list[str]:
        """Types of the events written so far, in order."""
        async with self.database.system() as connection:
            return list((await connection.execute(text("SELECT type FROM outbox ORDER BY id"))).scalars())

    def blobs(self) -> list[Path]:
        """The files in blob storage."""
        return [path for path in (self.folder / "rag" / "blobs").rglob("*") if path.is_file()]


StartRag = Callable[..., Awaitable[Rag]]
