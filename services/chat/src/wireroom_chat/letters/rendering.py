"""From a filled-in text template to a PDF. CPU work: call it off the event loop.

A template is lines of text: a blank line ends a paragraph, `# ` makes a heading, `| name | value` a row of a table. Values are put in
as `string.Template` does and never read as markup.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from string import Template
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer, Table

from wireroom_common.errors import invalid

MAX_TEXT = 40_000
_REGULAR, _BOLD = "DejaVuSans", "DejaVuSans-Bold"
_RIGHT_TO_LEFT = frozenset({"R", "AL", "AN"})


class LetterRenderer:
    """The fonts are read once. Safe to use from several threads."""

    def __init__(self) -> None:
        folder = files("wireroom_chat.letters") / "fonts"
        self._glyphs: frozenset[int] = frozenset()
        for name in (_REGULAR, _BOLD):
            font = TTFont(name, io.BytesIO((folder / f"{name}.ttf").read_bytes()))
            registerFont(font)
            if name == _REGULAR:
                self._glyphs = frozenset(font.face.charToGlyph)
        text = ParagraphStyle("text", fontName=_REGULAR, fontSize=10, leading=14, spaceAfter=4)
        self._text = text
        self._line = ParagraphStyle("line", parent=text, spaceAfter=0)
        self._heading = ParagraphStyle("heading", parent=text, fontName=_BOLD, fontSize=12, leading=16, spaceBefore=6)

    def render(self, template: str, values: Mapping[str, str], *, title: str, created: datetime) -> bytes:
        """The PDF; INVALID `letter_characters` for text that the letter's fonts cannot show."""
        filled = Template(template).substitute(values)
        if len(filled) > MAX_TEXT:
            raise invalid("letter_too_long", f"The letter would have more than {MAX_TEXT} characters.")
        self._check(filled)
        target = io.BytesIO()
        document = SimpleDocTemplate(
            target,
            pagesize=A4,
            leftMargin=25 * mm,
            rightMargin=25 * mm,
            topMargin=25 * mm,
            bottomMargin=25 * mm,
            title=title,
            subject=f"Drawn up {created:%Y-%m-%d}",
            # No date and no id of this moment in the file: the same letter is the same bytes.
            invariant=1,
        )
        document.build(self._story(template, values), onFirstPage=_page_number, onLaterPages=_page_number)
        return target.getvalue()

    def _check(self, text: str) -> None:
        for character in text:
            if character == "\n":
                continue
            known = ord(character) in self._glyphs and unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
            if not known or unicodedata.bidirectional(character) in _RIGHT_TO_LEFT:
                name = unicodedata.name(character, f"U+{ord(character):04X}")
                raise invalid(
                    "letter_characters",
                    f"The letter cannot show the character {name}: it knows Latin, Greek and Cyrillic script and common symbols.",
                )

    def _story(self, template: str, values: Mapping[str, str]) -> list[Flowable]:
        """The structure is the template's: a value that begins like a heading stays text."""

        def filled(part: str) -> str:
            return escape(Template(part).substitute(values)).replace("\n", "<br/>")

        story: list[Flowable] = []
        for block in template.split("\n\n"):
            lines = [line for line in block.split("\n") if line.strip()]
            rows = [line[2:].partition(" | ") for line in lines if line.startswith("| ")]
            if rows:
                cells = [[Paragraph(filled(name), self._text), Paragraph(filled(value), self._text)] for name, _, value in rows]
                story += [_table(cells), Spacer(1, 4 * mm)]
                continue
            for line in lines:
                heading = line.startswith("# ")
                story.append(Paragraph(filled(line[2:] if heading else line), self._heading if heading else self._line))
            story.append(Spacer(1, 2 * mm))
        return story


def _table(rows: Sequence[Sequence[Flowable]]) -> Table:
    return Table(
        [list(row) for row in rows],
        colWidths=[70 * mm, 90 * mm],
        style=[("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("VALIGN", (0, 0), (-1, -1), "TOP")],
    )


def _page_number(canvas: Any, _document: Any) -> None:
    canvas.setFont(_REGULAR, 8)
    canvas.drawRightString(A4[0] - 25 * mm, 12 * mm, f"Draft \N{EN DASH} page {canvas.getPageNumber()}")
