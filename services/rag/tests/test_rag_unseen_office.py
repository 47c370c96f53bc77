"""What a reader of office files and pages sees is read, and what they hide is not."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

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

from wireroom_rag.extraction import media_types as types
from wireroom_rag.extraction.readers import read_pages

HIDDEN = "PLANTED"
SHOWN = "Herring"


def text_of(media_type: str, data: bytes) -> str:
    return "\n".join(read_pages(media_type, data, 100)[0])


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
