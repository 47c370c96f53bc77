"""Which text of a slide can be told from what is behind it. What cannot be known (pictures, gradients) counts as another colour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lxml import etree
from pptx.opc.constants import RELATIONSHIP_TYPE
from pptx.oxml.ns import qn
from pptx.shapes.base import BaseShape
from pptx.shapes.group import GroupShape
from pptx.slide import Slide, SlideLayout, SlideMaster

Rgb = tuple[int, int, int]
# Left, top, right, bottom in English Metric Units of the slide.
Box = tuple[float, float, float, float]
# Of 255; channels this close make a text that nobody can read.
_SAME = 20
# In hundredths of a point.
_SMALLEST = 200
_OPAQUE, _FAINT = 100_000, 8_000
_AREAS = 1_000
_OFF = ("0", "false")
_FILLS = {qn(f"a:{name}") for name in ("solidFill", "gradFill", "blipFill", "pattFill", "grpFill")}
_NO_FILL = qn("a:noFill")


@dataclass(frozen=True)
class Placement:
    """From a shape's own coordinates to those of the slide."""

    left: float = 0.0
    top: float = 0.0
    across: float = 1.0
    down: float = 1.0

    def box(self, shape: BaseShape) -> Box | None:
        """None for a shape that does not say where it is."""
        sides = (shape.left, shape.top, shape.width, shape.height)
        if any(side is None for side in sides):
            return None
        left, top, width, height = (float(side) for side in sides)
        x, y = self.left + left * self.across, self.top + top * self.down
        return x, y, x + width * self.across, y + height * self.down

    def inside(self, group: GroupShape) -> Placement:
        """That of the shapes in a group."""
        box = self.box(group)
        # Nothing public tells a group's inner coordinates.
        transform = group.element.find(f"{qn('p:grpSpPr')}/{qn('a:xfrm')}")
        inner = [transform.find(qn(name)) for name in ("a:chOff", "a:chExt")] if transform is not None else [None, None]
        if box is None or inner[0] is None or inner[1] is None:
            return self
        x, y = (int(inner[0].get(name, "0")) for name in ("x", "y"))
        width, height = (int(inner[1].get(name, "0")) for name in ("cx", "cy"))
        across, down = (box[2] - box[0]) / (width or 1), (box[3] - box[1]) / (height or 1)
        return Placement(box[0] - x * across, box[1] - y * down, across, down)


@dataclass(frozen=True)
class _Area:
    box: Box
    colour: Rgb | None


class SlideLooks:
    """What has been drawn on one slide so far: shapes are to be told in their order, the lowest first."""

    def __init__(self, slide: Slide, size: Box) -> None:
        self._scheme = _scheme(slide)
        self._paper = self._background(slide)
        self._size = size
        self._areas: list[_Area] = []
        for below in _below(slide):
            for shape in below.shapes:
                # Placeholders of masters and layouts are not shown themselves.
                if not shape.is_placeholder:
                    self.draw(shape, Placement())

    def draw(self, shape: BaseShape, placement: Placement) -> None:
        """From now on the shape is behind what comes."""
        box = placement.box(shape)
        if box is None:
            return
        fill = _fill(shape.element)
        if fill is not None and fill.tag == _NO_FILL:
            return
        if fill is not None or shape.element.tag == qn("p:pic") or _styled(shape.element):
            self._areas.append(_Area(box, self._colour(fill)))
            # Of too many the lowest are forgotten: then nothing is known of what is behind.
            if len(self._areas) > _AREAS:
                del self._areas[0]
                self._paper = None

    def outside(self, shape: BaseShape, placement: Placement) -> bool:
        """Whether the shape lies beside the slide."""
        box = placement.box(shape)
        return box is not None and (
            box[2] <= self._size[0] or box[3] <= self._size[1] or box[0] >= self._size[2] or box[1] >= self._size[3]
        )

    def behind(self, shape: BaseShape, placement: Placement) -> Rgb | None:
        """The colour behind the middle of a shape that has been drawn; None for one that cannot be known."""
        box = placement.box(shape)
        if box is None:
            return None
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        for area in reversed(self._areas):
            if area.box[0] <= x <= area.box[2] and area.box[1] <= y <= area.box[3]:
                return area.colour
        return self._paper

    def cell(self, cell: etree._Element, table: etree._Element, behind: Rgb | None) -> Rgb | None:
        """The colour of a table's cell."""
        properties = cell.find(qn("a:tcPr"))
        fill = next((child for child in properties if child.tag in _FILLS), None) if properties is not None else None
        if fill is not None:
            return self._colour(fill)
        styled = table.find(f"{qn('a:tblPr')}/{qn('a:tableStyleId')}") is not None
        return None if styled else behind

    def readable(self, run: etree._Element, body: etree._Element | None, behind: Rgb | None) -> bool:
        """Whether a run of text in a `body` can be read before what is behind it."""
        defaults = body.find(f"{qn('a:lstStyle')}/{qn('a:lvl1pPr')}/{qn('a:defRPr')}") if body is not None else None
        own = [properties for properties in (run.find(qn("a:rPr")), defaults) if properties is not None]
        size = next((size for properties in own if (size := properties.get("sz"))), "")
        if size.isdigit() and int(size) < _SMALLEST:
            return False
        fill = next((fill for properties in own if (fill := properties.find(qn("a:solidFill"))) is not None), None)
        if fill is None:
            return True
        alpha = fill.find(f".//{qn('a:alpha')}")
        if alpha is not None and _share(alpha.get("val")) < _FAINT:
            return False
        colour = self._colour(fill)
        return colour is None or behind is None or any(abs(a - b) > _SAME for a, b in zip(colour, behind, strict=True))

    def _background(self, slide: Slide) -> Rgb | None:
        for holder in (slide, slide.slide_layout, slide.slide_layout.slide_master):
            background = holder.element.find(f"{qn('p:cSld')}/{qn('p:bg')}")
            if background is not None:
                properties = background.find(qn("p:bgPr"))
                return self._colour(
                    next((child for child in properties if child.tag in _FILLS), None)
                    if properties is not None
                    else background.find(qn("p:bgRef"))
                )
        return self._scheme.get("bg1", (255, 255, 255))

    def _colour(self, holder: etree._Element | None) -> Rgb | None:
        """The colour in a fill; None for pictures, gradients and colours that are made from others."""
        for child in holder if holder is not None else ():
            if any(etree.QName(change).localname != "alpha" for change in child):
                return None
            if child.tag == qn("a:srgbClr"):
                return _rgb(child.get("val"))
            if child.tag == qn("a:sysClr"):
                return _rgb(child.get("lastClr"))
            if child.tag == qn("a:schemeClr"):
                return self._scheme.get(child.get("val", ""))
        return None


