"""Feeds and articles."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import FastAPI, Query, Response
from pydantic import Field

from wireroom_gateway.access import Bucket, access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import IdFilter, Input, Output, PageSize, PageToken, SearchText, TimeFilter, moment, timestamp
from wireroom_gateway.services import Services
from wireroom_protos.news.v1 import news_pb2


class AddFeedInput(Input):
    """A feed to follow; `interval_seconds` 0 for the default."""

    url: Annotated[str, Field(min_length=1, max_length=2_048, pattern=r"^[^\x00]*$")]
    interval_seconds: Annotated[int, Field(ge=0, le=7 * 86_400)] = 0


class FeedOutput(Output):
    """A feed and how its fetches go."""

    id: str
    url: str
    title: str
    state: str
    interval_seconds: int
    next_fetch_at: datetime | None
    last_fetch_at: datetime | None
    last_status: int
    last_error: str
    consecutive_failures: int
    articles: int
    created_at: datetime | None


class AddedFeedOutput(FeedOutput):
    """A feed after its first fetch."""

    new_articles: int


class RefreshOutput(Output):
    """What a fetch brought."""

    feed: FeedOutput
    new_articles: int
    changed_articles: int
    not_modified: bool


class FeedsOutput(Output):
    """A page of feeds."""

    feeds: list[FeedOutput]
    next_page_token: str


class ArticleSummaryOutput(Output):
    """An article without its text."""

    id: str
    version: int
    feed_id: str
    url: str
    title: str
    summary: str
    author: str
    published_at: datetime | None
    fetched_at: datetime | None
    content_sha256: str


class ArticleOutput(ArticleSummaryOutput):
    """An article."""

    text: str


class ArticlesOutput(Output):
    """A page of articles, newest first."""

    articles: list[ArticleSummaryOutput]
    next_page_token: str


def add_news_routes(api: FastAPI, services: Services, *, timeout: float, feed_timeout: float) -> None:
    """`/api/v1/feeds`, `/api/v1/news`."""

    @api.post("/api/v1/feeds", status_code=201, tags=["news"], responses=problem_responses(409, 415))
    @access("feeds:manage")
    async def add_feed(body: AddFeedInput, response: Response) -> AddedFeedOutput:
        answer = await services.feeds.AddFeed(
            news_pb2.AddFeedRequest(url=body.url, interval_seconds=body.interval_seconds), timeout=feed_timeout
        )
        response.headers["location"] = f"/api/v1/feeds/{answer.feed.id}"
        return AddedFeedOutput(**_feed(answer.feed).model_dump(), new_articles=answer.new_articles)

    @api.get("/api/v1/feeds", tags=["news"])
    @access("news:read")
    async def list_feeds(page_size: PageSize = 50, page_token: PageToken = "") -> FeedsOutput:
        answer = await services.feeds.ListFeeds(
            news_pb2.ListFeedsRequest(page_size=page_size, page_token=page_token), timeout=timeout
        )
        return FeedsOutput(feeds=[_feed(entry) for entry in answer.feeds], next_page_token=answer.next_page_token)

    @api.get("/api/v1/feeds/{id}", tags=["news"], responses=problem_responses(404))
    @access("news:read")
    async def get_feed(id: str) -> FeedOutput:  # noqa: A002 - the path's name for it
        return _feed((await services.feeds.GetFeed(news_pb2.GetFeedRequest(id=id), timeout=timeout)).feed)

    @api.delete("/api/v1/feeds/{id}", status_code=204, tags=["news"], responses=problem_responses(404))
    @access("feeds:manage")
    async def remove_feed(id: str) -> Response:  # noqa: A002 - the path's name for it
        await services.feeds.RemoveFeed(news_pb2.RemoveFeedRequest(id=id), timeout=timeout)
        return Response(status_code=204)

    @api.post("/api/v1/feeds/{id}/refresh", tags=["news"], responses=problem_responses(404))
    @access("feeds:manage")
    async def refresh_feed(id: str) -> RefreshOutput:  # noqa: A002 - the path's name for it
        answer = await services.feeds.RefreshFeed(news_pb2.RefreshFeedRequest(id=id), timeout=feed_timeout)
        return RefreshOutput(
            feed=_feed(answer.feed),
            new_articles=answer.new_articles,
            changed_articles=answer.changed_articles,
            not_modified=answer.not_modified,
        )

    @api.get("/api/v1/news", tags=["news"])
    @access("news:read", bucket=Bucket.NEWS, prompt=True)
    async def list_articles(
        page_size: PageSize = 20,
        page_token: PageToken = "",
        q: SearchText = "",
        feed_id: IdFilter = "",
        since: TimeFilter = None,
    ) -> ArticlesOutput:
        answer = await services.news.ListArticles(
            news_pb2.ListArticlesRequest(
                page_size=page_size, page_token=page_token, query=q, feed_id=feed_id, since=timestamp(since)
            ),
            timeout=timeout,
        )
        return ArticlesOutput(articles=[_summary(entry) for entry in answer.articles], next_page_token=answer.next_page_token)

    @api.get("/api/v1/news/{id}", tags=["news"], responses=problem_responses(404))
    @access("news:read", bucket=Bucket.NEWS)
    async def get_article(
        id: str,  # noqa: A002 - the path's name for it
        version: Annotated[int, Query(ge=0, le=2**31 - 1, description="0 for the newest")] = 0,
    ) -> ArticleOutput:
        article = (await services.news.GetArticle(news_pb2.GetArticleRequest(id=id, version=version), timeout=timeout)).article
        return ArticleOutput(**_summary(article).model_dump(), text=article.text)


def _feed(feed: news_pb2.Feed) -> FeedOutput:
    return FeedOutput(
        id=feed.id,
        url=feed.url,
        title=feed.title,
        state=news_pb2.FeedState.Name(feed.state).removeprefix("FEED_STATE_").lower(),
        interval_seconds=feed.interval_seconds,
        next_fetch_at=moment(feed, "next_fetch_at"),
        last_fetch_at=moment(feed, "last_fetch_at"),
        last_status=feed.last_status,
        last_error=feed.last_error,
        consecutive_failures=feed.consecutive_failures,
        articles=feed.articles,
        created_at=moment(feed, "created_at"),
    )


def _summary(article: news_pb2.Article) -> ArticleSummaryOutput:
    return ArticleSummaryOutput(
        id=article.id,
        version=article.version,
        feed_id=article.feed_id,
        url=article.url,
        title=article.title,
        summary=article.summary,
        author=article.author,
        published_at=moment(article, "published_at"),
        fetched_at=moment(article, "fetched_at"),
        content_sha256=article.content_sha256,
    )
