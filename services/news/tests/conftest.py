"""A news service on a real database, reached through real calls, and a feed server on this machine."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from wireroom_common.bus import Catalogue
from wireroom_common.cache import Caches
from wireroom_common.clock import Clock, SystemClock
from wireroom_common.db import Database
from wireroom_common.errors import WireroomError
from wireroom_common.principal import Principal, PrincipalKind, set_current_principal
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
)
from wireroom_common.runtime.service import Service
from wireroom_news.app import build
from wireroom_news.settings import NewsSettings
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.news.v1 import news_pb2, news_pb2_grpc

CATALOGUE = Catalogue.from_files(events_pb2.DESCRIPTOR)
TABLES = ("feeds", "articles", "article_versions", "article_keys", "feed_fetches")
ALL = frozenset({"feeds:manage", "news:read"})


@dataclass
class FeedServer:
    """Serves what a test puts under a path; remembers the requests."""

    port: int
    routes: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def put(self, path: str, body: str | bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        """Answer `path` with `body`; an ETag in `headers` is honoured."""
        data = body.encode() if isinstance(body, str) else body
        given = headers or {}

        async def answer(request: web.Request) -> web.StreamResponse:
            if "ETag" in given and request.headers.get("If-None-Match") == given["ETag"]:
                return web.Response(status=304, headers=given)
            return web.Response(body=data, status=status, headers={"Content-Type": "application/xml", **given})

        self.routes[path] = answer

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.headers)))
        route = self.routes.get(request.path)
        return web.Response(status=404) if route is None else await route(request)


@dataclass
class TestInfra:
    __test__ = False
    db: Database
    clock: Clock
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    redis_client: Any = None
    opened: Caches | None = None

    def caches(self) -> Caches:
        self.opened = self.opened or Caches(self.redis_client, self.clock, self.registry)
        return self.opened

    def database(self, service: str) -> Database:
        assert service == "news"
        return self.db


@dataclass
class News:
    """The service under test."""

    service: Service
    database: Database
    feeds: Any
    articles: Any
    tenant_id: UUID
    caches: Caches

    async def add(self, url: str, interval: int = 0) -> news_pb2.AddFeedResponse:
        answer: news_pb2.AddFeedResponse = await self.feeds.AddFeed(news_pb2.AddFeedRequest(url=url, interval_seconds=interval))
        return answer

    async def refresh(self, feed_id: str) -> news_pb2.RefreshFeedResponse:
        answer: news_pb2.RefreshFeedResponse = await self.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=feed_id))
        return answer

    async def remove(self, feed_id: str) -> news_pb2.RemoveFeedResponse:
        answer: news_pb2.RemoveFeedResponse = await self.feeds.RemoveFeed(news_pb2.RemoveFeedRequest(id=feed_id))
        return answer

    async def feed(self, feed_id: str) -> news_pb2.Feed:
        return (await self.feeds.GetFeed(news_pb2.GetFeedRequest(id=feed_id))).feed

    async def listed(self, **wanted: Any) -> list[news_pb2.Article]:
        """The first page of articles."""
        return list((await self.articles.ListArticles(news_pb2.ListArticlesRequest(**wanted))).articles)

    async def article(self, article_id: str, version: int = 0) -> news_pb2.Article:
        return (await self.articles.GetArticle(news_pb2.GetArticleRequest(id=article_id, version=version))).article

    @staticmethod
    async def refusal(call: Awaitable[Any]) -> WireroomError:
        """The error that the call ends with."""
        with pytest.raises(WireroomError) as caught:
            await call
        return caught.value

    async def tick(self) -> None:
        """One turn of the scheduler; the fetches run on."""
        await self.service.periodic[0].run()

    @staticmethod
    async def idle() -> None:
        """Return when no replica of this test has a fetch under way."""
        fetches = [task for task in asyncio.all_tasks() if task.get_name().startswith("fetch feed")]
        await asyncio.gather(*fetches, return_exceptions=True)

    async def events(self) -> list[tuple[str, Message]]:
        """Everything in the outbox, in order."""
        async with self.database.system() as connection:
            rows = (await connection.execute(text("SELECT type, data FROM outbox ORDER BY id"))).all()
        return [(row.type, CATALOGUE.events[row.type].payload.FromString(bytes(row.data))) for row in rows]

    async def event_types(self) -> list[str]:
        return [name for name, _ in await self.events()]

    async def everything(self) -> list[int]:
        """How many rows the tenant has, table by table."""
        return [await self.count(table) for table in TABLES]

    async def count(self, table: str) -> int:
        async with self.database.tenant(self.tenant_id) as connection:
            return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)  # noqa: S608 - names from the tests


StartNews = Callable[..., Awaitable[News]]


@contextmanager
def acting(principal: Principal) -> Iterator[None]:
    set_current_principal(principal)
    try:
        yield
    finally:
        set_current_principal(None)


@pytest.fixture
def principal_of() -> Callable[..., Principal]:
    def make(tenant_id: UUID, permissions: frozenset[str] = ALL, kind: PrincipalKind = PrincipalKind.USER) -> Principal:
        return Principal(
            kind, subject="rag" if kind is PrincipalKind.SERVICE else str(uuid4()), tenant_id=tenant_id, permissions=permissions
        )

    return make


@pytest.fixture
def act_as() -> Iterator[Callable[[Principal | None], None]]:
    yield set_current_principal
    set_current_principal(None)


@pytest.fixture
async def feed_server() -> AsyncIterator[FeedServer]:
    server = FeedServer(0)
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.port = runner.addresses[0][1]
    yield server
    await runner.cleanup()


@asynccontextmanager
async def _served(service: Service) -> AsyncIterator[ServiceChannel]:
    clock, registry, network = SystemClock(), CollectorRegistry(), LocalNetwork()
    key = Ed25519PrivateKey.generate()
    guard = CallGuard(
        verifier=PrincipalVerifier({"gateway": [key.public_key()]}, clock), metrics=ServerMetrics(registry), tracer=NoOpTracer()
    )
    server = network.server("news", interceptors=(guard,))
    for register in service.rpc:
        register(server)
    await server.start()
    channel = ServiceChannel(
        network.channel("news"),
        signer=PrincipalSigner("gateway", key, clock),
        metrics=ClientMetrics(registry),
        tracer=NoOpTracer(),
        unary_deadline=60,
    )
    try:
        yield channel
    finally:
        await channel.close()
        await server.stop(0)


@pytest.fixture
async def start_news(migrated_database: Any, feed_server: FeedServer, principal_of: Any, act_as: Any) -> AsyncIterator[StartNews]:
    """`await start_news(clock=…, resolve=…, **settings)`: the service; more calls make more replicas on the same database."""
    closing: list[Any] = []
    databases: list[Database] = []
    tenant_id = uuid4()
    act_as(principal_of(tenant_id))

    async def start(*, clock: Clock | None = None, resolve: Any = None, redis_client: Any = None, **settings: Any) -> News:
        if not databases:
            databases.append(await migrated_database("news"))
        options = {"allowed_private_hosts": f"127.0.0.1:{feed_server.port}", "min_interval_seconds": 1} | settings
        extra = {} if resolve is None else {"resolve": resolve}
        infra = TestInfra(databases[0], clock or SystemClock(), redis_client=redis_client)
        service = build(NewsSettings(**options), infra, **extra)  # type: ignore[arg-type]
        served = _served(service)
        channel = await served.__aenter__()
        closing.append((service, served))
        feeds, articles = news_pb2_grpc.FeedServiceStub(channel), news_pb2_grpc.NewsServiceStub(channel)
        return News(service, databases[0], feeds, articles, tenant_id, infra.caches())

    yield start
    for service, served in closing:
        await served.__aexit__(None, None, None)
        await service.stop()


@pytest.fixture
def rss() -> Callable[..., str]:
    """An RSS document of (guid, title, text) items, or ready `<item>` markup."""

    def make(*items: tuple[str, str, str] | str, title: str = "Local news") -> str:
        rendered = "".join(
            item
            if isinstance(item, str)
            else f"<item><guid>{item[0]}</guid><link>https://news.example/{item[0]}</link><title>{item[1]}</title>"
            f"<description>{item[2]}</description><pubDate>Mon, 05 Jan 2026 10:00:00 GMT</pubDate></item>"
            for item in items
        )
        return f'<?xml version="1.0" encoding="utf-8"?><rss version="2.0"><channel><title>{title}</title><link>https://news.example/</link>{rendered}</channel></rss>'

    return make


@pytest.fixture
def gzip_bomb() -> bytes:
    return gzip.compress(b" " * 60_000_000)
