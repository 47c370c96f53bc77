"""Text of Word documents (DOCX): paragraphs, headings, tables, notes and text boxes in their order, without what the document hides."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import docx
import docx.opc.exceptions
from docx.document import Document
from docx.oxml.ns import qn
from docx.section import _Footer, _Header
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
_PAPER = "FFFFFF"
_BOX = qn("w:txbxContent")
_ALTERNATIVES = "{http://schemas.openxmlformats.org/markup-compatibility/2006}AlternateContent"
_DRAWINGS = (qn("w:drawing"), qn("w:pict"))


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


@dataclass(frozen=True)
class _Style:
    """What a style and those it is based on say of text. Colours are as Word writes them, in capitals."""

    hidden: bool = False
    colour: str | None = None
    shade: str | None = None


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document
        own = {style.get(qn("w:styleId")): style for style in document.styles.element.iterchildren(qn("w:style"))}
        self._styles = {name: _resolved(name, own) for name in own}
        self._headings = {name: _heading(style) for name, style in own.items()}
        self._shading_tables = {
            name for name in own if any(style.find(f".//{qn('w:shd')}") is not None for style in _bases(name, own))
        }
        self._paper = _paper(document)
        self._notes = dict(_notes(document))
        # What a paragraph carries with it: notes and text boxes, which follow it.
        self._carried: list[str] = []

    def parts(self) -> Iterator[str]:
        yield from self._margins("header")
        yield from self._blocks(self._document.element.body, self._document, self._paper)
        yield from self._margins("footer")

    def _margins(self, kind: str) -> list[str]:
        """The headers or footers of all sections, each text once."""
        texts: dict[str, None] = {}
        for section in self._document.sections:
            for name in (f"first_page_{kind}", kind, f"even_page_{kind}"):
                margin: _Header | _Footer = getattr(section, name)
                if not margin.is_linked_to_previous:
                    blocks = self._blocks(margin._element, margin, self._paper)  # noqa: SLF001 - the public iteration skips content controls
                    texts["\n\n".join(part for part in blocks if part)] = None
        return list(texts)

    def _blocks(self, element: etree._Element, parent: Document | _Header | _Footer, behind: str | None) -> Iterator[str]:
        for block in _inner(element, parent, 0):
            yield self._table(block, behind) if isinstance(block, Table) else self._paragraph(block, behind)
            yield from self._taken()

    def _taken(self) -> list[str]:
        carried, self._carried = self._carried, []
        return carried

    def _paragraph(self, paragraph: Paragraph, behind: str | None) -> str:
        text = self._visible(paragraph._p, behind).strip()  # noqa: SLF001 - the public `text` includes what is hidden
        named = paragraph._p.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")  # noqa: SLF001 - the public `style` takes a millisecond
        level = self._headings.get(named.get(qn("w:val")), 0) if named is not None else 0
        return f"{'#' * level} {text}" if text and level else text

    def _table(self, table: Table, behind: str | None, depth: int = 0) -> str:
        if depth > _DEPTH:
            return ""
        style = table._tbl.find(f"{qn('w:tblPr')}/{qn('w:tblStyle')}")  # noqa: SLF001 - the public `style` loads a default
        if style is not None and style.get(qn("w:val")) in self._shading_tables:
            # Which cells the style shades depends on their place.
            behind = None
        rows: list[list[str]] = []
        for row in table.rows:
            cells: list[str] = []
            seen = None
            for cell in row.cells:
                # A merged cell stands in every column it covers.
                if cell._tc is not seen:  # noqa: SLF001 - nothing public tells merged cells apart
                    shade = _shade(cell._tc.find(qn("w:tcPr")), behind)  # noqa: SLF001
                    inner = [
                        self._table(block, shade, depth + 1) if isinstance(block, Table) else self._visible(block._p, shade)  # noqa: SLF001
                        for block in _inner(cell._tc, cell, 0)  # noqa: SLF001
                    ]
                    cells.append(" ".join(inner))
                seen = cell._tc  # noqa: SLF001
            rows.append(cells)
        return table_text(rows)

    def _visible(self, paragraph: etree._Element, behind: str | None, depth: int = 0) -> str:
        properties = paragraph.find(qn("w:pPr"))
        named = properties.find(qn("w:pStyle")) if properties is not None else None
        style = self._style(named)
        if style.hidden:
            return ""
        behind = _shade(properties, behind if style.shade is None else style.shade)
        return "".join(self._runs(paragraph, style.colour, behind, depth))

    def _runs(self, holder: etree._Element, colour: str | None, behind: str | None, depth: int) -> Iterator[str]:
        for child in holder:
            if child.tag == _RUN:
                if not self._is_hidden(child, colour, behind):
                    self._carry(child, depth)
                    yield _run_text(child)
            elif child.tag in _HOLDERS and depth < _DEPTH:
                yield from self._runs(child, colour, behind, depth + 1)

    def _is_hidden(self, run: etree._Element, colour: str | None, behind: str | None) -> bool:
        properties = run.find(qn("w:rPr"))
        if properties is None:
            return _same(colour, behind)
        style = self._style(properties.find(qn("w:rStyle")))
        if style.hidden or _hides(properties):
            return True
        if properties.find(qn("w:highlight")) is not None:
            return False
        return _same(_colour(properties) or style.colour or colour, _shade(properties, style.shade or behind))

    def _carry(self, run: etree._Element, depth: int) -> None:
        for reference in run.iterchildren(qn("w:footnoteReference"), qn("w:endnoteReference")):
            note = self._notes.pop((reference.tag, reference.get(qn("w:id"))), None)
            if note is not None:
                self._say_inside(note, self._paper, "Note: ", depth)
        for box in _text_boxes(run):
            # What the box is filled with is the drawing's matter.
            self._say_inside(box, None, "", depth)

    def _say_inside(self, holder: etree._Element, behind: str | None, mark: str, depth: int) -> None:
        if depth >= _DEPTH:
            return
        lines = [
            self._visible(paragraph, behind, depth + 1)
            for paragraph in holder.iter(qn("w:p"))
            # A box inside of the box speaks for itself.
            if next(paragraph.iterancestors(_BOX, holder.tag), None) is holder
        ]
        text = "\n".join(line.strip() for line in lines if line.strip())
        if text:
            self._carried.append(f"{mark}{text}")

    def _style(self, named: etree._Element | None) -> _Style:
        return self._styles.get(named.get(qn("w:val")), _Style()) if named is not None else _Style()


def _inner(element: etree._Element, parent: Any, depth: int) -> Iterator[Paragraph | Table]:
    """Paragraphs and tables, those inside of content controls among them."""
    child: Any
    for child in element:
        if child.tag == qn("w:p"):
            yield Paragraph(child, parent)
        elif child.tag == qn("w:tbl"):
            yield Table(child, parent)
        elif child.tag in _HOLDERS and depth < _DEPTH:
            yield from _inner(child, parent, depth + 1)


def _resolved(name: str | None, own: Mapping[str | None, etree._Element]) -> _Style:
    hidden, colour, shade = False, None, None
    for style in _bases(name, own):
        run, paragraph = style.find(qn("w:rPr")), style.find(qn("w:pPr"))
        if run is not None:
            hidden = hidden or _hides(run)
            colour = colour or _colour(run)
            shade = shade or _shade(run, None)
        shade = shade or _shade(paragraph, None)
    return _Style(hidden, colour, shade)


def _heading(style: etree._Element) -> int:
    """The level of headings in this style; 0 for other text."""
    named = style.find(qn("w:name"))
    name = (named.get(qn("w:val")) or "").lower() if named is not None and style.get(qn("w:type")) == "paragraph" else ""
    level = name.removeprefix("heading ") if name.startswith("heading ") else "1" if name == "title" else ""
    return min(int(level), _MAX_HEADING) if level.isdecimal() else 0


def _bases(name: str | None, own: Mapping[str | None, etree._Element]) -> Iterator[etree._Element]:
    """A style and those it is based on."""
    for _ in range(_DEPTH):
        style = own.get(name)
        if style is None:
            return
        yield style
        base = style.find(qn("w:basedOn"))
        name = base.get(qn("w:val")) if base is not None else None


def _paper(document: Document) -> str | None:
    """The colour of the pages; None for one that cannot be told."""
    background = document.element.find(qn("w:background"))
    if background is None or document.settings.element.find(qn("w:displayBackgroundShape")) is None:
        return _PAPER
    colour = (background.get(qn("w:color")) or "").upper()
    return None if len(background) or colour in ("", "AUTO") else colour


def _notes(document: Document) -> Iterator[tuple[tuple[str, str | None], etree._Element]]:
    """Footnotes and endnotes by the tag and the number that refer to them."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    for relationship in document.part.rels.values():
        kind = relationship.reltype.rsplit("/", 1)[-1]
        if kind in ("footnotes", "endnotes") and not relationship.is_external:
            name = kind.removesuffix("s")
            for note in etree.fromstring(relationship.target_part.blob, parser).iterchildren(qn(f"w:{name}")):
                # Separators have a type.
                if note.get(qn("w:type"), "normal") == "normal":
                    yield (qn(f"w:{name}Reference"), note.get(qn("w:id"))), note


