"""What a reader of a PDF or a mail sees is read, and what is drawn so that nobody sees it is not."""

from __future__ import annotations

import io
from collections.abc import Callable
from email.message import EmailMessage

import pytest
from rag_files import word
from reportlab.lib import colors
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen.canvas import Canvas

from wireroom_rag.extraction import media_types as types
from wireroom_rag.extraction import pdf_unseen
from wireroom_rag.extraction.readers import read_pages

HIDDEN = "PLANTED"
SHOWN = "Herring"

Draw = Callable[[Canvas, str], None]


def text_of(media_type: str, data: bytes) -> str:
    return "\n".join(read_pages(media_type, data, 100)[0])


def pdf(*draw: Draw, word: str = HIDDEN, pages: int = 1, rotated: int = 0) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=(842, 842))
    for _ in range(pages):
        canvas.setPageRotation(rotated)
        for each in (_plain, *draw):
            canvas.saveState()
            canvas.setFont("Helvetica", 11)
            each(canvas, word)
            canvas.restoreState()
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _plain(canvas: Canvas, _word: str) -> None:
    canvas.drawString(60, 780, f"{SHOWN} is landed at the east quay.")


def _white(canvas: Canvas, word: str) -> None:
    canvas.setFillColor(colors.white)
    canvas.drawString(60, 700, word)


def _nearly_white(canvas: Canvas, word: str) -> None:
    canvas.setFillColorRGB(0.97, 0.97, 0.97)
    canvas.drawString(60, 700, word)


def _colour_of_its_box(canvas: Canvas, word: str) -> None:
    canvas.setFillColor(colors.darkblue)
    canvas.rect(50, 690, 300, 40, fill=1)
    canvas.drawString(60, 700, word)


def _covered(canvas: Canvas, word: str) -> None:
    canvas.drawString(60, 700, word)
    canvas.setFillColor(colors.white)
    canvas.rect(40, 680, 400, 60, fill=1, stroke=0)


def _invisible(canvas: Canvas, word: str) -> None:
    text = canvas.beginText(60, 700)
    text.setTextRenderMode(3)
    text.textOut(word)
    text.setTextRenderMode(0)
    canvas.drawText(text)


def _beside_the_page(canvas: Canvas, word: str) -> None:
    canvas.drawString(-400, 700, word)


def _tiny(canvas: Canvas, word: str) -> None:
    canvas.setFont("Helvetica", 0.6)
    canvas.drawString(60, 700, word)


def _scaled_down(canvas: Canvas, word: str) -> None:
    canvas.scale(0.05, 0.05)
    canvas.drawString(1200, 14000, word)


def _transparent(canvas: Canvas, word: str) -> None:
    canvas.setFillColor(colors.Color(0, 0, 0, alpha=0.01))
    canvas.drawString(60, 700, word)


def _in_a_form(canvas: Canvas, word: str) -> None:
    canvas.translate(30, 10)
    canvas.beginForm("inner")
    canvas.setFillColor(colors.white)
    canvas.drawString(60, 700, word)
    canvas.endForm()
    canvas.doForm("inner")


def _white_where_the_box_is_cut_away(canvas: Canvas, word: str) -> None:
    """As far as the order of drawing tells, white on black."""
    canvas.saveState()
    path = canvas.beginPath()
    path.rect(500, 10, 20, 20)
    canvas.clipPath(path, stroke=0, fill=0)
    canvas.setFillColor(colors.black)
    canvas.rect(0, 600, 595, 200, fill=1)
    canvas.restoreState()
    canvas.setFillColor(colors.white)
    canvas.drawString(60, 700, word)


UNSEEN = [
    _white, _nearly_white, _colour_of_its_box, _covered, _invisible, _beside_the_page, _tiny, _scaled_down, _transparent, _in_a_form,
    _white_where_the_box_is_cut_away,
]  # fmt: skip


@pytest.mark.parametrize("rotated", [0, 90])
@pytest.mark.parametrize("draw", UNSEEN)
def test_text_of_a_pdf_that_nobody_sees_is_not_read(draw: Draw, rotated: int) -> None:
    text = text_of(types.PDF, pdf(draw, rotated=rotated))
    assert HIDDEN not in text
    assert SHOWN in text


def _white_on_dark(canvas: Canvas, word: str) -> None:
    canvas.setFillColor(colors.darkgreen)
    canvas.rect(50, 490, 300, 40, fill=1)
    canvas.setFillColor(colors.white)
    canvas.drawString(60, 500, word)


def _on_a_white_page_of_its_own(canvas: Canvas, word: str) -> None:
    canvas.setFillColor(colors.white)
    canvas.rect(0, 0, 842, 770, fill=1)
    canvas.setFillColor(colors.black)
    canvas.drawString(60, 700, word)


