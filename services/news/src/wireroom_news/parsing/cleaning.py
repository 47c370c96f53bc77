"""From whatever a feed carries to plain text and safe links."""

from __future__ import annotations

import re

import nh3
from lxml import html
from lxml.etree import LxmlError

MAX_TITLE = 1_000
MAX_TEXT = 100_000
MAX_SUMMARY = 2_000
MAX_AUTHOR = 500
# Markup longer than this is cut before it is cleaned: what it holds beyond would not survive the cap of the text anyway.
_MAX_MARKUP = 1_000_000
_BLOCKS = frozenset(
    {
        "article",
        "aside",
        "blockquote",
        "br",
        "dd",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "footer",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
    }
    | {"header", "hr", "li", "main", "nav", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul"}
)
_MARKUP = re.compile(r"<[a-zA-Z/!?]|&[a-zA-Z#]")
# Text that came out of escaped markup and would act if someone showed it as HTML. `List<String>` and `<div>` in prose may stay.
_ACTIVE = re.compile(
    r"<[\s/]*(script|style|iframe|frame|object|embed|applet|svg|math|link|meta|base|form|input|button|img|image|video|audio|body|html"
    r"|details|template|marquee|noscript)\b|<[^>]*[\s/\"']on[a-z]+\s*=|<[^>]*(java|vb)script\s*:|<[^>]*data\s*:",
    re.IGNORECASE,
)
_SPACES = re.compile(r"[^\S\n]+")
_LINES = re.compile(r"\s*\n\s*")
_UNSTORABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def plain_text(markup: str, limit: int) -> str:
    """`markup` as text of at most `limit` characters: blocks become lines, nothing that acts is left."""
    text = _UNSTORABLE.sub("", markup[:_MAX_MARKUP])
    if _MARKUP.search(text):
        text = _without_markup(text)
    # Escaped twice or more: each round opens one layer. What still acts after that is taken apart.
    for _ in range(3):
        if not _ACTIVE.search(text):
            break
        text = _without_markup(text)
    else:
        text = text.replace("<", " ")
    text = _LINES.sub("\n", _SPACES.sub(" ", _UNSTORABLE.sub("", text))).strip()
    return text[:limit].rstrip()


def one_line(markup: str, limit: int) -> str:
    """As `plain_text`, on one line."""
    return " ".join(plain_text(markup, limit * 4).split())[:limit].rstrip()


def excerpt(text: str, limit: int = MAX_SUMMARY) -> str:
    """The beginning of `text`, cut at a word."""
    if len(text) <= limit:
        return text
    cut = text[:limit]
    return (cut[: cut.rfind(" ")] if " " in cut else cut).rstrip() + "…"


def _without_markup(markup: str) -> str:
    cleaned = nh3.clean(markup)
    if not cleaned.strip():
        return ""
    try:
        # The parser has no limit of depth that fails: nh3 has rebuilt the tree already.
        root = html.fragment_fromstring(cleaned, create_parent="div")
    except (LxmlError, ValueError, AssertionError):
        return nh3.clean_text(nh3.clean(cleaned, tags=set()))
    parts: list[str] = []
    for event, element in html.etree.iterwalk(root, events=("start", "end")):
        block = element.tag in _BLOCKS
        if event == "start":
            parts.append("\n" if block else "")
            parts.append(element.text or "")
        else:
            parts.append("\n" if block else "")
            parts.append(element.tail or "")
    return "".join(parts)
