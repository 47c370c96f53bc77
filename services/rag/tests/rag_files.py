"""Files of every kind, made for tests."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from email.message import EmailMessage
from typing import Any

import docx
import pptx
import xlsxwriter
from docx.shared import Pt, RGBColor
from pptx.util import Inches


def zipped(parts: Mapping[str, str | bytes], *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An archive of these parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def word(*, hidden: str = "") -> bytes:
    """Headings, a paragraph, a table with merged cells; `hidden` in every way that Word hides text."""
    document = docx.Document()
    document.add_heading("Bakery report", 1)
    paragraph = document.add_paragraph("Rye sells best in March.")
    if hidden:
        for number, change in enumerate(("vanish", "white", "tiny")):
            run = paragraph.add_run(f" {hidden}{number}")
            if change == "vanish":
                run.font.hidden = True
            elif change == "white":
                run.font.color.rgb = RGBColor(255, 255, 255)
            else:
                run.font.size = Pt(1)
        style: Any = document.styles.add_style("Whisper", 1)
        style.font.hidden = True
        document.add_paragraph(f"{hidden}3", style="Whisper")
    table = document.add_table(rows=2, cols=3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "Loaves"
    table.cell(0, 2).text = "Price"
    for column, text in enumerate(("Rye", "4,217", "3.10")):
        table.cell(1, column).text = text
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def presentation(*, hidden: str = "") -> bytes:
    """Two slides; a third is hidden."""
    slides = pptx.Presentation()
    for title, text in (("Orchards", "Apples ripen in September."), ("Cellars", "Cider rests for nine weeks.")):
        slide = slides.slides.add_slide(slides.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = text
    table = slide.shapes.add_table(1, 2, Inches(1), Inches(5), Inches(4), Inches(1)).table
    table.cell(0, 0).text, table.cell(0, 1).text = "Barrels", "14"
    slide.notes_slide.notes_text_frame.text = "Ask Ilse about the presses."
    if hidden:
        secret = slides.slides.add_slide(slides.slide_layouts[1])
        secret.shapes.title.text = hidden
        secret._element.set("show", "0")  # noqa: SLF001 - nothing public does it
    buffer = io.BytesIO()
    slides.save(buffer)
    return buffer.getvalue()


def workbook(*, hidden: str = "") -> bytes:
    """Two sheets; with `hidden` a hidden one, a hidden row and a hidden column."""
    buffer = io.BytesIO()
    with xlsxwriter.Workbook(buffer, {"in_memory": True}) as book:
        for name, rows in (("Ferries", [("Harbour", "Fare"), ("Hollin", 12), ("Tessaly", 7.5)]), ("Crew", [("Mate", "Odd")])):
            sheet = book.add_worksheet(name)
            for number, row in enumerate(rows):
                sheet.write_row(number, 0, row)
        if hidden:
            sheet.write(4, 0, f"{hidden}0")
            sheet.set_row(4, None, None, {"hidden": True})
            sheet.write(0, 6, f"{hidden}1")
            sheet.set_column(6, 6, None, None, {"hidden": True})
            secret = book.add_worksheet("Secret")
            secret.write(0, 0, f"{hidden}2")
            secret.hide()
    return buffer.getvalue()


def book(*chapters: str, mimetype: str = "application/epub+zip") -> bytes:
    """An EPUB of these XHTML bodies."""
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    items = "".join(
        f'<item id="c{number}" href="c%20{number}.xhtml" media-type="application/xhtml+xml"/>' for number in range(len(chapters))
    )
    order = "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters)))
    package = f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{order}</spine></package>'
    pages = {
        f"OPS/c {number}.xhtml": f"<html xmlns='http://www.w3.org/1999/xhtml'><head/><body>{chapter}</body></html>"
        for number, chapter in enumerate(chapters)
    }
    return zipped({"mimetype": mimetype, "META-INF/container.xml": container, "OPS/book.opf": package, **pages})


def mail() -> bytes:
    """An HTML mail in an old charset with an attachment and another mail inside."""
    inner = EmailMessage()
    inner["Subject"], inner["From"], inner["To"] = "Re: Tide", "ada@example.org", "bo@example.org"
    inner["Date"] = "Mon, 3 Mar 2025 10:00:00 +0000"
    inner.set_content("High water is at five.")
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = "Tide für morgen", "Bo Ørn <bo@example.org>", "crew@example.org"
    message["Date"], message["Message-ID"] = "Tue, 4 Mar 2025 09:00:00 +0000", "<1@example.org>"
    message.set_content(
        "<p>Wir laufen um <b>fünf</b> aus.</p><p style='display:none'>PLANTED</p>", subtype="html", charset="iso-8859-1"
    )
    message.add_attachment(b"\x00\x01", maintype="application", subtype="octet-stream", filename="chart.bin")
    message.add_attachment(inner)
    return message.as_bytes()
