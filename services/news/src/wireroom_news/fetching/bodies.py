"""Decompression that stops at a limit."""

from __future__ import annotations

import zlib

from wireroom_news.fetching.failures import FeedError

_GZIP_MAGIC = b"\x1f\x8b"
_AUTO_HEADER = 32 + zlib.MAX_WBITS


class BodyBuffer:
    """Collects a body piece by piece; FeedError `feed_too_large` as soon as it exceeds `limit` bytes, before or after decompression."""

    def __init__(self, limit: int, encoding: str) -> None:
        self._limit = limit
        self._parts = bytearray()
        self._received = 0
        self._inflate = None
        encoding = encoding.strip().lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(_AUTO_HEADER)
        elif encoding not in ("", "identity"):
            raise FeedError("feed_not_a_feed", "The server sent the feed in a compression that was not asked for.")

    @property
    def received(self) -> int:
        """Bytes as they came over the wire."""
        return self._received

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._received += len(data)
        if self._received > self._limit:
            raise too_large(self._limit)
        if self._inflate is None:
            self._append(data)
            return
        try:
            # One byte beyond the limit is enough to know; the rest of a bomb is never inflated.
            self._append(self._inflate.decompress(data, self._limit + 1 - len(self._parts)))
        except zlib.error:
            raise FeedError("feed_unreachable", "The feed's compressed body is damaged.") from None

    def body(self) -> bytes:
        """The whole document. A gzip file served as such is opened too, under the same limit."""
        if self._inflate is not None and not self._inflate.eof and self._received:
            raise FeedError("feed_unreachable", "The feed's compressed body ends too early.")
        return opened(bytes(self._parts), self._limit)

    def _append(self, data: bytes) -> None:
        self._parts += data
        if len(self._parts) > self._limit:
            raise too_large(self._limit)


def opened(data: bytes, limit: int) -> bytes:
    """`data`, decompressed if it is a gzip file."""
    if not data.startswith(_GZIP_MAGIC):
        return data
    inflate = zlib.decompressobj(_AUTO_HEADER)
    try:
        plain = inflate.decompress(data, limit + 1)
    except zlib.error:
        raise FeedError("feed_not_a_feed", "The address leads to a damaged compressed file.") from None
    if len(plain) > limit:
        raise too_large(limit)
    return plain


def too_large(limit: int) -> FeedError:
    """The error for a feed above `limit` bytes."""
    return FeedError("feed_too_large", f"The feed is larger than the {limit:,} bytes that are read.")
