"""Bytes of a feed → entries. Two parsers: a quick one for what is well formed, a lenient one for the rest."""

from __future__ import annotations

import calendar
import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin
from xml.parsers import expat

import fastfeedparser  # type: ignore[import-untyped]  # ships no types

from wireroom_news.domain.articles import Entry, ParsedFeed
from wireroom_news.domain.urls import MAX_URL, canonical_url
from wireroom_news.parsing.cleaning import MAX_AUTHOR, MAX_TEXT, MAX_TITLE, excerpt, one_line, plain_text

MAX_ENTRIES = 1_000
_MAX_GUID = 2_048
_HEAD = 1_024
_DECLARED = re.compile(rb"""<\?xml[^>]*\bencoding\s*=\s*["']([A-Za-z0-9._-]+)""")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?([A-Za-z0-9._-]+)", re.IGNORECASE)
_UTF8 = frozenset({"utf-8", "utf8", "us-ascii", "ascii"})


class NotAFeedError(ValueError):
    """The document is no RSS, Atom, RDF or JSON feed."""


def parse_document(body: bytes, *, url: str, content_type: str, fetched_at: datetime) -> ParsedFeed:
    """The feed in `body`. Relative links are resolved against `url`; dates after `fetched_at` become it. Raises NotAFeedError."""
    quick = _quick(body) if _is_utf8(body, content_type) else None
    if (
        quick is None
        or not quick["entries"]
        or not any(_has_text(entry) for entry in quick["entries"])
        or not _is_well_formed(body)
    ):
        lenient = _lenient(body, content_type)
        if lenient is not None and (quick is None or len(lenient["entries"]) >= len(quick["entries"])):
            quick = lenient
    if quick is None:
        raise NotAFeedError
    head = quick["feed"]
    base = _link(head.get("link"), url) or url
    entries = quick["entries"]
    return ParsedFeed(
        title=one_line(str(head.get("title") or ""), MAX_TITLE),
        site_url=_link(head.get("link"), url),
        entries=tuple(_entry(entry, base, fetched_at) for entry in entries[:MAX_ENTRIES]),
        truncated=len(entries) > MAX_ENTRIES,
    )


def _is_utf8(body: bytes, content_type: str) -> bool:
    # The transport's charset wins over the document's (RFC 7303).
    header = _CHARSET.search(content_type)
    declared = _DECLARED.search(body[:_HEAD])
    name = header[1] if header else declared[1].decode() if declared else "utf-8"
    return name.lower() in _UTF8 and not body.startswith((b"\xfe\xff", b"\xff\xfe"))


def _is_well_formed(body: bytes) -> bool:
    """Whether the quick parser sees all there is: it drops what follows a bare `&`, in texts and in links."""
    text = body.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith((b"{", b"[")):
        return True
    try:
        # Refuses entity bombs by itself and fetches nothing.
        expat.ParserCreate().Parse(text, True)
    except (expat.ExpatError, ValueError):
        return False
    return True


def _quick(body: bytes) -> Mapping[str, Any] | None:
    try:
        # Bytes, never text: a text that begins with http:// would be fetched.
        found: Mapping[str, Any] = fastfeedparser.parse(body, include_tags=False, include_media=False, include_enclosures=False)
    except Exception:  # noqa: BLE001 - any failure of the quick parser means: ask the lenient one
        return None
    return found


def _lenient(body: bytes, content_type: str) -> Mapping[str, Any] | None:
    import feedparser  # type: ignore[import-untyped]  # noqa: PLC0415 - slow to import and seldom needed: the parser process stays small without it

    # A stream, never a string: a string that looks like a path or address would be opened. Cleaning is done by our own rules.
    headers = {"content-type": content_type} if content_type else {}
    found: Mapping[str, Any] = feedparser.parse(
        io.BytesIO(body), response_headers=headers, sanitize_html=False, resolve_relative_uris=False
    )
    return found if found.get("version") or found["entries"] else None


def _entry(raw: Mapping[str, Any], base: str, fetched_at: datetime) -> Entry:
    content, description = _bodies(raw)
    body = max((plain_text(part, MAX_TEXT) for part in content), key=len, default="")
    described = plain_text(description, MAX_TEXT)
    # The quick parser makes up a description from the content, with spaces between its tags: a little longer means nothing.
    if len(described) > 2 * len(body):
        body = described
    summary = body if _compact(body).startswith(_compact(described)) else described
    title = one_line(str(raw.get("title") or ""), MAX_TITLE)
    guid = " ".join(str(raw.get("id") or "").split())[:_MAX_GUID]
    url = _link(raw.get("link"), base) or _link_in(raw.get("links"), base)
    if not url and canonical_url(guid):
        url = guid[:MAX_URL]
    return Entry(
        guid=guid.encode("utf-8", "replace").decode().replace("\x00", ""),
        url=url,
        title=title or excerpt(" ".join(body.split()), 120),
        text=body,
        summary=excerpt(summary),
        author=one_line(str(raw.get("author") or ""), MAX_AUTHOR),
        published_at=_date(raw, fetched_at),
    )


def _bodies(raw: Mapping[str, Any]) -> tuple[list[str], str]:
    """The parts of the content, and the description."""
    content = raw.get("content")
    parts = (
        [str(part.get("value") or "") for part in content if isinstance(part, Mapping)] if isinstance(content, Sequence) else []
    )
    return parts, str(raw.get("summary") or raw.get("description") or "")


def _compact(text: str) -> str:
    return "".join(text.split())


def _has_text(raw: Mapping[str, Any]) -> bool:
    content, description = _bodies(raw)
    return any(part.strip() for part in (*content, description))


def _link(link: object, base: str) -> str:
    """An absolute http(s) URL without characters that could break out of an attribute, or ''."""
    text = "".join(str(link or "").split())
    if not text or len(text) > MAX_URL:
        return ""
    try:
        joined = urljoin(base, text)
    except ValueError:
        return ""
    return (
        joined
        if canonical_url(joined) and not re.search(r"[\x00-\x20\x7f\"'<>\\^`{|}\ud800-\udfff]", joined)
        else canonical_url(joined) or ""
    )


def _link_in(links: object, base: str) -> str:
    candidates = [link for link in links if isinstance(link, Mapping)] if isinstance(links, Sequence) else []
    for link in candidates:
        if link.get("rel") in (None, "alternate") and (found := _link(link.get("href"), base)):
            return found
    return ""


def _date(raw: Mapping[str, Any], fetched_at: datetime) -> datetime | None:
    for name in ("published", "updated"):
        found = _moment(raw.get(f"{name}_parsed"), raw.get(name))
        if found is not None:
            return min(found, fetched_at)
    return None


def _moment(parsed: Any, text: object) -> datetime | None:
    try:
        if parsed:
            return datetime.fromtimestamp(calendar.timegm(parsed), UTC)
        if not text:
            return None
        moment = datetime.fromisoformat(str(text))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, TypeError, OSError):
        return None
