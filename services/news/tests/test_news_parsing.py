"""Documents as feeds really write them: own samples, and the shared corpus where it stands beside the checkout."""

from __future__ import annotations

import csv
import os
import re
import zlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wireroom_common.testing import eventually
from wireroom_news.domain.articles import ParsedFeed
from wireroom_news.fetching.bodies import BodyBuffer, opened
from wireroom_news.fetching.failures import FeedError
from wireroom_news.parsing.cleaning import plain_text
from wireroom_news.parsing.documents import NotAFeedError, parse_document
from wireroom_news.parsing.process import ParserProcess

FIXTURES = Path(__file__).parent / "fixtures"
NOW = datetime(2026, 1, 10, tzinfo=UTC)
LIMIT = 5_000_000


def corpus() -> Path | None:
    """The shared feeds: `WIREROOM_TEST_DATA`, which must hold them, or the folder beside the checkout if there is one."""
    given_folder = os.environ.get("WIREROOM_TEST_DATA")
    if given_folder:
        return Path(given_folder) / "feeds"
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "feeds"
    return beside if (beside / "manifest.tsv").is_file() else None


def sample(name: str, content_type: str = "") -> ParsedFeed:
    return parse_document(
        (FIXTURES / name).read_bytes(), url="https://feeds.example/f", content_type=content_type, fetched_at=NOW
    )


@pytest.fixture
async def parser() -> AsyncIterator[ParserProcess]:
    process = ParserProcess(timeout=10, memory_bytes=1_000_000_000, idle_seconds=60)
    yield process
    await process.close()


async def parse(parser: ParserProcess, body: bytes) -> ParsedFeed:
    return await parser.parse(body, url="https://feeds.example/f", content_type="", fetched_at=NOW)


async def test_corpus_entry_counts(parser: ParserProcess, record_property: Callable[[str, object], None]) -> None:
    folder = corpus()
    if folder is None:
        pytest.skip("The shared corpus is not beside this checkout; set WIREROOM_TEST_DATA. The own samples are tested below.")
    with (folder / "manifest.tsv").open(newline="") as manifest:
        rows = list(csv.DictReader(manifest, delimiter="\t"))
    assert len(rows) > 100
    wrong = []
    for row in rows:
        feed = await parse(parser, opened((folder / row["file"]).read_bytes(), LIMIT))
        wanted = int(row["expected_entries"] or row["consensus_count"])
        if len(feed.entries) != wanted:
            wrong.append((row["file"], wanted, len(feed.entries)))
        for entry in feed.entries:
            assert entry.url == "" or entry.url.startswith(("http://", "https://"))
            assert "<script" not in f"{entry.title}{entry.text}{entry.summary}".lower()
            assert entry.published_at is None or entry.published_at <= NOW
    record_property("entry_counts_right", f"{len(rows) - len(wrong)} of {len(rows)}")
    assert wrong == []


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("rss091.xml", ["One", "Two"]),
        ("rss20.xml", ["One big thing", "No guid, no link"]),
        ("atom03.xml", ["One"]),
        ("latin1.xml", ["Übung"]),
        ("atom.xml", ["One", "Two"]),
        ("rdf.xml", ["One"]),
        ("feed.json", ["One"]),
        ("broken.xml", ["A & B", "C"]),
        ("no-entries.xml", []),
    ],
)
async def test_samples(parser: ParserProcess, name: str, titles: list[str]) -> None:
    feed = await parse(parser, (FIXTURES / name).read_bytes())
    assert [entry.title for entry in feed.entries] == titles


def test_declared_charset_relative_link_and_offset() -> None:
    (entry,) = sample("latin1.xml").entries
    assert (entry.text, entry.url) == ("Größe", "https://latin.example/1")
    assert entry.published_at == datetime(2026, 1, 6, 8, tzinfo=UTC)


def test_charset_of_the_transport_wins() -> None:
    head = '<?xml version="1.0" encoding="utf-8"?><rss version="2.0">'
    body = f"{head}<channel><title>Café</title><item><title>é</title></item></channel></rss>"
    feed = parse_document(
        body.encode("latin-1"), url="https://e.example/", content_type="text/xml; charset=iso-8859-1", fetched_at=NOW
    )
    assert (feed.title, feed.entries[0].title) == ("Café", "é")


