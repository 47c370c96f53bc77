"""One reader per media type. A reader's libraries are loaded with the first file that needs them."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import cast

from wireroom_rag.extraction.encoding import decode_text
from wireroom_rag.extraction.media_types import CSV, DOCX, EPUB, HTML, MAIL, MARKDOWN, PDF, PPTX, TEXT, XLSX

_PACKAGE = __package__
# Whole texts: module and function.
_TEXTS = {
    MARKDOWN: ("markup", "markdown_text"),
    HTML: ("markup", "html_text"),
    DOCX: ("word", "docx_text"),
    CSV: ("sheets", "csv_text"),
    MAIL: ("mail", "mail_text"),
}
# Page by page.
_PAGES = {
    PDF: ("pdf", "pdf_pages"),
    PPTX: ("slides", "pptx_pages"),
    XLSX: ("sheets", "xlsx_pages"),
    EPUB: ("books", "epub_pages"),
}
MEDIA_TYPES = frozenset({TEXT, *_TEXTS, *_PAGES})


def read_pages(media_type: str, data: bytes, max_pages: int) -> tuple[list[str], bool]:
    """The text in its parts, and whether these are pages (slides, sheets, chapters). RejectedError when it cannot be had."""
    if media_type in _PAGES:
        return cast("Callable[[bytes, int], list[str]]", _function(*_PAGES[media_type]))(data, max_pages), True
    read = decode_text if media_type == TEXT else cast("Callable[[bytes], str]", _function(*_TEXTS[media_type]))
    return [read(data)], False


def _function(module: str, name: str) -> object:
    return getattr(import_module(f"{_PACKAGE}.{module}"), name)
