"""Text of presentations (PPTX), slide by slide: titles, text, tables and notes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import pptx
import pptx.exc
from lxml import etree
from pptx.oxml.ns import qn
from pptx.shapes.base import BaseShape
from pptx.shapes.group import GroupShape
from pptx.slide import Slide, Slides

from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.archives import READ_ERRORS, damaged, open_archive
from wireroom_rag.extraction.tables import table_text

_DEPTH = 20


def pptx_pages(data: bytes, max_pages: int) -> list[str]:
    """The text of each slide that is shown; hidden slides are empty pages, so that numbers stay those of the presentation."""
    open_archive(io.BytesIO(data)).close()
    try:
        return _pages(pptx.Presentation(io.BytesIO(data)).slides, max_pages)
    except RejectedError:
        raise
    except (pptx.exc.PythonPptxError, etree.LxmlError, *READ_ERRORS) as error:
        raise damaged() from error


def _pages(slides: Slides, max_pages: int) -> list[str]:
    if len(slides) > max_pages:
        raise RejectedError(
            "document_too_complex", f"The presentation has {len(slides)} slides; at most {max_pages} are processed. Split it."
        )
    # Nothing public tells which slides are hidden.
    return ["" if slide._element.get("show") in ("0", "false") else _slide(slide) for slide in slides]  # noqa: SLF001 - see above


def _slide(slide: Slide) -> str:
    title = slide.shapes.title
    parts = [f"# {_lines(title).replace(chr(10), ' ')}"] if title is not None and _lines(title) else []
    skipped = title.shape_id if title is not None else None
    parts += [text for shape in slide.shapes if shape.shape_id != skipped for text in _texts(shape, 0)]
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        parts.append(slide.notes_slide.notes_text_frame.text)
    return "\n\n".join(part for part in parts if part.strip())


def _texts(shape: BaseShape, depth: int) -> Iterator[str]:
    if any(element.get("hidden") in ("1", "true") for element in _own(shape.element)):
        return
    if isinstance(shape, GroupShape):
        if depth < _DEPTH:
            for inner in shape.shapes:
                yield from _texts(inner, depth + 1)
    elif getattr(shape, "has_table", False):
        yield table_text([cell.text for cell in row.cells] for row in shape.table.rows)  # type: ignore[attr-defined]  # shapes with a table
    elif shape.has_text_frame:
        yield _lines(shape)


def _own(element: etree._Element) -> Iterable[etree._Element]:
    # p:nvSpPr/p:cNvPr and its like: the first child's first child.
    return [child for holder in list(element)[:1] for child in holder if child.tag == qn("p:cNvPr")]


def _lines(shape: BaseShape) -> str:
    frame = getattr(shape, "text_frame", None)
    return "\n".join(paragraph.text for paragraph in frame.paragraphs).strip() if frame is not None else ""
