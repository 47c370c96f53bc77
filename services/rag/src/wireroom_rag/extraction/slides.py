"""Text of presentations (PPTX), slide by slide: titles, text, tables and notes; of a slide what its readers see."""

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
from pptx.table import Table

from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.archives import READ_ERRORS, damaged, open_archive
from wireroom_rag.extraction.slide_looks import Box, Placement, Rgb, SlideLooks
from wireroom_rag.extraction.tables import table_text

_DEPTH = 20
# Wider and higher than any slide.
_ANY = 2**31
_RUNS = (qn("a:r"), qn("a:fld"))


def pptx_pages(data: bytes, max_pages: int) -> list[str]:
    """The text of each slide that is shown; hidden slides are empty pages, so that numbers stay those of the presentation."""
    open_archive(io.BytesIO(data)).close()
    try:
        presentation = pptx.Presentation(io.BytesIO(data))
        size = (0.0, 0.0, float(presentation.slide_width or _ANY), float(presentation.slide_height or _ANY))
        return _pages(presentation.slides, max_pages, size)
    except RejectedError:
        raise
    except (pptx.exc.PythonPptxError, etree.LxmlError, *READ_ERRORS) as error:
        raise damaged() from error


def _pages(slides: Slides, max_pages: int, size: Box) -> list[str]:
    if len(slides) > max_pages:
        raise RejectedError(
            "document_too_complex", f"The presentation has {len(slides)} slides; at most {max_pages} are processed. Split it."
        )
    # Nothing public tells which slides are hidden.
    return ["" if slide._element.get("show") in ("0", "false") else _slide(slide, size) for slide in slides]  # noqa: SLF001 - see above


def _slide(slide: Slide, size: Box) -> str:
    looks = SlideLooks(slide, size)
    title = slide.shapes.title
    heading = ""
    parts = []
    for shape in slide.shapes:
        texts = [text for text in _texts(shape, looks, Placement(), 0) if text.strip()]
        if title is not None and shape.shape_id == title.shape_id and texts:
            heading = f"# {' '.join(texts).replace(chr(10), ' ')}"
        else:
            parts += texts
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        parts.append(slide.notes_slide.notes_text_frame.text)
    return "\n\n".join(part for part in (heading, *parts) if part.strip())


def _texts(shape: BaseShape, looks: SlideLooks, placement: Placement, depth: int) -> Iterator[str]:
    if any(element.get("hidden") in ("1", "true") for element in _own(shape.element)):
        return
    if isinstance(shape, GroupShape):
        if depth < _DEPTH:
            for inner in shape.shapes:
                yield from _texts(inner, looks, placement.inside(shape), depth + 1)
        return
    looks.draw(shape, placement)
    if looks.outside(shape, placement):
        return
    behind = looks.behind(shape, placement)
    if getattr(shape, "has_table", False):
        table: Table = shape.table  # type: ignore[attr-defined]  # shapes with a table
        yield table_text(
            [_lines(cell._tc.txBody, looks, looks.cell(cell._tc, table._tbl, behind)) for cell in row.cells]  # noqa: SLF001 - colours are not public
            for row in table.rows
        )
    elif shape.has_text_frame:
        yield _lines(shape.element.txBody, looks, behind)


def _own(element: etree._Element) -> Iterable[etree._Element]:
    # p:nvSpPr/p:cNvPr and its like: the first child's first child.
    return [child for holder in list(element)[:1] for child in holder if child.tag == qn("p:cNvPr")]


def _lines(body: etree._Element | None, looks: SlideLooks, behind: Rgb | None) -> str:
    if body is None:
        return ""
    lines = []
    for paragraph in body.iterchildren(qn("a:p")):
        pieces = []
        for child in paragraph:
            if child.tag in _RUNS and looks.readable(child, body, behind):
                pieces.append(child.findtext(qn("a:t")) or "")
            elif child.tag == qn("a:br"):
                pieces.append("\n")
        lines.append("".join(pieces))
    return "\n".join(lines).strip()