def _text_boxes(run: etree._Element) -> Iterator[etree._Element]:
    """The boxes of a run, of alternatives the first that has any."""
    for child in run:
        if child.tag == _ALTERNATIVES:
            yield from next((found for branch in child if (found := _outermost(branch))), [])
        elif child.tag in _DRAWINGS:
            yield from _outermost(child)


def _outermost(holder: etree._Element) -> list[etree._Element]:
    return [box for box in holder.iter(_BOX) if next(box.iterancestors(_BOX, holder.tag), None) is holder]


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


def _hides(properties: etree._Element) -> bool:
    if any((mark := properties.find(tag)) is not None and mark.get(qn("w:val"), "1") not in _OFF for tag in _HIDDEN):
        return True
    size = properties.find(qn("w:sz"))
    return size is not None and (size.get(qn("w:val")) or "").isdigit() and int(size.get(qn("w:val")) or 0) < _SMALLEST


def _colour(properties: etree._Element) -> str | None:
    colour = properties.find(qn("w:color"))
    return (colour.get(qn("w:val")) or "").upper() or None if colour is not None else None


def _shade(properties: etree._Element | None, behind: str | None) -> str | None:
    """The colour behind text with these properties, inside of what has the colour `behind`."""
    shading = properties.find(qn("w:shd")) if properties is not None else None
    fill = (shading.get(qn("w:fill")) or "auto").upper() if shading is not None else "AUTO"
    return behind if fill == "AUTO" else fill


def _same(colour: str | None, behind: str | None) -> bool:
    return colour is not None and colour == behind
