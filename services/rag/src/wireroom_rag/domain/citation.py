"""Citations that carry what they claim: document, version, span, and a hash of the cited text."""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
import unicodedata
from dataclasses import dataclass
from uuid import UUID

_LAYOUT = struct.Struct(">16sIII16s")
_MAX = 2**31 - 1
_QUOTES = str.maketrans(dict.fromkeys("“”„‟«»〝〞″", '"') | dict.fromkeys("‘’‚‛‹›`´′", "'"))  # noqa: RUF001 - the look-alikes are the point


@dataclass(frozen=True)
class Citation:
    """A span of one version, and the first 16 bytes of the SHA-256 of its text (UTF-8)."""

    document_id: UUID
    version: int
    start: int
    end: int
    digest: bytes

    @classmethod
    def of(cls, document_id: UUID, version: int, start: int, end: int, text: str) -> Citation:
        """The citation of `text`, which stands at `start:end`."""
        return cls(document_id, version, start, end, _digest(text))

    def matches(self, text: str) -> bool:
        """Whether `text` is what was cited."""
        return self.digest == _digest(text)

    def encode(self) -> str:
        """The opaque id: URL-safe, 59 characters."""
        packed = _LAYOUT.pack(self.document_id.bytes, self.version, self.start, self.end, self.digest)
        return base64.urlsafe_b64encode(packed).rstrip(b"=").decode("ascii")

    @classmethod
    def decode(cls, citation_id: str) -> Citation | None:
        """The citation named by an id; None unless it is exactly what `encode` writes."""
        try:
            packed = base64.b64decode(citation_id + "=" * (-len(citation_id) % 4), altchars=b"-_", validate=True)
            document, version, start, end, digest = _LAYOUT.unpack(packed)
        except (binascii.Error, struct.error, ValueError):
            return None
        citation = cls(UUID(bytes=document), version, start, end, digest)
        if not (0 < version <= _MAX and start < end <= _MAX) or citation.encode() != citation_id:
            return None
        return citation


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()[:16]


def quote_stands_in(quote: str, text: str) -> bool:
    """Whether the quote stands in the text word for word; white space, quotation marks and Unicode composition do not count."""
    wanted = _normalised(quote)
    return bool(wanted) and wanted in _normalised(text)


def _normalised(text: str) -> str:
    # Composition first: after it a quotation mark is one code point.
    return " ".join(unicodedata.normalize("NFC", text).translate(_QUOTES).split())
