"""The news service, asked for article texts in the name of this service."""

from __future__ import annotations

from datetime import UTC
from uuid import UUID

import grpc.aio

from wireroom_common.rpc import acting_as_service
from wireroom_protos.news.v1 import news_pb2, news_pb2_grpc
from wireroom_rag.ports.processing import ArticleText

_TIMEOUT = 5.0


class NewsArticles:
    """Implements `ArticleSource`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = news_pb2_grpc.NewsServiceStub(channel)

    async def fetch(self, tenant_id: UUID, article_id: UUID, version: int) -> ArticleText:
        with acting_as_service(tenant_id):
            response = await self._stub.GetArticle(
                news_pb2.GetArticleRequest(id=str(article_id), version=version), timeout=_TIMEOUT
            )
        article = response.article
        published = article.published_at.ToDatetime(tzinfo=UTC) if article.HasField("published_at") else None
        return ArticleText(title=article.title, text=article.text or article.summary, url=article.url, published_at=published)
