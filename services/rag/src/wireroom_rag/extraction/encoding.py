"""Which characters the bytes stand for: byte order mark, then what is declared, then UTF-8, then the most plausible."""

from __future__ import annotations

import codecs
import re

import charset_normalizer

from wireroom_rag.domain.document import RejectedError

# In this order: the mark of UTF-32 begins with that of UTF-16.
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Enough to tell encodings apart; the whole of a large file would take seconds.
_SAMPLE = 256 * 1024
_WESTERN = frozenset({"cp1252", "latin_1", "iso8859_15"})
_META_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"""^\s*<\?xml[^>]+encoding\s*=\s*["']([A-Za-z0-9_:.-]+)["']""")
_DECLARED_WITHIN = 4096


def marked_encoding(data: bytes) -> str | None:
    """The encoding that a byte order mark tells."""
    return next((encoding for mark, encoding in BOMS if data.startswith(mark)), None)


def declared_in_markup(data: bytes) -> str | None:
    """The encoding that the beginning of an HTML or XML file names; None for none or one that nobody knows."""
    head = data[:_DECLARED_WITHIN]
    found = _META_CHARSET.search(head) or _XML_ENCODING.search(head)
    return known_encoding(found.group(1).decode("ascii")) if found else None


def known_encoding(name: str) -> str | None:
    """Python's name of a text encoding."""
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    return info.name if info._is_text_encoding else None  # noqa: SLF001 - rot13 and base64 are codecs, too; there is no other way to tell


def decode_text(data: bytes, declared: str | None = None) -> str:
    """`data` as text; `document_unreadable` when no encoding fits."""
    if marked := marked_encoding(data):
        return _decoded(data, marked)
    if declared and _decodes(data, declared):
        return data.decode(declared)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _decoded(data, _plausible_encoding(data))


def _plausible_encoding(data: bytes) -> str:
    matches = charset_normalizer.from_bytes(data[:_SAMPLE])
    best = matches.best()
    if best is None:
        raise RejectedError("document_unreadable", "The text's character encoding cannot be determined. Save it as UTF-8.")
    # Short texts fit many 8-bit encodings equally well; then it is by far most often the western one.
    for match in matches:
        if match.chaos <= best.chaos and not _WESTERN.isdisjoint(match.could_be_from_charset):
            return "cp1252" if _decodes(data, "cp1252") else "latin-1"
    return best.encoding


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeError as error:
        raise RejectedError(
            "document_unreadable", "The text is not valid in its own character encoding. Save it as UTF-8."
        ) from error
