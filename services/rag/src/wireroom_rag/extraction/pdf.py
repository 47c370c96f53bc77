"""Text of PDF files, page by page: pdfium, then pypdf when pdfium cannot open the file."""

from __future__ import annotations

import io
import re

import pypdfium2  # type: ignore[import-untyped]  # has no stubs
import pypdfium2.raw as pdfium  # type: ignore[import-untyped]  # has no stubs
from pypdf import PdfReader
from pypdf.errors import PyPdfError

from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.pdf_unseen import UnseenText

# pdfium marks a hyphen at a line's end with U+FFFE (older builds: U+0002); the word goes on in the next line.
_BROKEN_WORD = re.compile("[\ufffe\x02](?:\r?\n)?")


def pdf_pages(data: bytes, max_pages: int) -> list[str]:
    """The text of each page; RejectedError for encrypted, broken and overlong files."""
    try:
        return _with_pdfium(data, max_pages)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == pdfium.FPDF_ERR_PASSWORD or "password" in str(error).lower():
            raise _encrypted() from None
        return _with_pypdf(data, max_pages)


def _with_pdfium(data: bytes, max_pages: int) -> list[str]:
    document = pypdfium2.PdfDocument(data)
    try:
        _check_pages(len(document), max_pages)
        texts = []
        unseen = UnseenText()
        for index in range(len(document)):
            page = document[index]
            unseen.remove(page)
            text_page = page.get_textpage()
            texts.append(_BROKEN_WORD.sub("", text_page.get_text_range()))
            text_page.close()
            page.close()
        return texts
    finally:
        document.close()


def _with_pypdf(data: bytes, max_pages: int) -> list[str]:
    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise _encrypted()
        _check_pages(len(reader.pages), max_pages)
        return [page.extract_text() for page in reader.pages]
    except (RejectedError, MemoryError):
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError, OSError) as error:
        raise RejectedError("document_unreadable", "The PDF is damaged or incomplete: no page of it can be read.") from error


def _check_pages(count: int, max_pages: int) -> None:
    if count > max_pages:
        raise RejectedError("document_too_complex", f"The PDF has {count} pages; at most {max_pages} are processed. Split it.")


def _encrypted() -> RejectedError:
    return RejectedError("document_encrypted", "The PDF is encrypted with a password. Upload it without one.")
