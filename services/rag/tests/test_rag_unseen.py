"""What a reader of a file sees is read, and what is drawn so that nobody sees it is not."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from email.message import EmailMessage

import docx
import pptx
import pytest
import xlsxwriter
from docx.enum.style import WD_STYLE_TYPE
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from docx.shared import RGBColor
from pptx.dml.color import RGBColor as SlideColor
from pptx.enum.dml import MSO_THEME_COLOR
from pptx.enum.shapes import MSO_SHAPE
from pptx.oxml import parse_xml as parse_slide_xml
from pptx.oxml.ns import nsdecls as slide_namespaces
from pptx.util import Inches, Pt
from rag_files import word, zipped
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


def document(change: Callable[[docx.document.Document], None]) -> str:
    file = docx.Document()
    file.add_paragraph(f"{SHOWN} is landed at the east quay.")
    change(file)
    buffer = io.BytesIO()
    file.save(buffer)
    return text_of(types.DOCX, buffer.getvalue())


def _dark_heads(file: docx.document.Document) -> None:
    cell = file.add_table(rows=1, cols=1).cell(0, 0)
    cell._tc.get_or_add_tcPr().append(parse_xml(f'<w:shd {nsdecls("w")} w:fill="1F3864"/>'))  # noqa: SLF001 - nothing public shades
    cell.paragraphs[0].add_run("Quay dues").font.color.rgb = RGBColor(255, 255, 255)


def _dark_words(file: docx.document.Document) -> None:
    cell = file.add_table(rows=1, cols=1).cell(0, 0)
    cell._tc.get_or_add_tcPr().append(parse_xml(f'<w:shd {nsdecls("w")} w:fill="1F3864"/>'))  # noqa: SLF001 - nothing public shades
    cell.paragraphs[0].add_run(HIDDEN).font.color.rgb = RGBColor(0x1F, 0x38, 0x64)


def _dark_paragraph(file: docx.document.Document) -> None:
    paragraph = file.add_paragraph()
    paragraph._p.get_or_add_pPr().append(parse_xml(f'<w:shd {nsdecls("w")} w:fill="000000"/>'))  # noqa: SLF001 - see above
    paragraph.add_run("Quay dues").font.color.rgb = RGBColor(255, 255, 255)


def _margins(file: docx.document.Document) -> None:
    file.sections[0].header.paragraphs[0].text = "Quay dues"
    file.sections[0].footer.paragraphs[0].add_run(HIDDEN).font.hidden = True


def _box(content: str) -> str:
    return (
        f'<w:r {nsdecls("w")} xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
        ' xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape" xmlns:v="urn:schemas-microsoft-com:vml">'
        f'<mc:AlternateContent><mc:Choice Requires="wps"><w:drawing><wps:txbx><w:txbxContent>{content}</w:txbxContent></wps:txbx>'
        f"</w:drawing></mc:Choice><mc:Fallback><w:pict><v:textbox><w:txbxContent>{content}</w:txbxContent></v:textbox></w:pict>"
        "</mc:Fallback></mc:AlternateContent></w:r>"
    )


def _text_box(file: docx.document.Document) -> None:
    hidden = f"<w:p><w:r><w:rPr><w:vanish/></w:rPr><w:t>{HIDDEN}</w:t></w:r></w:p>"
    file.add_paragraph()._p.append(  # noqa: SLF001 - nothing public makes text boxes
        parse_xml(_box(f"<w:p><w:r><w:t>Quay dues</w:t></w:r></w:p>{hidden}"))
    )


def _content_control(file: docx.document.Document) -> None:
    text = "<w:p><w:r><w:t>Quay dues</w:t></w:r></w:p>"
    control = f"<w:sdt {nsdecls('w')}><w:sdtContent>{text}</w:sdtContent></w:sdt>"
    file.element.body.insert(0, parse_xml(control))


def _hidden_style_in_a_text_box(file: docx.document.Document) -> None:
    file.styles.add_style("Unseen", WD_STYLE_TYPE.PARAGRAPH).font.hidden = True
    hidden = f'<w:p><w:pPr><w:pStyle w:val="Unseen"/></w:pPr><w:r><w:t>{HIDDEN}</w:t></w:r></w:p>'
    file.add_paragraph()._p.append(  # noqa: SLF001 - nothing public makes text boxes
        parse_xml(_box(f"<w:p><w:r><w:t>Quay dues</w:t></w:r></w:p>{hidden}"))
    )


def _dark_page(file: docx.document.Document) -> None:
    file.element.insert(0, parse_xml(f'<w:background {nsdecls("w")} w:color="1F3864"/>'))
    file.settings.element.insert(0, parse_xml(f"<w:displayBackgroundShape {nsdecls('w')}/>"))
    file.add_paragraph().add_run("Quay dues").font.color.rgb = RGBColor(255, 255, 255)
    file.add_paragraph().add_run(HIDDEN).font.color.rgb = RGBColor(0x1F, 0x38, 0x64)


def _table_style_of_another(file: docx.document.Document) -> None:
    dark = file.styles["Light List Accent 1"]
    style = file.styles.add_style("House table", WD_STYLE_TYPE.TABLE)
    style.base_style = dark
    table = file.add_table(rows=2, cols=1, style=style)
    table.cell(0, 0).paragraphs[0].add_run("Quay dues").font.color.rgb = RGBColor(255, 255, 255)


@pytest.mark.parametrize(
    "change",
    [
        _dark_heads,
        _dark_paragraph,
        _dark_page,
        _margins,
        _text_box,
        _hidden_style_in_a_text_box,
        _content_control,
        _table_style_of_another,
    ],
)
def test_every_part_of_a_word_document_that_is_shown_is_read_once(change: Callable[[docx.document.Document], None]) -> None:
    text = document(change)
    assert text.count("Quay dues") == 1
    assert SHOWN in text
    assert HIDDEN not in text


def test_words_in_the_colour_of_their_cell_are_not_read() -> None:
    text = document(_dark_words)
    assert SHOWN in text
    assert HIDDEN not in text


def test_notes_follow_the_paragraph_that_refers_to_them() -> None:
    notes = (
        f'<w:footnotes {nsdecls("w")}><w:footnote w:type="separator" w:id="0"><w:p><w:r><w:t>-</w:t></w:r></w:p></w:footnote>'
        '<w:footnote w:id="2"><w:p><w:r><w:t>Since 1954.</w:t></w:r></w:p></w:footnote></w:footnotes>'
    )
    parts = _parts(word())
    parts["word/footnotes.xml"] = notes.encode()
    parts["[Content_Types].xml"] = parts["[Content_Types].xml"].replace(
        b"</Types>",
        b'<Override PartName="/word/footnotes.xml" ContentType='
        b'"application/vnd.openxmlformats-officedocument.wordprocessingml.footnotes+xml"/></Types>',
    )
    parts["word/_rels/document.xml.rels"] = parts["word/_rels/document.xml.rels"].replace(
        b"</Relationships>",
        b'<Relationship Id="rId99" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/footnotes"'
        b' Target="footnotes.xml"/></Relationships>',
    )
    parts["word/document.xml"] = parts["word/document.xml"].replace(
        b"<w:t>Rye sells best in March.</w:t>", b'<w:t>Rye sells best in March.</w:t><w:footnoteReference w:id="2"/>'
    )
    assert "Rye sells best in March.\n\nNote: Since 1954.\n\n|" in text_of(types.DOCX, zipped(parts))


def _parts(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def slides(word: str, *, ink: SlideColor | None = None, paper: SlideColor | None = None, **drawn: object) -> str:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = f"{SHOWN} at the east quay"
    shapes = slide.shapes
    if drawn.get("grouped"):
        shapes = slide.shapes.add_group_shape().shapes
    if paper is not None:
        behind = shapes.add_shape(MSO_SHAPE.RECTANGLE, Inches(1), Inches(3), Inches(6), Inches(2))
        behind.fill.solid()
        behind.fill.fore_color.rgb = paper
    box = shapes.add_textbox(Inches(14 if drawn.get("beside") else 2), Inches(3.5), Inches(3), Inches(1))
    run = box.text_frame.paragraphs[0].add_run()
    run.text = word
    if drawn.get("tiny"):
        run.font.size = Pt(1)
    if drawn.get("theme"):
        run.font.color.theme_color = MSO_THEME_COLOR.BACKGROUND_1
    elif ink is not None:
        run.font.color.rgb = ink
    buffer = io.BytesIO()
    deck.save(buffer)
    return text_of(types.PPTX, buffer.getvalue())


WHITE, BLUE = SlideColor(255, 255, 255), SlideColor(0, 0, 120)


@pytest.mark.parametrize(
    "drawn",
    [
        {"ink": WHITE},
        {"theme": True},
        {"ink": BLUE, "paper": BLUE},
        {"ink": BLUE, "paper": BLUE, "grouped": True},
        {"tiny": True},
        {"beside": True},
    ],
)
def test_text_of_a_slide_that_nobody_sees_is_not_read(drawn: dict[str, object]) -> None:
    text = slides(HIDDEN, **drawn)  # type: ignore[arg-type]  # the keywords of `slides`
    assert HIDDEN not in text
    assert SHOWN in text


@pytest.mark.parametrize("grouped", [False, True])
def test_white_text_on_a_dark_shape_is_read(*, grouped: bool) -> None:
    assert "Quay dues" in slides("Quay dues", ink=WHITE, paper=BLUE, grouped=grouped)


def test_shapes_of_a_master_that_a_slide_does_not_show_are_not_behind_its_text() -> None:
    deck = pptx.Presentation()
    layout = deck.slide_layouts[6]
    layout.element.set("showMasterSp", "0")
    slide = deck.slides.add_slide(layout)
    # The master's: nothing public adds shapes to it.
    wall = slide.shapes.add_shape(MSO_SHAPE.RECTANGLE, 0, 0, deck.slide_width, deck.slide_height)
    wall.fill.solid()
    wall.fill.fore_color.rgb = BLUE
    layout.slide_master.shapes._spTree.append(wall._element)  # noqa: SLF001 - see above
    run = slide.shapes.add_textbox(Inches(2), Inches(3.5), Inches(3), Inches(1)).text_frame.paragraphs[0].add_run()
    run.text, run.font.color.rgb = "Quay dues", BLUE
    buffer = io.BytesIO()
    deck.save(buffer)
    assert "Quay dues" in text_of(types.PPTX, buffer.getvalue())


@pytest.mark.parametrize(("value", "seen"), [("50%", True), ("50000", True), ("5%", False), ("5000", False), ("half", True)])
def test_a_text_of_a_slide_that_shines_through_is_read(value: str, *, seen: bool) -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    run = slide.shapes.add_textbox(Inches(2), Inches(3.5), Inches(3), Inches(1)).text_frame.paragraphs[0].add_run()
    run.text, run.font.color.rgb = "Quay dues", BLUE
    run.font.color._xFill[0].append(parse_slide_xml(f'<a:alpha {slide_namespaces("a")} val="{value}"/>'))  # noqa: SLF001 - nothing public
    buffer = io.BytesIO()
    deck.save(buffer)
    assert ("Quay dues" in text_of(types.PPTX, buffer.getvalue())) is seen


def test_cells_of_a_sheet_that_show_nothing_are_not_read() -> None:
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        sheet = book.add_worksheet("Landings")
        white, empty = book.add_format({"font_color": "#FFFFFF"}), book.add_format({"num_format": ";;;"})
        same = book.add_format({"font_color": "#203040", "bg_color": "#203040"})
        head = book.add_format({"font_color": "#FFFFFF", "bg_color": "#203040"})
        for column, style in enumerate((head, white, empty, same, None)):
            sheet.write(2, column, SHOWN if style in (head, None) else HIDDEN, style)
    assert text_of(types.XLSX, buffer.getvalue()) == f"# Landings\n\n| {SHOWN} |  |  |  | {SHOWN} |"


@pytest.mark.parametrize(
    ("styles", "seen"),
    [
        ("#a{display:none} p{display:block}", False),
        ("p{display:none!important} #a{display:block}", False),
        ("body p.b{color:#fff} p{color:#000}", False),
        ("p{display:none} .b{display:block}", True),
        (".b{display:none} body p.b{display:block} .c{display:none}", True),
    ],
)
def test_the_weightier_rule_decides_whether_a_page_shows_a_text(styles: str, *, seen: bool) -> None:
    page = f"<html><head><style>{styles}</style></head><body><p class='b' id='a'>{HIDDEN}</p><div>{SHOWN}</div></body></html>"
    text = text_of(types.HTML, page.encode())
    assert (HIDDEN in text) is seen
    assert SHOWN in text


@pytest.mark.parametrize(
    "part",
    [
        "<div style='background-image:url(sea.jpg);color:#fff'>{}</div>",
        "<div style='background:linear-gradient(90deg,#000,#333);color:#fff'><p>{}</p></div>",
        "<div style='background:#fff url(sea.jpg);color:#fff'>{}</div>",
        "<div style='background:var(--sea);color:#fff'>{}</div>",
        "<table background='sea.jpg'><tr><td style='color:#fff'>{}</td></tr></table>",
    ],
)
def test_white_text_on_what_may_be_dark_is_read(part: str) -> None:
    white = "<div style='background:url(sea.jpg)'><p style='background:#fff;color:#fff'>{}</p></div>"
    page = f"<html><body>{part.format('Quay dues')}{white.format(HIDDEN)}</body></html>"
    text = text_of(types.HTML, page.encode())
    assert "Quay dues" in text
    assert HIDDEN not in text


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
