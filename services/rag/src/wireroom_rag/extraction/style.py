"""What a page's own styles hide: text that no reader sees must not be read to a model either."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cssselect
import tinycss2  # type: ignore[import-untyped]  # has no stubs
import tinycss2.color4  # type: ignore[import-untyped]  # has no stubs
from lxml import etree

Rgb = tuple[float, float, float]
_WHITE: Rgb = (1.0, 1.0, 1.0)
# Channels this close make a text that nobody can read.
_SAME = 0.08
_OFF_SCREEN = -300.0
_TINY = 2.0
_RULES, _COMPLEX_RULES = 2_000, 200
_SIMPLE = re.compile(r"^(?P<kind>[.#]?)(?P<name>[A-Za-z_][\w-]*)$")
_NUMBER = re.compile(r"^\s*(-?\d*\.?\d+)\s*([a-z%]*)")
_PICTURE = re.compile(r"url\(|gradient\(|image\(|image-set\(")
_NO_PICTURE = ("none", "initial", "unset", "inherit", "revert")
# Of a pixel, roughly; lengths only matter when they are extreme.
_UNITS = {"": 1.0, "px": 1.0, "pt": 1.33, "em": 16.0, "rem": 16.0, "%": 10.0, "vw": 10.0, "vh": 10.0, "cm": 38.0, "in": 96.0}
_RELEVANT = frozenset((
    "display", "visibility", "opacity", "color", "background", "background-color", "background-image",
    "font-size", "font", "position", "left", "top",
    "text-indent", "margin-left", "clip", "clip-path", "height", "max-height", "width", "max-width", "overflow", "transform",
    "content-visibility",
))  # fmt: skip

Declarations = Mapping[str, str]
# Importance, specificity, place of the rule; and the value.
_Weighed = tuple[tuple[bool, int, int, int, int], str]
# Of a style attribute: above every selector.
_INLINE = (1_000_000, 0, 0, 0)


@dataclass(frozen=True)
class Look:
    """How the text of an element looks, as far as it is known."""

    colour: Rgb | None = None
    # None where a picture or a gradient is behind it.
    background: Rgb | None = _WHITE
    tiny: bool = False

    def readable(self) -> bool:
        """Whether a reader could see it."""
        if self.tiny:
            return False
        if self.colour is None or self.background is None:
            return True
        return any(abs(mine - behind) > _SAME for mine, behind in zip(self.colour, self.background, strict=True))


class Styles:
    """The styles of one page: what is important wins, then the more specific selector, then the later rule (CSS Cascade, 6)."""

    def __init__(self, root: etree._Element) -> None:
        self._by_class: dict[str, dict[str, _Weighed]] = {}
        self._by_id: dict[str, dict[str, _Weighed]] = {}
        self._by_tag: dict[str, dict[str, _Weighed]] = {}
        self._by_element: dict[etree._Element, dict[str, _Weighed]] = {}
        self._complex = 0
        for number, (selectors, declared) in enumerate(_page_rules(root)):
            if number >= _RULES:
                break
            for selector in selectors.split(","):
                self._add(root, selector.strip(), declared, number)

    def of(self, element: etree._Element) -> Declarations:
        """What is declared for an element itself, its attributes included."""
        found: dict[str, _Weighed] = {}
        _merge(found, self._by_tag.get(str(element.tag), {}))
        for name in (element.get("class") or "").split():
            _merge(found, self._by_class.get(name, {}))
        if identifier := element.get("id"):
            _merge(found, self._by_id.get(identifier, {}))
        _merge(found, self._by_element.get(element, {}))
        if style := element.get("style"):
            _merge(found, {name: ((important, *_INLINE), value) for name, (important, value) in _declared(style).items()})
        values = {name: value for name, (_, value) in found.items()}
        for attribute, name in (("bgcolor", "background-color"), ("background", "background-image"), ("color", "color")):
            if value := element.get(attribute):
                values.setdefault(name, value)
        return values

    def _add(self, root: etree._Element, selector: str, declared: Mapping[str, tuple[bool, str]], number: int) -> None:
        if simple := _SIMPLE.match(selector):
            target = {".": self._by_class, "#": self._by_id, "": self._by_tag}[simple["kind"]]
            weight = (int(simple["kind"] == "#"), int(simple["kind"] == "."), int(not simple["kind"]))
            name = simple["name"] if simple["kind"] else simple["name"].lower()
            _merge(target.setdefault(name, {}), _weighed(declared, weight, number))
            return
        self._complex += 1
        if self._complex > _COMPLEX_RULES or ":" in selector:
            return
        try:
            parsed = cssselect.parse(selector)
            matched = root.xpath(cssselect.HTMLTranslator().selector_to_xpath(parsed[0]))
        except (cssselect.SelectorError, etree.XPathError, IndexError):
            return
        weighed = _weighed(declared, parsed[0].specificity(), number)
        for element in matched if isinstance(matched, list) else []:
            if isinstance(element, etree._Element):  # noqa: SLF001 - the name of lxml's type
                _merge(self._by_element.setdefault(element, {}), weighed)


def _weighed(declared: Mapping[str, tuple[bool, str]], weight: tuple[int, int, int], number: int) -> dict[str, _Weighed]:
    return {name: ((important, *weight, number), value) for name, (important, value) in declared.items()}


def _merge(found: dict[str, _Weighed], others: Mapping[str, _Weighed]) -> None:
    for name, other in others.items():
        if name not in found or other[0] >= found[name][0]:
            found[name] = other


def hides(declared: Declarations, element: etree._Element) -> bool:
    """Whether an element and all that is in it is not shown."""
    if element.get("hidden") is not None or (element.tag == "dialog" and element.get("open") is None):
        return True
    if not declared:
        return False
    if declared.get("display") == "none" or declared.get("visibility") in ("hidden", "collapse"):
        return True
    opacity = _length(declared.get("opacity"))
    if declared.get("content-visibility") == "hidden" or (opacity is not None and opacity < _SAME):
        return True
    return _displaced(declared) or _cut_off(declared)


def look_of(declared: Declarations, parent: Look) -> Look:
    """The look of an element inside one that looks like `parent`."""
    if not declared:
        return parent
    size = _length(declared.get("font-size"))
    tiny = parent.tiny if size is None else size < _TINY
    colour = _colour(declared.get("color"))
    behind = _behind(declared, parent.background)
    if colour is None:
        return Look(parent.colour, behind, tiny)
    # Text of no opacity has the colour of what is behind it.
    return Look(behind if colour[1] < _SAME else colour[0], behind, tiny)


def _behind(declared: Declarations, below: Rgb | None) -> Rgb | None:
    if declared.get("background-image", "none") not in _NO_PICTURE:
        return None
    background = declared.get("background-color") or declared.get("background") or ""
    found = _colour(background)
    if found is None:
        # What is left are pictures, gradients and values that stand elsewhere.
        return None if "(" in background else below
    return below if found[1] < _SAME else None if _PICTURE.search(declared.get("background", "")) else found[0]


def _displaced(declared: Declarations) -> bool:
    away = [declared.get("text-indent"), declared.get("margin-left")]
    if declared.get("position") in ("absolute", "fixed"):
        away += [declared.get("left"), declared.get("top")]
    return any((length := _length(value)) is not None and length < _OFF_SCREEN for value in away)


def _cut_off(declared: Declarations) -> bool:
    if re.search(r"rect\(\s*[01](?:px)?[ ,]+[01](?:px)?[ ,]+[01](?:px)?[ ,]+[01](?:px)?\s*\)", declared.get("clip", "")):
        return True
    if re.search(r"inset\(\s*(?:[5-9]\d|100)%|circle\(\s*0", declared.get("clip-path", "")):
        return True
    if re.search(r"scale[xy]?\(\s*0(?:\.0+)?\s*[,)]", declared.get("transform", "")):
        return True
    sizes = [_length(declared.get(name)) for name in ("height", "max-height", "width", "max-width")]
    return declared.get("overflow") in ("hidden", "clip") and any(size is not None and size < _TINY for size in sizes)


def _length(value: str | None) -> float | None:
    found = _NUMBER.match(value) if value else None
    return float(found[1]) * _UNITS.get(found[2], 1.0) if found else None


@lru_cache(maxsize=1024)
def _colour(value: str | None) -> tuple[Rgb, float] | None:
    """Colour and opacity; None for none that can be told."""
    for token in tinycss2.parse_component_value_list(value, skip_comments=True) if value else ():
        found: Any = tinycss2.color4.parse_color(token)
        if found is None or found == "currentcolor":
            continue
        if found.space in ("srgb", "hsl", "hwb"):
            red, green, blue = (found if found.space == "srgb" else found.to("srgb")).coordinates
            return (red or 0.0, green or 0.0, blue or 0.0), found.alpha
        # The others begin with a lightness, most of them; that decides between white and black.
        light = min(
            1.0, (found.coordinates[0] or 0.0) / (100 if found.space.endswith(("lab", "lch")) and "ok" not in found.space else 1)
        )
        return (light, light, light), found.alpha
    return None


@lru_cache(maxsize=4096)
def _declared(style: str) -> Mapping[str, tuple[bool, str]]:
    return _relevant(tinycss2.parse_blocks_contents(style, skip_comments=True, skip_whitespace=True))


def _relevant(nodes: list[Any]) -> dict[str, tuple[bool, str]]:
    """Whether it is important, and the value."""
    found: dict[str, tuple[bool, str]] = {}
    for node in nodes:
        if node.type == "declaration" and node.lower_name in _RELEVANT:
            value = tinycss2.serialize(node.value).strip().lower()
            name = "font-size" if node.lower_name == "font" else node.lower_name
            if node.important or name not in found or not found[name][0]:
                found[name] = bool(node.important), value
    return found


def _page_rules(root: etree._Element) -> Iterator[tuple[str, dict[str, tuple[bool, str]]]]:
    for sheet in root.iter("style"):
        rules = tinycss2.parse_stylesheet(sheet.text or "", skip_comments=True, skip_whitespace=True)
        yield from _rules_of(rules)


def _rules_of(rules: list[Any]) -> Iterator[tuple[str, dict[str, tuple[bool, str]]]]:
    for rule in rules:
        if rule.type == "qualified-rule":
            declared = _relevant(tinycss2.parse_blocks_contents(rule.content, skip_comments=True, skip_whitespace=True))
            if declared:
                yield tinycss2.serialize(rule.prelude), declared
        elif rule.type == "at-rule" and rule.lower_at_keyword == "media" and rule.content is not None:
            # Rules for some screens or for paper do not hide anything from readers at large.
            medium = tinycss2.serialize(rule.prelude)
            if "(" not in medium and "print" not in medium:
                yield from _rules_of(tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True))
