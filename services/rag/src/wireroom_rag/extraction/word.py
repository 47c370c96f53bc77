"""Text of Word documents (DOCX): paragraphs, headings and tables in their order, without what the document hides."""

from __future__ import annotations

import io
from collections.abc import Iterator

import docx
import docx.opc.exceptions
from docx.document import Document
from docx.oxml.ns import qn
from docx.table import Table
from docx.text.paragraph import Paragraph
from lxml import etree

from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.archives import READ_ERRORS, damaged, open_archive
from wireroom_rag.extraction.tables import table_text

# What holds runs of a paragraph. Deleted text (w:del, w:moveFrom) is not among them.
_HOLDERS = frozenset(
    qn(f"w:{name}") for name in ("hyperlink", "ins", "smartTag", "sdt", "sdtContent", "fldSimple", "moveTo", "customXml")
)
_RUN, _TEXT, _TAB = qn("w:r"), qn("w:t"), qn("w:tab")
_BREAKS = (qn("w:br"), qn("w:cr"))
_HIDDEN = (qn("w:vanish"), qn("w:webHidden"), qn("w:specVanish"))
_OFF = ("0", "false", "off")
# In half points; below this a text is not meant to be read.
_SMALLEST = 3
_MAX_HEADING = 6
_DEPTH = 20


def docx_text(data: bytes) -> str:
    """Headings and tables in the manner of Markdown; linked templates, pictures and files are never looked at."""
    open_archive(io.BytesIO(data)).close()
    try:
        document = docx.Document(io.BytesIO(data))
        return "\n\n".join(part for part in _Reader(document).parts() if part)
    except RejectedError:
        raise
    except (docx.opc.exceptions.OpcError, etree.LxmlError, *READ_ERRORS) as error:
        raise damaged() from error


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        styles = document.styles.element.iterchildren(qn("w:style"))
        properties = {style.get(qn("w:styleId")): (_based_on(style), style.find(qn("w:rPr"))) for style in styles}
        self._hidden = {name for name in properties if _chain_hides(name, properties)}

    def parts(self) -> Iterator[str]:
        for block in self._document.iter_inner_content():
            yield self._table(block) if isinstance(block, Table) else self._paragraph(block)

    def _paragraph(self, paragraph: Paragraph) -> str:
        text = self._visible(paragraph._p).strip()  # noqa: SLF001 - the public `text` includes what is hidden
        name = (paragraph.style.name or "").lower() if paragraph.style is not None else ""
        level = name.removeprefix("heading ") if name.startswith("heading ") else "1" if name == "title" else ""
        return f"{'#' * min(int(level), _MAX_HEADING)} {text}" if text and level.isdigit() and int(level) else text

    def _table(self, table: Table, depth: int = 0) -> str:
        if depth > _DEPTH:
            return ""
        rows: list[list[str]] = []
        for row in table.rows:
            cells: list[str] = []
            seen = None
            for cell in row.cells:
                # A merged cell stands in every column it covers.
                if cell._tc is not seen:  # noqa: SLF001 - nothing public tells merged cells apart
                    inner = (
                        self._table(block, depth + 1) if isinstance(block, Table) else self._visible(block._p)  # noqa: SLF001
                        for block in cell.iter_inner_content()
                    )
                    cells.append(" ".join(inner))
                seen = cell._tc  # noqa: SLF001
            rows.append(cells)
        return table_text(rows)

    def _visible(self, paragraph: etree._Element) -> str:
        properties = paragraph.find(qn("w:pPr"))
        style = properties.find(qn("w:pStyle")) if properties is not None else None
        if style is not None and style.get(qn("w:val")) in self._hidden:
            return ""
        return "".join(self._runs(paragraph, 0))

    def _runs(self, holder: etree._Element, depth: int) -> Iterator[str]:
        for child in holder:
            if child.tag == _RUN:
                if not self._is_hidden(child):
                    yield _run_text(child)
            elif child.tag in _HOLDERS and depth < _DEPTH:
                yield from self._runs(child, depth + 1)

    def _is_hidden(self, run: etree._Element) -> bool:
        properties = run.find(qn("w:rPr"))
        if properties is None:
            return False
        style = properties.find(qn("w:rStyle"))
        if style is not None and style.get(qn("w:val")) in self._hidden:
            return True
        return _hides(properties)


def _run_text(run: etree._Element) -> str:
    parts = []
    for child in run:
        if child.tag == _TEXT:
            parts.append(child.text or "")
        elif child.tag == _TAB:
            parts.append("\t")
        elif child.tag in _BREAKS:
            parts.append("\n")
    return "".join(parts)


def _based_on(style: etree._Element) -> str | None:
    base = style.find(qn("w:basedOn"))
    return base.get(qn("w:val")) if base is not None else None


def _chain_hides(name: str | None, properties: dict[str | None, tuple[str | None, etree._Element | None]]) -> bool:
    for _ in range(_DEPTH):
        if name not in properties:
            return False
        name, own = properties[name]
        if own is not None and _hides(own):
            return True
    return False


def _hides(properties: etree._Element) -> bool:
    if any((mark := properties.find(tag)) is not None and mark.get(qn("w:val"), "1") not in _OFF for tag in _HIDDEN):
        return True
    size = properties.find(qn("w:sz"))
    if size is not None and (size.get(qn("w:val")) or "").isdigit() and int(size.get(qn("w:val")) or 0) < _SMALLEST:
        return True
    colour = properties.find(qn("w:color"))
    shading = properties.find(qn("w:shd"))
    behind = shading.get(qn("w:fill"), "FFFFFF") if shading is not None else "FFFFFF"
    behind = "FFFFFF" if behind.lower() == "auto" else behind
    shown = properties.find(qn("w:highlight")) is not None
    return colour is not None and not shown and (colour.get(qn("w:val")) or "").upper() == behind.upper()