def _under_a_thin_line(canvas: Canvas, word: str) -> None:
    canvas.drawString(60, 700, word)
    canvas.rect(50, 703, 200, 0.5, fill=1)


def _pale(canvas: Canvas, word: str) -> None:
    canvas.setFillColorRGB(0.7, 0.7, 0.7)
    canvas.drawString(60, 700, word)


_PIXEL = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\x00\x00\x00\nIDATx\x9cc\xf8\x0f\x00\x01\x01\x01\x00\x1b\xb6\xeeV\x00\x00\x00\x00IEND\xaeB`\x82"  # noqa: E501 - one white pixel


def _recognised_in_a_scan(canvas: Canvas, word: str) -> None:
    canvas.drawImage(ImageReader(io.BytesIO(_PIXEL)), 0, 0, 842, 842)
    _invisible(canvas, word)


def _recognised_in_a_scan_of_strips(canvas: Canvas, word: str) -> None:
    for strip in range(4):
        canvas.drawImage(ImageReader(io.BytesIO(_PIXEL)), 0, strip * 210, 842, 210)
    _invisible(canvas, word)


@pytest.mark.parametrize(
    "draw",
    [
        _white_on_dark,
        _on_a_white_page_of_its_own,
        _under_a_thin_line,
        _pale,
        _recognised_in_a_scan,
        _recognised_in_a_scan_of_strips,
    ],
)
def test_text_of_a_pdf_that_only_looks_unseen_is_read(draw: Draw) -> None:
    assert SHOWN in text_of(types.PDF, pdf(draw, word=SHOWN)).split("quay.", 1)[1]


def test_pages_behind_those_that_are_drawn_are_judged_by_how_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_unseen, "DRAWN_PAGES", 1)
    pages = read_pages(types.PDF, pdf(_white, _white_on_dark, pages=3), 100)[0]
    assert [page.count(HIDDEN) for page in pages] == [1, 1, 1]


def _framed(canvas: Canvas, word: str) -> None:
    """Two rectangles in one path, of which only what lies between them is filled."""
    canvas.drawString(60, 700, word)
    frame = canvas.beginPath()
    frame.rect(10, 10, 800, 800)
    frame.rect(20, 20, 780, 780)
    canvas.drawPath(frame, fill=1, stroke=0, fillMode=0)
    canvas.drawString(60, 600, word)


def _cut_off(canvas: Canvas, word: str) -> None:
    canvas.drawString(60, 700, word)
    canvas.drawString(60, 600, word)
    canvas.saveState()
    edge = canvas.beginPath()
    edge.rect(0, 0, 842, 20)
    canvas.clipPath(edge, stroke=0, fill=0)
    canvas.rect(0, 0, 842, 842, fill=1)
    canvas.restoreState()


@pytest.mark.parametrize("draw", [_framed, _cut_off])
def test_shapes_around_a_text_hide_it_on_no_page(monkeypatch: pytest.MonkeyPatch, draw: Draw) -> None:
    monkeypatch.setattr(pdf_unseen, "DRAWN_PAGES", 1)
    pages = read_pages(types.PDF, pdf(draw, pages=2), 100)[0]
    assert [page.count(HIDDEN) for page in pages] == [2, 2]


def test_attachments_of_a_mail_are_read_and_what_they_hide_is_not() -> None:
    inner = EmailMessage()
    inner["Subject"], inner["From"], inner["Date"] = "Fwd", "ada@example.org", "Tue, 4 Mar 2025 09:00:00 +0000"
    inner.set_content("The inner mail.")
    message = EmailMessage()
    message["Subject"], message["From"] = "Landings", "ada@example.org"
    message.set_content("See below.")
    for name, data in (
        ("landings.pdf", pdf(_white)),
        ("dues.docx", word(hidden=HIDDEN)),
        ("broken.pdf", b"%PDF-1.7 nothing"),
        ("fwd.eml", inner.as_bytes()),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(50)),
    ):
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    text = text_of(types.MAIL, message.as_bytes())
    for shown in (f"{SHOWN} is landed", "Rye sells best in March.", "The inner mail.", "broken.pdf", "picture.png", "See below."):
        assert text.count(shown) == 1, shown
    assert HIDDEN not in text


def test_mails_inside_of_mails_end_somewhere() -> None:
    inner = b"Subject: deepest\r\nFrom: a@example.org\r\nDate: x\r\n\r\nbottom"
    for _ in range(15):
        message = EmailMessage()
        message["Subject"], message["From"], message["Date"] = "level", "a@example.org", "Tue, 4 Mar 2025 09:00:00 +0000"
        message.set_content("one more")
        message.add_attachment(inner, maintype="application", subtype="octet-stream", filename="inner.eml")
        inner = message.as_bytes()
    assert text_of(types.MAIL, inner).count("one more") == 11
