"""Text of a PDF page that no reader sees: it must not be read to a model either.

Which text might be unseen is told by how it is drawn; whether it is, by drawing the page with and without it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass

import pypdfium2  # type: ignore[import-untyped]  # has no stubs
import pypdfium2.raw as pdfium  # type: ignore[import-untyped]  # has no stubs

# Pages of one file that are drawn for this. On the ones behind, what seems unseen is taken for it.
DRAWN_PAGES = 200

_INVISIBLE_MODES = (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP)
# Of 255; channels this close make a text that nobody can read.
_SAME = 20
_LIGHT = 200
# In points; below this a text is not meant to be read.
_SMALLEST = 1.5
_PIXELS_PER_POINT = 1.5
_MAX_PIXELS = 1_600
# Filled areas that one text is compared with; where there are more, the drawing decides.
_AREAS = 300
# A page with pictures of this share together is a scan, maybe in strips: its text is what was recognised in them, and never shown itself.
_SCAN = 0.5
# Of a rectangle's outline, closed by itself or by a line.
_SEGMENTS = (4, 5)
_DEPTH = 6

_Box = tuple[float, float, float, float]
_Matrix = tuple[float, float, float, float, float, float]
_IDENTITY: _Matrix = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True)
class _Text:
    handle: object
    order: int
    box: _Box
    size: float
    mode: int
    colour: tuple[int, int, int, int]


@dataclass(frozen=True)
class _Area:
    order: int
    box: _Box
    # None for pictures and shadings, of which nothing is known.
    colour: tuple[int, int, int, int] | None
    # Whether all of the box is filled, and whether all of that is shown.
    full: bool = True
    whole: bool = True


class UnseenText:
    """Takes unseen text out of the pages of one file, before their text is read."""

    def __init__(self) -> None:
        self._left = DRAWN_PAGES

    def remove(self, page: pypdfium2.PdfPage) -> None:
        """Switch off what no reader of the page sees; text that is read afterwards lacks it."""
        texts, areas, scanned = _parts(page)
        paper = _page_box(page)
        doubtful = []
        for text in texts:
            if text.size < _SMALLEST or (text.mode in _INVISIBLE_MODES and not scanned):
                pdfium.FPDFPageObj_SetIsActive(text.handle, False)
            elif text.mode not in _INVISIBLE_MODES and _might_be_unseen(text, areas, paper):
                doubtful.append(text)
        if not doubtful:
            return
        if self._left > 0:
            self._left -= 1
            _switch_off_undrawn(page, doubtful)
        else:
            for text in doubtful:
                if _seems_unseen(text, areas, paper, surely=True):
                    pdfium.FPDFPageObj_SetIsActive(text.handle, False)


def _parts(page: pypdfium2.PdfPage) -> tuple[list[_Text], list[_Area], bool]:
    texts: list[_Text] = []
    areas: list[_Area] = []
    left, bottom, right, top = _page_box(page)
    whole = max(1.0, (right - left) * (top - bottom))
    pictures = 0.0
    for order, (kind, handle, matrix) in enumerate(_objects(page)):
        if kind == pdfium.FPDF_PAGEOBJ_TEXT:
            texts.append(_text(handle, order, matrix))
        elif kind == pdfium.FPDF_PAGEOBJ_PATH:
            fill, stroke = ctypes.c_int(), ctypes.c_int()
            if pdfium.FPDFPath_GetDrawMode(handle, fill, stroke) and fill.value:
                areas.append(_Area(order, _box(handle, matrix), _colour(handle), *_shape(handle)))
        elif kind in (pdfium.FPDF_PAGEOBJ_IMAGE, pdfium.FPDF_PAGEOBJ_SHADING):
            box = _box(handle, matrix)
            areas.append(_Area(order, box, None))
            if kind == pdfium.FPDF_PAGEOBJ_IMAGE:
                pictures += max(0.0, min(box[2], right) - max(box[0], left)) * max(0.0, min(box[3], top) - max(box[1], bottom))
    return texts, areas, pictures >= _SCAN * whole


def _objects(page: pypdfium2.PdfPage) -> Iterator[tuple[int, object, _Matrix]]:
    """Kind, handle and the matrix of what it stands in, in the order of drawing."""
    waiting: list[tuple[Iterator[object], _Matrix]] = [(_children(page.raw, form=False), _IDENTITY)]
    while waiting:
        children, matrix = waiting[-1]
        handle = next(children, None)
        if handle is None:
            waiting.pop()
            continue
        kind = pdfium.FPDFPageObj_GetType(handle)
        if kind != pdfium.FPDF_PAGEOBJ_FORM:
            yield kind, handle, matrix
        elif len(waiting) < _DEPTH:
            waiting.append((_children(handle, form=True), _product(_matrix(handle), matrix)))


def _children(holder: object, *, form: bool) -> Iterator[object]:
    count, at = (
        (pdfium.FPDFFormObj_CountObjects, pdfium.FPDFFormObj_GetObject)
        if form
        else (pdfium.FPDFPage_CountObjects, pdfium.FPDFPage_GetObject)
    )
    return (at(holder, index) for index in range(count(holder)))


def _text(handle: object, order: int, matrix: _Matrix) -> _Text:
    size = ctypes.c_float()
    pdfium.FPDFTextObj_GetFontSize(handle, size)
    return _Text(
        handle=handle,
        order=order,
        box=_box(handle, matrix),
        size=size.value * _scale(_matrix(handle)) * _scale(matrix),
        mode=pdfium.FPDFTextObj_GetTextRenderMode(handle),
        colour=_colour(handle),
    )


def _might_be_unseen(text: _Text, areas: list[_Area], page: _Box) -> bool:
    if len(areas) > _AREAS:
        return True
    return _seems_unseen(text, areas, page) or min(text.colour[:3]) > _LIGHT


def _seems_unseen(text: _Text, areas: list[_Area], page: _Box, *, surely: bool = False) -> bool:
    """`surely`: where no drawing follows. A frame around the text, or a shape that is cut off, may cover none of it."""
    if text.colour[3] < _SAME or not _overlap(text.box, page):
        return True
    x, y = (text.box[0] + text.box[2]) / 2, (text.box[1] + text.box[3]) / 2
    behind: tuple[int, int, int, int] | None = (255, 255, 255, 255)
    for area in areas[-_AREAS:]:
        if area.box[0] <= x <= area.box[2] and area.box[1] <= y <= area.box[3]:
            if area.order < text.order:
                behind = area.colour if area.full or not surely else None
            elif (not surely or (area.full and area.whole)) and area.colour is not None and area.colour[3] > 255 - _SAME:
                # Drawn over it. A picture over text is a scan with its text underneath.
                return True
    return behind is not None and all(abs(mine - other) <= _SAME for mine, other in zip(text.colour[:3], behind[:3], strict=True))


def _switch_off_undrawn(page: pypdfium2.PdfPage, texts: list[_Text]) -> None:
    """Switch off those texts without which the page looks the same."""
    scale = min(_PIXELS_PER_POINT, _MAX_PIXELS / max(1.0, *page.get_size()))
    shown = _drawn(page, scale)
    for text in texts:
        pdfium.FPDFPageObj_SetIsActive(text.handle, False)
    without = _drawn(page, scale)
    for text in texts:
        if _differ(page, text.box, shown, without):
            pdfium.FPDFPageObj_SetIsActive(text.handle, True)


@dataclass(frozen=True)
class _Drawn:
    pixels: bytes
    width: int
    height: int
    stride: int
    channels: int


def _drawn(page: pypdfium2.PdfPage, scale: float) -> _Drawn:
    bitmap = page.render(scale=scale)
    try:
        return _Drawn(bytes(bitmap.buffer), bitmap.width, bitmap.height, bitmap.stride, bitmap.n_channels)
    finally:
        bitmap.close()


def _differ(page: pypdfium2.PdfPage, box: _Box, one: _Drawn, other: _Drawn) -> bool:
    places = [_pixel(page, one, x, y) for x in (box[0], box[2]) for y in (box[1], box[3])]
    first = max(0, min(x for x, _ in places) - 1) * one.channels
    last = min(one.width, max(x for x, _ in places) + 2) * one.channels
    for row in range(max(0, min(y for _, y in places) - 1), min(one.height, max(y for _, y in places) + 2)):
        mine = one.pixels[row * one.stride + first : row * one.stride + last]
        others = other.pixels[row * one.stride + first : row * one.stride + last]
        if mine != others and any(abs(a - b) > _SAME for a, b in zip(mine, others, strict=True)):
            return True
    return False


def _pixel(page: pypdfium2.PdfPage, drawn: _Drawn, x: float, y: float) -> tuple[int, int]:
    column, row = ctypes.c_int(), ctypes.c_int()
    pdfium.FPDF_PageToDevice(page.raw, 0, 0, drawn.width, drawn.height, 0, x, y, column, row)
    return column.value, row.value


def _page_box(page: pypdfium2.PdfPage) -> _Box:
    left, bottom, right, top = page.get_cropbox()
    return min(left, right), min(bottom, top), max(left, right), max(bottom, top)


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and one[2] > other[0] and one[1] < other[3] and one[3] > other[1]


def _colour(handle: object) -> tuple[int, int, int, int]:
    red, green, blue, alpha = ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint(), ctypes.c_uint()
    if not pdfium.FPDFPageObj_GetFillColor(handle, red, green, blue, alpha):
        return 0, 0, 0, 255
    return red.value, green.value, blue.value, alpha.value


def _shape(handle: object) -> tuple[bool, bool]:
    """Whether a path is a single rectangle, as far as that is told easily, and whether nothing of it is cut off."""
    return (
        pdfium.FPDFPath_CountSegments(handle) in _SEGMENTS,
        pdfium.FPDFClipPath_CountPaths(pdfium.FPDFPageObj_GetClipPath(handle)) <= 0,
    )


def _box(handle: object, matrix: _Matrix) -> _Box:
    sides = ctypes.c_float(), ctypes.c_float(), ctypes.c_float(), ctypes.c_float()
    if not pdfium.FPDFPageObj_GetBounds(handle, *sides):
        return 0.0, 0.0, 0.0, 0.0
    left, bottom, right, top = sides[0].value, sides[1].value, sides[2].value, sides[3].value
    # Nearly everything stands on the page itself.
    if matrix is _IDENTITY:
        return left, bottom, right, top
    a, b, c, d, e, f = matrix
    corners = [(a * x + c * y + e, b * x + d * y + f) for x in (left, right) for y in (bottom, top)]
    across, up = [x for x, _ in corners], [y for _, y in corners]
    return min(across), min(up), max(across), max(up)


def _scale(matrix: _Matrix) -> float:
    return math.sqrt(abs(matrix[0] * matrix[3] - matrix[1] * matrix[2]))


def _matrix(handle: object) -> _Matrix:
    found = pdfium.FS_MATRIX()
    if not pdfium.FPDFPageObj_GetMatrix(handle, found):
        return _IDENTITY
    return found.a, found.b, found.c, found.d, found.e, found.f


def _product(inner: _Matrix, outer: _Matrix) -> _Matrix:
    a, b, c, d, e, f = inner
    g, h, i, j, k, m = outer
    return a * g + b * i, a * h + b * j, c * g + d * i, c * h + d * j, e * g + f * i + k, e * h + f * j + m
