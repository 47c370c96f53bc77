"""Which kind of file it is, decided by content. The name only chooses between kinds of text, and may promise too much."""

from __future__ import annotations

import codecs
import re
import zipfile
from collections.abc import Callable
from pathlib import PurePath
from typing import BinaryIO

import charset_normalizer
import puremagic

from wireroom_common.errors import WireroomError, invalid
from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.archives import open_archive
from wireroom_rag.extraction.encoding import marked_encoding

TEXT = "text/plain"
MARKDOWN = "text/markdown"
HTML = "text/html"
CSV = "text/csv"
MAIL = "message/rfc822"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"

# How much of a file's beginning decides.
HEAD_BYTES = 64 * 1024
_PDF_HEADER_WITHIN = 1024
_ZIP_HEADER = b"PK\x03\x04"
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
# Comments are taken as they end first and never otherwise: many of them could be told apart in exponentially many ways.
_HTML_START = re.compile(
    r"\s*(?:<\?xml[^>]*>\s*)?(?>(?:<!--.*?-->\s*)*)<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL
)
_HTML_TAG = re.compile(r"<(?:p|div|h[1-6]|ul|ol|table|span|a|br|title|meta)\b", re.IGNORECASE)
# The beginning of a mail: an envelope line of a mailbox perhaps, then header fields, long ones folded.
_MAIL_START = re.compile(r"(?:From [^\r\n]+\r?\n)?((?:[!-9;-~]{1,76}:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*)+)(?:\r?\n|\Z)")
_MAIL_FIELD = re.compile(r"^([!-9;-~]+):", re.MULTILINE)
_MAIL_TELLING = frozenset({"from", "date", "message-id", "received", "return-path", "mime-version", "delivered-to"})
# Text formats whose mark-up would be taken for content.
_OTHER_TEXT_FORMATS = ("{\\rtf", "<?xml", "%!PS", "<svg")
_MARKDOWN_NAMES = {".md", ".markdown"}
_HTML_NAMES = {".html", ".htm", ".xhtml"}
_CSV_NAMES = {".csv", ".tsv"}
_PARTS = {
    "word/document.xml": DOCX,
    "ppt/presentation.xml": PPTX,
    "xl/workbook.xml": XLSX,
}
_ARCHIVE_NAMES = {".docx": "a Word document", ".pptx": "a presentation", ".xlsx": "a workbook", ".epub": "a book"}
# Names that promise something else than text.
_BINARY_NAMES = frozenset(
    (*_ARCHIVE_NAMES, ".pdf", ".doc", ".xls", ".ppt", ".odt", ".zip", ".png", ".jpg", ".jpeg", ".gif", ".webp")
)
_SUPPORTED = "TXT, Markdown, HTML, CSV, e-mail (EML), PDF, DOCX, PPTX, XLSX, EPUB"


def may_shrink(head: bytes) -> bool:
    """Whether a file that begins with `head` is worth compressing: text, as far as its beginning tells."""
    return not head.startswith(_ZIP_HEADER) and b"%PDF-" not in head[:_PDF_HEADER_WITHIN] and _as_text(head) is not None


def media_type_of(name: str, head: bytes, open_file: Callable[[], BinaryIO]) -> str:
    """The media type of a file named `name` that begins with `head`. Blocking where `open_file` is.

    INVALID `document_type_unsupported`, or `document_type_mismatch` for a name that promises what the content is not, or the reason why an
    archive is not unpacked. `open_file` is called only when the beginning does not decide (archives); it gives a seekable file.
    """
    suffix = PurePath(name).suffix.lower()
    if head.startswith(_ZIP_HEADER):
        return _archive_type(suffix, open_file)
    if b"%PDF-" in head[:_PDF_HEADER_WITHIN]:
        return PDF
    text = _as_text(head)
    if text is None:
        raise _refused(suffix, _guess(head))
    if _HTML_START.match(text) or (suffix in _HTML_NAMES and _HTML_TAG.search(text)):
        return HTML
    if text.lstrip().startswith(_OTHER_TEXT_FORMATS):
        raise _refused(suffix, "It is text in a format of its own (RTF, XML, PostScript).")
    if suffix in _BINARY_NAMES:
        raise _mismatch(f"Its name ends in '{suffix}', but its content is plain text.")
    return _text_type(suffix, text)


def _text_type(suffix: str, text: str) -> str:
    if _is_mail(text, named=suffix == ".eml"):
        return MAIL
    if suffix == ".eml":
        raise _mismatch("Its name ends in '.eml', but it does not begin like an e-mail.")
    if suffix in _CSV_NAMES:
        return CSV
    return MARKDOWN if suffix in _MARKDOWN_NAMES else TEXT


def _is_mail(text: str, *, named: bool) -> bool:
    start = _MAIL_START.match(text)
    if start is None:
        return False
    fields = {name.lower() for name in _MAIL_FIELD.findall(start[1])}
    # Notes may begin with "From:" and "Date:", too; a name that says so settles it.
    return bool(fields & _MAIL_TELLING) if named else "from" in fields and len(fields & _MAIL_TELLING) > 2  # noqa: PLR2004 - see above


def _archive_type(suffix: str, open_file: Callable[[], BinaryIO]) -> str:
    try:
        with open_file() as file, open_archive(file) as archive:
            found = _archive_content(archive)
    except RejectedError as rejection:
        if rejection.code == "document_unreadable":
            raise _refused(suffix, "It is a ZIP archive, but damaged or incomplete.") from None
        raise invalid(rejection.code, rejection.reason, field="file") from None
    if found is None:
        raise _refused(suffix, "It is a ZIP archive, but no document of a kind that can be read.")
    return found


def _archive_content(archive: zipfile.ZipFile) -> str | None:
    names = set(archive.namelist())
    if "[Content_Types].xml" in names:
        return next((media_type for part, media_type in _PARTS.items() if part in names), None)
    if "META-INF/container.xml" in names and "mimetype" in names:
        with archive.open("mimetype") as entry:
            return EPUB if entry.read(64).strip() == EPUB.encode() else None
    return None


def _refused(suffix: str, what: str) -> WireroomError:
    if suffix in _ARCHIVE_NAMES:
        return _mismatch(f"Its name says that it is {_ARCHIVE_NAMES[suffix]}, but it is not. {what}")
    if suffix == ".pdf":
        return _mismatch(f"Its name says that it is a PDF, but it is not. {what}")
    return invalid("document_type_unsupported", f"This file cannot be read. {what} Supported: {_SUPPORTED}.", field="file")


def _mismatch(what: str) -> WireroomError:
    return invalid("document_type_mismatch", f"This file cannot be read. {what} Supported: {_SUPPORTED}.", field="file")


def _as_text(head: bytes) -> str | None:
    if encoding := marked_encoding(head):
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
