"""A session as a PDF. CPU work: call it off the event loop.

DejaVu Sans comes with the file: Latin, Greek, Cyrillic, Armenian, Georgian, symbols. Chinese, Japanese and Korean use standard fonts that
viewers bring along for them, which are named in the file and not embedded. Other characters become U+FFFD. Scripts that run from right
to left are not shaped: their letters stand separately, from left to right.
"""

from __future__ import annotations

import io
import threading
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from itertools import groupby
from typing import Any
from xml.sax.saxutils import escape

from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.units import mm
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfbase.pdfmetrics import registerFont
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Spacer

from wireroom_chat.domain.sessions import Message, Session
from wireroom_chat.domain.transcript import heading, sources

_REGULAR, _BOLD = "WireroomTranscript", "WireroomTranscript-Bold"
_CHINESE, _JAPANESE, _KOREAN = "STSong-Light", "HeiseiMin-W3", "HYSMyeongJo-Medium"
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
# A paragraph is laid out as a whole.
_MAX_PARAGRAPH = 2_000
_LAST_BMP = 0xFFFF


class PdfTranscript:
    """Reads its fonts when first used. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._glyphs: frozenset[int] = frozenset()

    def render(self, session: Session, messages: Sequence[Message]) -> bytes:
        """The whole file."""
        self._load()
        title = session.title or "Chat session"
        story = [
            self._paragraph(title, _TITLE),
            self._paragraph(f"Begun {session.created_at:%Y-%m-%d %H:%M} UTC, model {session.model}.", _SMALL),
        ]
        for message in messages:
            story.append(self._paragraph(heading(message, "").strip(), _SPEAKER))
            for line in message.content.split("\n"):
                story += [self._paragraph(line[at : at + _MAX_PARAGRAPH], _TEXT) for at in range(0, len(line), _MAX_PARAGRAPH)]
                if not line.strip():
                    story.append(Spacer(1, 2 * mm))
            story += [
                self._paragraph(f"{number}. {name} {url}", _SMALL) for number, (name, url) in enumerate(sources(message), start=1)
            ]
        target = io.BytesIO()
        document = SimpleDocTemplate(
            target, pagesize=A4, leftMargin=20 * mm, rightMargin=20 * mm, topMargin=20 * mm, bottomMargin=20 * mm, title=title
        )
        document.build(story, onFirstPage=_page_number, onLaterPages=_page_number)
        return target.getvalue()

    def _load(self) -> None:
        with self._lock:
            if self._glyphs:
                return
            folder = files("wireroom_chat.letters") / "fonts"
            regular = TTFont(_REGULAR, io.BytesIO((folder / "DejaVuSans.ttf").read_bytes()))
            registerFont(regular)
            registerFont(TTFont(_BOLD, io.BytesIO((folder / "DejaVuSans-Bold.ttf").read_bytes())))
            for name in (_CHINESE, _JAPANESE, _KOREAN):
                registerFont(UnicodeCIDFont(name))
            self._glyphs = frozenset(regular.face.charToGlyph)

    def _paragraph(self, text: str, style: ParagraphStyle) -> Flowable:
        """Text, never markup."""
        # In Korean all ideographs are, in Japanese those beside kana; a paragraph is of one language.
        ideographs = _CHINESE
        if any(_font_of(character) == _KOREAN for character in text):
            ideographs = _KOREAN
        elif any(_font_of(character) == _JAPANESE for character in text):
            ideographs = _JAPANESE

        def font(character: str) -> str:
            found = _font_of(character)
            return ideographs if found == _CHINESE else found

        parts = []
        wide = False
        for name, group in groupby(text.expandtabs(4), key=font):
            run = "".join(group)
            if name:
                wide = True
                parts.append(f'<font name="{name}">{escape(run)}</font>')
            else:
                parts.append(escape("".join(character if self._known(character) else _UNKNOWN for character in run)))
        return Paragraph("".join(parts) or " ", _wide(style) if wide else style)

    def _known(self, character: str) -> bool:
        return character == " " or (ord(character) in self._glyphs and unicodedata.category(character) not in {"Cc", "Cf", "Cs"})


def _font_of(character: str) -> str:
    """The standard font of an East Asian character; empty for others."""
    code = ord(character)
    if code > _LAST_BMP or code < 0x1100:  # noqa: PLR2004 - the first Hangul letter
        return ""
    name = unicodedata.name(character, "")
    if name.startswith("HANGUL"):
        return _KOREAN
    if name.startswith(("HIRAGANA", "KATAKANA", "HALFWIDTH KATAKANA")):
        return _JAPANESE
    if name.startswith(("CJK", "IDEOGRAPHIC", "FULLWIDTH")):
        return _CHINESE
    return ""


def _style(name: str, **values: Any) -> ParagraphStyle:
    return ParagraphStyle(name, **{"fontName": _REGULAR, "fontSize": 10, "leading": 14, **values})


def _wide(style: ParagraphStyle) -> ParagraphStyle:
    """Breaks lines between ideographs."""
    return ParagraphStyle(f"{style.name}-wide", parent=style, wordWrap="CJK")


_TITLE = _style("title", fontName=_BOLD, fontSize=15, leading=20, spaceAfter=6)
_SPEAKER = _style("speaker", fontName=_BOLD, fontSize=10, spaceBefore=10, spaceAfter=3)
_TEXT = _style("text")
_SMALL = _style("small", fontSize=8, leading=11)


def _page_number(canvas: Any, _document: Any) -> None:
    canvas.setFont(_REGULAR, 8)
    canvas.drawRightString(A4[0] - 20 * mm, 12 * mm, str(canvas.getPageNumber()))