def _below(slide: Slide) -> list[SlideMaster | SlideLayout]:
    """Whose shapes the slide shows, the lowest first."""
    if slide.element.get("showMasterSp") in _OFF:
        return []
    layout = slide.slide_layout
    return [layout] if layout.element.get("showMasterSp") in _OFF else [layout.slide_master, layout]


def _share(value: str | None) -> float:
    """In thousandths of a percent, or as a percentage (ISO 29500, Strict); opaque where it is neither."""
    try:
        return float(value[:-1]) * 1000 if value is not None and value.endswith("%") else float(value or _OPAQUE)
    except ValueError:
        return _OPAQUE


def _scheme(slide: Slide) -> Mapping[str, Rgb]:
    """The theme's colours by all their names on this slide."""
    layout = slide.slide_layout
    master = layout.slide_master
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    found: dict[str, Rgb] = {}
    theme: Any = next((each for each in master.part.rels.values() if each.reltype == RELATIONSHIP_TYPE.THEME), None)
    if theme is None or theme.is_external:
        return found
    for entry in etree.fromstring(theme.target_part.blob, parser).iterfind(f".//{qn('a:clrScheme')}/*"):
        for value in entry:
            colour = _rgb(value.get("val") if value.tag == qn("a:srgbClr") else value.get("lastClr"))
            if colour is not None:
                found[etree.QName(entry).localname] = colour
    own = f"{qn('p:clrMapOvr')}/{qn('a:overrideClrMapping')}"
    mapping = next(
        (each for each in (slide.element.find(own), layout.element.find(own)) if each is not None),
        master.element.find(qn("p:clrMap")),
    )
    for name, stands_for in (mapping.attrib if mapping is not None else {}).items():
        if stands_for in found:
            found[name] = found[stands_for]
    return found


def _fill(element: etree._Element) -> etree._Element | None:
    properties = element.find(qn("p:spPr"))
    if properties is None:
        return None
    return next((child for child in properties if child.tag in _FILLS or child.tag == _NO_FILL), None)


def _styled(element: etree._Element) -> bool:
    reference = element.find(f"{qn('p:style')}/{qn('a:fillRef')}")
    return reference is not None and reference.get("idx", "0") != "0"


def _rgb(value: str | None) -> Rgb | None:
    try:
        number = int(value or "", 16)
    except ValueError:
        return None
    return (number >> 16 & 255, number >> 8 & 255, number & 255) if value is not None and len(value) == 6 else None  # noqa: PLR2004 - RRGGBB
