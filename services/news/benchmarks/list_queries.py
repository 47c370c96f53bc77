# ruff: noqa: INP001, T201 - a program, not a package
"""What a list or search of articles costs from the database, and from the cache in Redis and in memory.

`python services/news/benchmarks/list_queries.py [--articles 20000] [--rounds 30]`. Needs nothing running: it starts servers of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import redis.asyncio
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from wireroom_common.cache import Caches, Key, Namespace
from wireroom_common.clock import SystemClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.db.migrate import bootstrap, upgrade
from wireroom_common.ids import new_id
from wireroom_common.runtime.embedded import EmbeddedPostgres, EmbeddedValkey
from wireroom_news.storage import articles
from wireroom_news.storage.articles import ArticleFilter, ArticleVersion
from wireroom_news.transport.messages import article_message
from wireroom_protos.news.v1 import news_pb2

_PAGE = 50
_WORDS = [f"word{number}" for number in range(5_000)]
_LOADED_AT_ONCE = 1_000


async def _fill(database: Database, count: int) -> UUID:
    chance = random.Random(1)  # noqa: S311 - the same articles in each run
    tenant_id, feed_id = new_id(), new_id()
    now = datetime.now(UTC)
    async with database.tenant(tenant_id) as connection:
        await connection.execute(
            text(
                "INSERT INTO feeds (tenant_id, id, url, title, interval_seconds, next_fetch_at, created_at)"
                " VALUES (:tenant, :id, 'https://news.example/feed', 'News', 300, now(), now())"
            ),
            {"tenant": tenant_id, "id": feed_id},
        )
    for first in range(0, count, _LOADED_AT_ONCE):
        versions = [
            ArticleVersion(
                new_id(),
                1,
                feed_id,
                f"https://news.example/{first + number}",
                " ".join(chance.choices(_WORDS, k=9)),
                " ".join(chance.choices(_WORDS, k=400)),
                " ".join(chance.choices(_WORDS, k=30)),
                "A. Writer",
                now - timedelta(minutes=first + number),
                now,
                "0" * 64,
            )
            for number in range(min(_LOADED_AT_ONCE, count - first))
        ]
        async with database.tenant(tenant_id) as connection:
            await articles.insert(connection, tenant_id, versions)
    return tenant_id


async def _measure(name: str, rounds: int, read: Callable[[], Awaitable[object]]) -> None:
    wall, cpu = [], []
    for _ in range(rounds):
        before, used = time.perf_counter(), time.process_time()
        await read()
        wall.append(time.perf_counter() - before)
        cpu.append(time.process_time() - used)
    print(f"{name:44} p50 {statistics.median(wall) * 1000:8.2f} ms   own CPU {statistics.median(cpu) * 1000:6.2f} ms")


async def _run(database: Database, valkey: str, count: int, rounds: int) -> None:
    tenant_id = await _fill(database, count)

    async def from_database(wanted: ArticleFilter) -> bytes:
        async with database.tenant(tenant_id) as connection:
            found = await articles.page(connection, tenant_id, wanted, _PAGE + 1)
        return news_pb2.ListArticlesResponse(articles=[article_message(item) for item in found[:_PAGE]]).SerializeToString()

    async with redis.asyncio.Redis.from_url(valkey) as client:
        caches = Caches(client, SystemClock(), CollectorRegistry())
        shared = caches.open(Namespace("news.shared", seconds=1800, memory_entries=0), bytes)
        memory = caches.open(Namespace("news.memory", seconds=1800), bytes)
        for name, wanted in (
            ("newest 50", ArticleFilter()),
            ("search, a word of 8 % of the articles", ArticleFilter(query=_WORDS[7])),
            ("search, a phrase of none", ArticleFilter(query="no such phrase")),
        ):
            key = Key.of(tenant_id, "list", wanted.query, tags=("articles",))
            body = await from_database(wanted)
            for cache in (shared, memory):
                await cache.set(key, body, await cache.look_up([key]))
            print(f"{count:,} articles, {name}, answer of {len(body):,} bytes")
            await _measure("  database", rounds, lambda wanted=wanted: from_database(wanted))  # type: ignore[misc]
            await _measure("  Redis", rounds, lambda key=key: shared.get(key))  # type: ignore[misc]
            await _measure("  memory", rounds, lambda key=key: memory.get(key))  # type: ignore[misc]


async def _main(folder: Path, count: int, rounds: int) -> None:
    postgres, valkey = EmbeddedPostgres(folder, durable=False), EmbeddedValkey(folder)
    try:
        url = DatabaseUrl.parse(postgres.admin_url(postgres.start()))
        bootstrap(url, ["news"])
        upgrade(url, "news")
        database = Database(url, "news")
        await _run(database, valkey.start(), count, rounds)
        await database.close()
    finally:
        valkey.stop()
        postgres.stop()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--articles", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=30)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrbench") as name:
        folder = Path(name)
        folder.chmod(0o755)
        asyncio.run(_main(folder, given.articles, given.rounds))


if __name__ == "__main__":
    main()
