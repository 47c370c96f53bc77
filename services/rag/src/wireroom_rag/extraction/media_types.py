"""Which kind of file it is, decided by content."""

from __future__ import annotations

import codecs
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import PurePath

import charset_normalizer
import puremagic

from wireroom_common.errors import WireroomError, invalid

TEXT = "text/plain"
MARKDOWN = "text/markdown"
HTML = "text/html"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"

# How much of a file's beginning decides.
HEAD_BYTES = 64 * 1024
_PDF_HEADER_WITHIN = 1024
_BOMS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
_HTML_START = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_HTML_TAG = re.compile(r"<(?:p|div|h[1-6]|ul|ol|table|span|a|br|title|meta)\b", re.IGNORECASE)
# Text formats whose mark-up would be taken for content.
_OTHER_TEXT_FORMATS = ("{\\rtf", "<?xml", "%!PS", "<svg")
_MARKDOWN_NAMES = {".md", ".markdown"}
_HTML_NAMES = {".html", ".htm", ".xhtml"}
# Names that promise something else than text.
_BINARY_NAMES = {
    ".pdf",
    ".docx",
    ".doc",
    ".xls",
    ".xlsx",
    ".ppt",
    ".pptx",
    ".odt",
    ".epub",
    ".zip",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".webp",
}


def media_type_of(name: str, head: bytes, read_all: Callable[[], bytes]) -> str:
    """The media type of a file named `name` that begins with `head`; INVALID `document_type_unsupported` for all others.

    `read_all` is called only when the beginning does not decide (archives).
    """
    if b"%PDF-" in head[:_PDF_HEADER_WITHIN]:
        return PDF
    if head.startswith(b"PK\x03\x04"):
        if _is_docx(read_all()):
            return DOCX
        raise _unsupported("It is a ZIP archive, but not a Word document.")
    text = _as_text(head)
    if text is None:
        raise _unsupported(_guess(head))
    suffix = PurePath(name).suffix.lower()
    if _HTML_START.match(text) or (suffix in _HTML_NAMES and _HTML_TAG.search(text)):
        return HTML
    if text.lstrip().startswith(_OTHER_TEXT_FORMATS):
        raise _unsupported("It is text in a format of its own (RTF, XML, PostScript).")
    if suffix in _BINARY_NAMES:
        raise _unsupported(f"Its name ends in '{suffix}', but its content is plain text.")
    return MARKDOWN if suffix in _MARKDOWN_NAMES else TEXT


def _unsupported(what: str) -> WireroomError:
    return invalid(
        "document_type_unsupported", f"This file cannot be read. {what} Supported: TXT, Markdown, HTML, PDF, DOCX.", field="file"
    )


def _is_docx(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        return False
    return {"[Content_Types].xml", "word/document.xml"} <= names


def _as_text(head: bytes) -> str | None:
    if head.startswith(_BOMS):
        encoding = "utf-8-sig" if head.startswith(codecs.BOM_UTF8) else "utf-16"
        return codecs.getincrementaldecoder(encoding)("replace").decode(head)
    if _CONTROL.search(head):
        return None
    try:
        return codecs.getincrementaldecoder("utf-8")("strict").decode(head)
    except UnicodeDecodeError:
        best = charset_normalizer.from_bytes(head[:8192]).best()
        return None if best is None else str(best)


def _guess(head: bytes) -> str:
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        found = []
    return f"Its content looks like '{found[0].name or found[0].extension}'." if found else "Its content is not text."