def test_nothing_is_lost_after_a_bare_ampersand() -> None:
    feed = sample("broken.xml")
    assert (feed.title, feed.entries[0].url, feed.entries[0].text) == ("Broken & bare", "https://b.example/?a=1&b=2", "no end")


def test_content_wins_over_a_short_description() -> None:
    feed = sample("rss20.xml")
    one, two = feed.entries
    assert (feed.title, one.text, one.summary) == ("News & more", "The long, full text.", "Short")
    assert (one.guid, one.url, one.author) == ("https://two.example/1", "https://two.example/1", "Ann & Bo")
    assert one.published_at == datetime(2026, 1, 5, 4, 30, tzinfo=UTC)
    assert (two.guid, two.url, two.text, two.published_at) == ("", "", "Still an item", None)


def test_atom_03_and_json_fields() -> None:
    (old,) = sample("atom03.xml").entries
    assert (old.guid, old.url, old.text) == ("tag:three.example,2026:1", "https://three.example/1", "Old, but read.")
    (new,) = sample("feed.json").entries
    assert (new.guid, new.url, new.text) == ("1", "https://json.example/1", "Text")
    assert new.published_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_future_date_is_the_time_of_the_fetch_and_lists_become_lines() -> None:
    one, two = sample("atom.xml").entries
    assert two.published_at == NOW
    assert one.text == "First\na\nb"


@pytest.mark.parametrize(
    "body", [b"", b"<html><body>x</body></html>", b'{"a": 1}', b"/etc/passwd", b"http://127.0.0.1/feed", b"\x89PNG\r\n"]
)
def test_anything_else_is_not_a_feed(body: bytes) -> None:
    with pytest.raises(NotAFeedError):
        parse_document(body, url="https://e.example/", content_type="", fetched_at=NOW)


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<p>a<script>alert(1)</script>b</p>", "ab"),
        ("1 < 2 & 3 > 2", "1 < 2 & 3 > 2"),
        ("&lt;script&gt;alert(1)&lt;/script&gt;ok", "ok"),
        ("&amp;lt;img src=x onerror=alert(1)&amp;gt;ok", "&lt;img src=x onerror=alert(1)&gt;ok"),
        ("Use List&lt;String&gt; here", "Use List<String> here"),
        ("<p>one</p><p>two<br>three</p>", "one\ntwo\nthree"),
        ("nul\x00 and \ud800", "nul and"),
    ],
)
def test_plain_text(markup: str, expected: str) -> None:
    assert plain_text(markup, 1_000) == expected


scraps = st.sampled_from(
    [
        "<",
        ">",
        "&lt;",
        "&amp;lt;",
        "&gt;",
        "script",
        "svg/onload=x()",
        "<a href='javascript:x()'>",
        " onclick=",
        "img ",
        "/",
        "'",
        "a",
    ]
)


@settings(max_examples=300)
@given(st.lists(scraps, max_size=14).map("".join))
def test_text_never_acts_when_shown_as_html(markup: str) -> None:
    text = plain_text(markup, 1_000)
    assert not re.search(r"<\s*/?(script|svg|img)\b|<[^>]*(\son\w+\s*=|javascript:)", text, re.IGNORECASE)


@given(st.binary(max_size=2_000), st.integers(1, 50))
def test_compressed_body_is_the_plain_one(data: bytes, piece: int) -> None:
    packed = zlib.compress(data)
    buffer = BodyBuffer(4_000, "deflate")
    for start in range(0, len(packed), piece):
        buffer.feed(packed[start : start + piece])
    assert buffer.body() == opened(data, 4_000) if not data.startswith(b"\x1f\x8b") else True


def test_bomb_is_not_inflated_beyond_the_limit(gzip_bomb: bytes) -> None:
    buffer = BodyBuffer(1_000, "gzip")
    with pytest.raises(FeedError) as caught:
        buffer.feed(gzip_bomb[:900])
    assert caught.value.code == "feed_too_large"


async def test_parser_ends_when_idle() -> None:
    parser = ParserProcess(timeout=10, memory_bytes=1_000_000_000, idle_seconds=0.05)
    await parse(parser, (FIXTURES / "atom.xml").read_bytes())
    await eventually(lambda: not parser.running)
    assert len((await parse(parser, (FIXTURES / "atom.xml").read_bytes())).entries) == 2
    await parser.close()
