"""HTML, and what is made into it: the text that a reader of the page would see. Nothing is fetched."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from lxml import etree
from lxml import html as lxml_html
from markdown_it import MarkdownIt

from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.encoding import declared_in_markup, decode_text
from wireroom_rag.extraction.style import Look, Styles, hides, look_of
from wireroom_rag.extraction.tables import table_text

_SKIPPED = frozenset(
    {"script", "style", "noscript", "template", "svg", "math", "iframe", "object", "embed", "canvas", "datalist"}
)
_INLINE = frozenset((
    "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img", "ins", "kbd", "label", "mark",
    "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
))  # fmt: skip
_HEADINGS = {f"h{level}": f"{'#' * level} " for level in range(1, 7)}
_PARAGRAPHS = frozenset({"p", "table", "ul", "ol", "blockquote", "pre", "section", "article", "dl", "figure"})
_CELLS = frozenset({"td", "th"})
_BLANKS = re.compile(r"[ \t\r\n\f]+")
_LARGE = 1_000_000
_EMPTY_HEADING = re.compile(r"^#{1,6}[ \t]*$", re.MULTILINE)


def html_text(data: bytes) -> str:
    """Title and visible text; headings and tables in the manner of Markdown."""
    declared = declared_in_markup(data)
    return html_string_text(decode_text(data, declared))


def html_string_text(page: str) -> str:
    """The same of decoded HTML."""
    try:
        root = lxml_html.document_fromstring(
            page.encode("utf-8", "replace"), parser=lxml_html.HTMLParser(encoding="utf-8", no_network=True)
        )
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        if len(page) > _LARGE:
            # The parser calls a page empty when memory ran out.
            raise MemoryError from error
        raise RejectedError("document_no_text", "The HTML page holds no text.") from error
    return _EMPTY_HEADING.sub("", _Reader(Styles(root)).text_of(root))


def markdown_text(data: bytes) -> str:
    """What a reader of the rendered page would see: hidden parts of HTML inside are as hidden as in a page."""
    page = MarkdownIt("commonmark").enable("table").render(decode_text(data))
    return html_string_text(f"<body>{page}</body>") if page.strip() else ""


@dataclass
class _Table:
    """A table while it is read; `before` is where its text will go."""

    before: list[str]
    rows: list[list[str]] = field(default_factory=list)


class _Reader:
    """Walks by events, not by recursion: nesting depth is the author's choice."""

    def __init__(self, styles: Styles) -> None:
        self._styles = styles
        self._parts: list[str] = []
        self._looks = [Look()]
        self._tables: list[_Table] = []
        self._in_heading = 0
        self._in_pre = 0

    def text_of(self, root: etree._Element) -> str:
        skipping: etree._Element | None = None
        whole = self._parts
        for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
            tag = element.tag if isinstance(element.tag, str) else ""
            if skipping is None and event == "start":
                declared = self._styles.of(element)
                if tag in _SKIPPED or hides(declared, element):
                    skipping = element
                    continue
                self._looks.append(look_of(declared, self._looks[-1]))
                self._open(tag)
                self._say(element.text)
            elif event != "start" and (skipping is None or skipping is element):
                if event == "end" and skipping is None:
                    self._looks.pop()
                    self._close(tag)
                skipping = None
                self._say(element.tail)
        while self._tables:
            self._end_table()
        return "".join(whole)

    def _say(self, text: str | None) -> None:
        if not text or not self._looks[-1].readable():
            return
        if not self._in_pre:
            text = _BLANKS.sub(" ", text)
            if self._parts and self._parts[-1].endswith("\n"):
                text = text.lstrip(" ")
        self._parts.append(text)

    def _open(self, tag: str) -> None:
        if tag == "table":
            self._break("\n\n")
            self._tables.append(_Table(self._parts))
            self._parts = []
        elif tag == "tr" and self._tables:
            # Captions and what else stands outside of cells goes before the table.
            self._tables[-1].before.extend(self._parts)
            self._parts = []
            self._tables[-1].rows.append([])
        elif tag in _CELLS and self._tables:
            self._parts = []
        elif tag in _HEADINGS:
            self._break("\n\n")
            self._parts.append(_HEADINGS[tag])
            self._in_heading += 1
        elif tag not in _INLINE:
            self._break("\n\n" if tag in _PARAGRAPHS else "\n")
        self._in_pre += tag == "pre"

    def _close(self, tag: str) -> None:
        self._in_pre -= tag == "pre"
        if tag == "table" and self._tables:
            self._end_table()
        elif tag in _CELLS and self._tables:
            table = self._tables[-1]
            if not table.rows:
                table.rows.append([])
            table.rows[-1].append("".join(self._parts).strip())
            self._parts = []
        elif tag in _HEADINGS:
            self._in_heading = max(0, self._in_heading - 1)
            self._break("\n\n")
        elif tag not in _INLINE:
            self._break("\n\n" if tag in _PARAGRAPHS else "\n")

    def _break(self, gap: str) -> None:
        # A line break would end the heading before its words.
        self._parts.append(" " if self._in_heading else gap)

    def _end_table(self) -> None:
        table = self._tables.pop()
        rest = self._parts
        self._parts = table.before
        # A table for layout holds paragraphs or is a single column: its cells are just text.
        layout = any("\n" in cell for row in table.rows for cell in row) or all(len(row) < 2 for row in table.rows)  # noqa: PLR2004 - columns of a table
        if layout:
            self._parts.extend(f"\n{cell}\n" for row in table.rows for cell in row if cell)
        else:
            self._parts.append(table_text(table.rows))
        self._parts.extend(rest)
        self._break("\n\n")
