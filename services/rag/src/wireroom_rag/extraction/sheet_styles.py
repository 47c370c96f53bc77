"""Which styles of a workbook's cells show nothing: a font in the colour of its fill, or a number format that prints none."""

from __future__ import annotations

import zipfile

from lxml import etree

from wireroom_rag.extraction.package_xml import read_xml

_STYLES = "xl/styles.xml"
_THEME = "xl/theme/theme1.xml"
_WHITE, _BLACK = "FFFFFF", "000000"
# The order in which cells number a theme's colours: the light and dark ones change places.
_THEME_ORDER = ("lt1", "dk1", "lt2", "dk2", "accent1", "accent2", "accent3", "accent4", "accent5", "accent6", "hlink", "folHlink")
# ECMA-376, 18.8.27: the eight basic colours, twice; 64 and 65 are the window's text and background.
_INDEXED = (_BLACK, _WHITE, "FF0000", "00FF00", "0000FF", "FFFF00", "FF00FF", "00FFFF") * 2
_WINDOW_TEXT, _WINDOW = "64", "65"


def unseen_styles(archive: zipfile.ZipFile) -> frozenset[str]:
    """The numbers of such styles, as cells write them. Colours that are made from others, and patterns, count as seen."""
    if _STYLES not in archive.namelist():
        return frozenset()
    sheet = read_xml(archive, _STYLES)
    theme = _theme(archive)
    fonts = [_colour(font.find("{*}color"), theme, _BLACK) for font in sheet.iterfind("{*}fonts/{*}font")]
    fills = [_fill(fill, theme) for fill in sheet.iterfind("{*}fills/{*}fill")]
    formats = {each.get("numFmtId"): each.get("formatCode") or "" for each in sheet.iterfind("{*}numFmts/{*}numFmt")}
    return frozenset(
        str(number)
        for number, style in enumerate(sheet.iterfind("{*}cellXfs/{*}xf"))
        if _prints_nothing(formats.get(style.get("numFmtId"), ""))
        or ((colour := _at(fonts, style.get("fontId"))) is not None and colour == _at(fills, style.get("fillId")))
    )


def _prints_nothing(code: str) -> bool:
    # Sections for positive, negative, zero and text, each of them empty.
    return code.count(";") >= 3 and not code.replace(";", "").strip()  # noqa: PLR2004 - four sections


def _theme(archive: zipfile.ZipFile) -> dict[str, str]:
    if _THEME not in archive.namelist():
        return {}
    scheme = read_xml(archive, _THEME).find(".//{*}clrScheme")
    colours = {}
    for entry in scheme if scheme is not None else ():
        for value in entry:
            colours[etree.QName(entry).localname] = (value.get("lastClr") or value.get("val") or "").upper()
    return {str(number): colours[name] for number, name in enumerate(_THEME_ORDER) if name in colours}


def _fill(fill: etree._Element, theme: dict[str, str]) -> str | None:
    pattern = fill.find("{*}patternFill")
    if pattern is None:
        return None
    kind = pattern.get("patternType", "none")
    if kind == "none":
        return _WHITE
    return _colour(pattern.find("{*}fgColor"), theme, _WHITE) if kind == "solid" else None


def _colour(colour: etree._Element | None, theme: dict[str, str], otherwise: str) -> str | None:
    """Six digits; None for a colour that cannot be told."""
    if colour is None:
        return otherwise
    if colour.get("tint", "0").strip("0.") or colour.get("auto") in ("1", "true"):
        return otherwise if colour.get("auto") in ("1", "true") else None
    if value := colour.get("rgb"):
        return value[-6:].upper()
    if number := colour.get("theme"):
        return theme.get(number)
    indexed = colour.get("indexed") or ""
    if indexed in (_WINDOW_TEXT, _WINDOW):
        return _BLACK if indexed == _WINDOW_TEXT else _WHITE
    return _INDEXED[int(indexed)] if indexed.isdecimal() and int(indexed) < len(_INDEXED) else None


def _at(values: list[str | None], number: str | None) -> str | None:
    place = int(number) if number is not None and number.isdecimal() else 0
    return values[place] if place < len(values) else None
