"""The news service, wired."""

from __future__ import annotations

from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_news.domain.addresses import AddressPolicy
from wireroom_news.fetching.client import FeedClient, FetchLimits, Resolve, system_resolve
from wireroom_news.fetching.pacing import HostPacer
from wireroom_news.parsing.process import ParserProcess
from wireroom_news.settings import NewsSettings
from wireroom_news.storage.articles import ArticleVersion
from wireroom_news.transport.article_changes import article_changes
from wireroom_news.transport.erasure import erasure
from wireroom_news.transport.feed_rpc import FeedServicer
from wireroom_news.transport.news_rpc import NewsServicer
from wireroom_news.usecases.add_feed import AddFeed
from wireroom_news.usecases.article_lists import ArticleLists, article_lists
from wireroom_news.usecases.fetch_feed import FetchFeed
from wireroom_news.usecases.read_feed import FeedReader
from wireroom_news.usecases.refresh import Refresh
from wireroom_protos.news.v1 import news_pb2_grpc

_LOOK_FOR_DUE_FEEDS_SECONDS = 1.0


def build(settings: NewsSettings, infra: Infra, *, resolve: Resolve = system_resolve) -> Service:
    """Feeds and articles. `resolve` turns host names into addresses (the system's resolver unless given)."""
    database = infra.database("news")
    clock = infra.clock
    client = FeedClient(
        AddressPolicy(settings.allowed_private_hosts, settings.denied_networks),
        FetchLimits(
            total=settings.fetch_timeout_seconds,
            connect=settings.connect_timeout_seconds,
            body=settings.max_feed_bytes,
            redirects=settings.max_redirects,
        ),
        HostPacer(clock, settings.host_gap_seconds),
        clock,
        user_agent=settings.user_agent,
        resolve=resolve,
    )
    parser = ParserProcess(
        timeout=settings.parse_timeout_seconds, memory_bytes=settings.parse_memory_bytes, idle_seconds=settings.parse_idle_seconds
    )
    reader = FeedReader(client, parser, clock, infra.registry)
    seconds = settings.list_cache_seconds
    lists = ArticleLists(database, infra.caches().open(article_lists(seconds), list[ArticleVersion]) if seconds else None)
    refresh = Refresh(database, FetchFeed(database, reader, clock, settings, lists), clock, settings)
    feed_servicer = FeedServicer(database, AddFeed(database, reader, clock, settings, lists), refresh, clock, lists)
    news_servicer = NewsServicer(database, lists)

    async def fetch_due() -> None:
        await refresh.due()

    async def stop() -> None:
        await refresh.stop()
        await parser.close()

    return Service(
        name="news",
        rpc=(
            lambda server: news_pb2_grpc.add_FeedServiceServicer_to_server(feed_servicer, server),
            lambda server: news_pb2_grpc.add_NewsServiceServicer_to_server(news_servicer, server),
        ),
        subscriptions=(article_changes(database, lists), erasure(database, lists)),
        periodic=(Periodic("fetch_due_feeds", _LOOK_FOR_DUE_FEEDS_SECONDS, fetch_due),),
        checks={"database": database.ping},
        stop=stop,
        database=database,
    )
