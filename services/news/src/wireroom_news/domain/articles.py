"""Entries of a feed and the rule by which they are the same article.

The ladder: guid (within its feed), then canonical URL (within the tenant), then link and title (within its feed) when there is no guid.
A URL that several guids of one document share identifies none of them. Steps only join; which entry came first changes nothing.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from wireroom_news.domain.urls import canonical_url, is_front_page

_WHITE = re.compile(r"\s+")
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """One cleaned item of a feed document: plain text, http(s) link or none, UTC date or none."""

    guid: str
    url: str
    title: str
    text: str
    summary: str
    author: str
    published_at: datetime | None

    def content_sha256(self) -> str:
        """Hash of title and text, equal under white space, Unicode form and case of nothing else."""
        normal = [_WHITE.sub(" ", unicodedata.normalize("NFC", part)).strip() for part in (self.title, self.text)]
        return _sha("\n".join(normal))


@dataclass(frozen=True)
class ParsedFeed:
    """A feed document. `truncated` tells that it held more entries than are read."""

    title: str
    site_url: str
    entries: tuple[Entry, ...]
    truncated: bool = False


@dataclass(frozen=True)
class Identified:
    """An entry with every key under which it may be known."""

    keys: frozenset[str]
    entry: Entry


@dataclass(frozen=True)
class Document:
    """A feed document after identification: one item per article, and the URL keys that turned out to identify nothing."""

    items: tuple[Identified, ...]
    shared_keys: frozenset[str]


def is_tenant_wide(key: str) -> bool:
    """Whether the key joins entries of different feeds."""
    return key.startswith("u:")


def identify(feed: ParsedFeed) -> Document:
    """Join the document's entries that share a key. The order of the entries does not matter."""
    guids_of_url: dict[str, set[str]] = defaultdict(set)
    for entry in feed.entries:
        if entry.guid and (key := _url_key(entry, feed.site_url)):
            guids_of_url[key].add(entry.guid)
    shared = frozenset(key for key, guids in guids_of_url.items() if len(guids) > 1)
    items = [Identified(_keys(entry, feed.site_url, shared), entry) for entry in feed.entries]
    return Document(tuple(merge(group) for group in connected(items)), shared)


def connected(items: Sequence[Identified]) -> list[list[Identified]]:
    """Connected components over shared keys."""
    parent = list(range(len(items)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, item in enumerate(items):
        for key in item.keys:
            parent[root(index)] = root(first.setdefault(key, index))
    groups: dict[int, list[Identified]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[root(index)].append(item)
    return list(groups.values())


def merge(group: Iterable[Identified]) -> Identified:
    """One item for several of the same article: all keys, and the content of the latest entry (by date, then by hash)."""
    group = list(group)
    best = max((item.entry for item in group), key=_rank)
    return Identified(frozenset().union(*(item.keys for item in group)), best)


def _rank(entry: Entry) -> tuple[datetime, str, str, str, str, str]:
    # Every field takes part, so that entries of equal rank are equal.
    return entry.published_at or _EARLIEST, entry.content_sha256(), entry.url, entry.summary, entry.author, entry.guid


def _keys(entry: Entry, site_url: str, shared: frozenset[str]) -> frozenset[str]:
    keys = set()
    if entry.guid:
        keys.add("g:" + _sha(entry.guid))
    url_key = _url_key(entry, site_url)
    if url_key and url_key not in shared:
        keys.add(url_key)
    if not entry.guid:
        # A URL may turn out to be shared later, by another feed even; then this is what is left.
        keys.add("t:" + _sha(f"{entry.url}\n{entry.title or entry.text}"))
    return frozenset(keys)


def _url_key(entry: Entry, site_url: str) -> str | None:
    canonical = canonical_url(entry.url)
    if canonical is None or is_front_page(canonical) or canonical == canonical_url(site_url):
        return None
    return "u:" + _sha(canonical)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
