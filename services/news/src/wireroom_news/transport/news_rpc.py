"""NewsService."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from wireroom_common.db import Database
from wireroom_common.errors import invalid, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import PrincipalKind, current_principal
from wireroom_news.storage import articles
from wireroom_news.storage.articles import ArticleFilter
from wireroom_news.transport import pages
from wireroom_news.transport.feed_rpc import READ
from wireroom_news.transport.messages import article_message
from wireroom_news.usecases.article_lists import ArticleLists
from wireroom_protos.news.v1 import news_pb2, news_pb2_grpc

MAX_QUERY = 200


class NewsServicer(news_pb2_grpc.NewsServiceServicer):
    """Reading needs `news:read`; other services read single articles of the tenant they act in."""

    def __init__(self, database: Database, lists: ArticleLists) -> None:
        self._database = database
        self._lists = lists

    async def ListArticles(self, request: news_pb2.ListArticlesRequest, context: Any) -> news_pb2.ListArticlesResponse:  # noqa: ARG002, N802 - as generated
        principal = current_principal()
        principal.require(READ)
        tenant_id, size = principal.tenant(), pages.page_size(request.page_size)
        wanted = _filter(request)
        found = await self._lists.page(tenant_id, wanted, size + 1)
        last = found[size - 1] if len(found) > size else None
        token = pages.encode(last.published_at.isoformat(), str(last.article_id)) if last else ""
        return news_pb2.ListArticlesResponse(
            articles=[article_message(version) for version in found[:size]], next_page_token=token
        )

    async def GetArticle(self, request: news_pb2.GetArticleRequest, context: Any) -> news_pb2.GetArticleResponse:  # noqa: ARG002, N802 - as generated
        principal = current_principal()
        if principal.kind is not PrincipalKind.SERVICE:
            principal.require(READ)
        tenant_id, article_id = principal.tenant(), parse_id(request.id, "article")
        if request.version < 0:
            raise invalid("version_invalid", "The version must not be negative; 0 is the newest.", field="version")
        async with self._database.tenant(tenant_id) as connection:
            version = await articles.find(connection, tenant_id, article_id, request.version)
        if version is None:
            raise not_found("article")
        return news_pb2.GetArticleResponse(article=article_message(version))


def _filter(request: news_pb2.ListArticlesRequest) -> ArticleFilter:
    query = request.query.strip()
    if len(request.query) > MAX_QUERY or "\x00" in query:
        raise invalid("query_invalid", f"The query must be text of at most {MAX_QUERY} characters.", field="query")
    since = None
    if request.HasField("since"):
        try:
            since = request.since.ToDatetime(tzinfo=UTC)
        except (ValueError, OverflowError):
            raise invalid("since_invalid", "The time is outside the years 1 to 9999.", field="since") from None
    return ArticleFilter(
        query=query,
        feed_id=parse_id(request.feed_id, "feed") if request.feed_id else None,
        since=since,
        before=pages.decode_moment(request.page_token),
    )
