"""Text of spreadsheets (XLSX), sheet by sheet, and of CSV files: rows as lines."""

from __future__ import annotations

import csv
import datetime as dt
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import python_calamine
from lxml import etree

from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction.archives import damaged, open_archive, read_entry
from wireroom_rag.extraction.encoding import decode_text
from wireroom_rag.extraction.package_xml import read_xml
from wireroom_rag.extraction.sheet_styles import unseen_styles
from wireroom_rag.extraction.tables import row_line

_RELATIONSHIPS = "xl/_rels/workbook.xml.rels"
_ID = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_FIELD = 1_000_000
_MAX_CELLS = 10_000_000
_DELIMITERS = ",;\t|"
_PLACE = re.compile(r"(?P<column>[A-Z]{1,3})(?P<row>[0-9]{1,7})")


@dataclass(frozen=True)
class _Hidden:
    """What of a sheet is not shown; rows and columns are counted from 0."""

    rows: frozenset[int] = frozenset()
    columns: frozenset[int] = frozenset()
    cells: frozenset[tuple[int, int]] = frozenset()


def xlsx_pages(data: bytes, max_pages: int) -> list[str]:
    """The name and the rows of each sheet that is shown; hidden sheets are empty pages. Formulas count with their stored values."""
    hidden = _hidden_parts(data)
    try:
        workbook = python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(data))
        sheets = workbook.sheets_metadata
        if len(sheets) > max_pages:
            raise RejectedError(
                "document_too_complex", f"The workbook has {len(sheets)} sheets; at most {max_pages} are processed. Split it."
            )
        return [_sheet(workbook, sheet, hidden) for sheet in sheets]
    except python_calamine.CalamineError as error:
        raise damaged() from error


def csv_text(data: bytes) -> str:
    """The rows; the delimiter is the one that the first lines agree on."""
    text = decode_text(data)
    csv.field_size_limit(_FIELD)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=csv_delimiter(text) or ",")
        return "\n".join(line for row in rows if (line := row_line(row)))
    except csv.Error as error:
        raise RejectedError("document_unreadable", "The rows of the CSV file cannot be told apart.") from error


def csv_delimiter(text: str) -> str | None:
    """The delimiter that gives each of the first rows the same number of fields, two or more; None when there is none."""
    lines = text.splitlines()[:20]
    sample = "\n".join(lines)
    best: tuple[int, str] | None = None
    for delimiter in _DELIMITERS:
        try:
            rows = [row for row in csv.reader(io.StringIO(sample), delimiter=delimiter) if row]
        except csv.Error:
            continue
        # The last row may be cut off.
        widths = {len(row) for row in (rows[:-1] if len(rows) > 2 else rows)}  # noqa: PLR2004 - with two rows there is little to leave out
        if len(widths) == 1 and (width := widths.pop()) > 1 and (best is None or width > best[0]):
            best = (width, delimiter)
    return best[1] if best else None


def _sheet(workbook: python_calamine.CalamineWorkbook, sheet: python_calamine.SheetMetadata, hidden: dict[str, _Hidden]) -> str:
    if sheet.visible is not python_calamine.SheetVisibleEnum.Visible or sheet.typ is not python_calamine.SheetTypeEnum.WorkSheet:
        return ""
    unseen = hidden.get(sheet.name, _Hidden())
    cells = workbook.get_sheet_by_name(sheet.name)
    if cells.total_height * cells.total_width > _MAX_CELLS:
        raise RejectedError("document_too_complex", f"The sheet '{sheet.name}' spans more than {_MAX_CELLS} cells. Split it.")
    rows = cells.to_python(skip_empty_area=False)
    lines = []
    for number, row in enumerate(rows):
        if number not in unseen.rows:
            line = row_line(
                [
                    "" if (number, column) in unseen.cells else _cell(value)
                    for column, value in enumerate(row)
                    if column not in unseen.columns
                ]
            )
            if line:
                lines.append(line)
    return "\n".join([f"# {sheet.name}", "", *lines]) if lines else ""


def _cell(value: object) -> str:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return value.date().isoformat()
    return str(value)


def _hidden_parts(data: bytes) -> dict[str, _Hidden]:
    """What is not shown, by the name of the sheet: the reader of the cells does not tell."""
    with open_archive(io.BytesIO(data)) as archive:
        styles = unseen_styles(archive)
        return {name: _hidden_in(read_entry(archive, part), styles) for name, part in _parts_of_sheets(archive)}


def _parts_of_sheets(archive: zipfile.ZipFile) -> Iterator[tuple[str, str]]:
    names = set(archive.namelist())
    targets = {
        entry.get("Id"): (entry.get("Target") or "").lstrip("/")
        for entry in read_xml(archive, _RELATIONSHIPS).iter("{*}Relationship")
    }
    for sheet in read_xml(archive, "xl/workbook.xml").iter("{*}sheet"):
        target = targets.get(sheet.get(_ID)) or ""
        part = target if target.startswith("xl/") else f"xl/{target}"
        if part in names:
            yield sheet.get("name") or "", part


def _hidden_in(part: bytes, styles: frozenset[str]) -> _Hidden:
    rows: set[int] = set()
    columns: set[int] = set()
    cells: set[tuple[int, int]] = set()
    if b"hidden=" not in part and b"hidden =" not in part and not styles:
        return _Hidden()
    tags = ("{*}row", "{*}col", "{*}c") if styles else ("{*}row", "{*}col")
    try:
        for _, element in etree.iterparse(io.BytesIO(part), tag=tags, resolve_entities=False, no_network=True, load_dtd=False):
            name = etree.QName(element).localname
            if name == "c":
                place = _PLACE.fullmatch(element.get("r") or "")
                if element.get("s", "0") in styles and place is not None:
                    cells.add((int(place["row"]) - 1, _column(place["column"])))
            elif element.get("hidden") in ("1", "true"):
                if name == "row" and (element.get("r") or "").isdigit():
                    rows.add(int(element.get("r") or 0) - 1)
                elif (element.get("min") or "").isdigit() and (element.get("max") or "").isdigit():
                    columns.update(range(int(element.get("min") or 1) - 1, min(int(element.get("max") or 0), 16_384)))
            if name != "c":
                element.clear()
    except etree.XMLSyntaxError as error:
        raise damaged() from error
    return _Hidden(frozenset(rows), frozenset(columns), frozenset(cells))


def _column(letters: str) -> int:
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("A") + 1
    return number - 1
