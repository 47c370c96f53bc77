"""The parser process under documents and signals that end it."""

from __future__ import annotations

import asyncio
import signal
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from wireroom_common.testing import eventually
from wireroom_news.fetching.failures import FeedError
from wireroom_news.parsing.process import ParserProcess

NOW = datetime(2026, 1, 10, tzinfo=UTC)
FEED = b'<rss version="2.0"><channel><title>F</title><item><title>One</title></item></channel></rss>'


async def titles(parser: ParserProcess, body: bytes) -> list[str]:
    feed = await parser.parse(body, url="https://feeds.example/f", content_type="", fetched_at=NOW)
    return [entry.title for entry in feed.entries]


def worker() -> psutil.Process:
    (process,) = [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "wireroom_news.parsing.worker" in child.cmdline()
    ]
    return process


@pytest.fixture
async def parsing() -> Any:
    """`parsing(timeout=…)`: a warm parser process."""
    made: list[ParserProcess] = []

    async def make(timeout: float = 10.0) -> ParserProcess:  # noqa: ASYNC109 - the process's setting
        parser = ParserProcess(timeout=timeout, memory_bytes=1_000_000_000, idle_seconds=60)
        made.append(parser)
        assert await titles(parser, FEED) == ["One"]
        return parser

    yield make
    for parser in made:
        await parser.close()


async def test_process_killed_in_the_middle_is_replaced(parsing: Any) -> None:
    parser = await parsing()
    first = worker()
    first.send_signal(signal.SIGSTOP)
    await eventually(lambda: first.status() == psutil.STATUS_STOPPED)
    reading = asyncio.create_task(titles(parser, FEED))
    await asyncio.sleep(0)
    first.kill()
    assert await reading == ["One"]
    assert worker().pid != first.pid


async def test_process_that_hangs_is_killed_and_the_next_document_read(parsing: Any) -> None:
    parser = await parsing(timeout=0.3)
    first = worker()
    first.send_signal(signal.SIGSTOP)
    with pytest.raises(FeedError) as caught:
        await titles(parser, FEED)
    assert caught.value.code == "feed_too_complex"
    assert not first.is_running()
    assert await titles(parser, FEED) == ["One"]


async def test_caller_who_leaves_does_not_mix_up_answers(parsing: Any) -> None:
    parser = await parsing()
    first = worker()
    first.send_signal(signal.SIGSTOP)
    await eventually(lambda: first.status() == psutil.STATUS_STOPPED)
    leaving = asyncio.create_task(titles(parser, FEED.replace(b"One", b"Left")))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await titles(parser, FEED) == ["One"]


async def test_process_sees_no_secrets(parsing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WIREROOM_MASTER_SECRET", "s3cret")
    await parsing()
    environment = worker().environ()
    assert "PATH" in environment
    assert "WIREROOM_MASTER_SECRET" not in environment


def _laughs() -> bytes:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' for n in range(1, 12))
    return f'<!DOCTYPE r [<!ENTITY e0 "lol">{entities}]><rss version="2.0"><channel><title>&e11;</title></channel></rss>'.encode()


HOSTILE = {
    "attributes": b"<feed " + b" ".join(b'a%d="x"' % number for number in range(100_000)) + b"><entry><title>x</title></entry>",
    "categories": b"<rss><channel><item><title>x</title>" + b"<category>c</category>" * 20_000 + b"</item></channel></rss>",
    "deep": b"<rss><channel><item><description>" + b"<div>" * 200_000 + b"</description></item></channel></rss>",
    "deep markup": b"<rss><channel><item><description>" + b"&lt;b&gt;" * 100_000 + b"</description></item></channel></rss>",
    "angles": b"<rss><channel><item><description>" + b"&lt; " * 200_000 + b"</description></item></channel></rss>",
    "laughs": _laughs(),
    "quadratic": b'<!DOCTYPE r [<!ENTITY a "'
    + b"x" * 100_000
    + b'">]><rss><channel><title>'
    + b"&a;" * 20_000
    + b"</title></channel></rss>",
    "json depth": b"[" * 1_000_000,
    "entries": b"<rss><channel>" + b"<item><title>x</title></item>" * 100_000 + b"</channel></rss>",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_document_is_refused_or_read_but_never_stuck(parsing: Any, name: str) -> None:
    parser = await parsing(timeout=1.5)
    async with asyncio.timeout(60):
        try:
            feed = await parser.parse(HOSTILE[name], url="https://feeds.example/f", content_type="", fetched_at=NOW)
        except FeedError as error:
            outcome = error.code
        else:
            outcome = "read"
            assert len(feed.entries) <= 1_000
            assert len(feed.title) <= 1_000
            assert all(len(entry.text) <= 100_000 for entry in feed.entries)
        assert outcome in {"read", "feed_too_complex", "feed_not_a_feed"}
        assert await titles(parser, FEED) == ["One"]
