"""Text of books (EPUB), chapter by chapter in reading order."""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from urllib.parse import unquote

from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.archives import damaged, open_archive, read_entry
from wireroom_rag.extraction.markup import html_text
from wireroom_rag.extraction.package_xml import read_xml

_CONTAINER = "META-INF/container.xml"
_CHAPTERS = ("application/xhtml+xml", "text/html", "application/xml")


def epub_pages(data: bytes, max_pages: int) -> list[str]:
    """The text of each chapter; what the book links to outside of itself is never looked at."""
    with open_archive(io.BytesIO(data)) as archive:
        if "META-INF/encryption.xml" in archive.namelist() and b"EncryptedData" in read_entry(archive, "META-INF/encryption.xml"):
            raise RejectedError("document_encrypted", "The book is protected against copying. Upload it without protection.")
        parts = list(_chapters(archive))
        if len(parts) > max_pages:
            raise RejectedError(
                "document_too_complex", f"The book has {len(parts)} chapters; at most {max_pages} are processed. Split it."
            )
        return [_chapter(archive, part) for part in parts]


def _chapters(archive: zipfile.ZipFile) -> Iterator[str]:
    root = next(read_xml(archive, _CONTAINER).iter("{*}rootfile"), None)
    package = root.get("full-path") if root is not None else None
    if not package:
        raise damaged()
    content = read_xml(archive, package)
    items = {item.get("id"): item for item in content.iter("{*}item")}
    for reference in content.iter("{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is not None and item.get("media-type") in _CHAPTERS and reference.get("linear") != "no":
            yield posixpath.normpath(posixpath.join(posixpath.dirname(package), unquote(item.get("href") or "")))


def _chapter(archive: zipfile.ZipFile, part: str) -> str:
    try:
        return html_text(read_entry(archive, part))
    except RejectedError as rejection:
        if rejection.code == "document_no_text":
            return ""
        raise
