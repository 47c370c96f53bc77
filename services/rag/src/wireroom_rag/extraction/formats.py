"""One function per text format: bytes in, text out."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
import zipfile

import charset_normalizer
import docx
import docx.opc.exceptions
from docx.table import Table
from lxml import etree
from lxml import html as lxml_html
from markdown_it import MarkdownIt
from markdown_it.token import Token

from wireroom_rag.domain.document import RejectedError

_MAX_UNPACKED = 300_000_000
_META_CHARSET = re.compile(rb"""<meta[^>]+charset\s*=\s*["']?\s*([A-Za-z0-9_:.-]+)""", re.IGNORECASE)
_SKIPPED = frozenset({"script", "style", "noscript", "template", "svg", "iframe", "object"})
_INLINE = frozenset((
    "a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i", "img", "ins", "kbd", "label", "mark",
    "q", "s", "samp", "small", "span", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
))  # fmt: skip
_WESTERN = frozenset({"cp1252", "latin_1", "iso8859_15"})
_BLANKS = re.compile(r"[ \t\r\n\f]+")


def decode_text(data: bytes) -> str:
    """Text in whatever encoding: byte order mark, UTF-8, then the most plausible; `document_unreadable` when there is none."""
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return _decoded(data, encoding)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return _decoded(data, _plausible_encoding(data))


def _plausible_encoding(data: bytes) -> str:
    matches = charset_normalizer.from_bytes(data)
    best = matches.best()
    if best is None:
        raise RejectedError("document_unreadable", "The text's character encoding cannot be determined. Save it as UTF-8.")
    # Short texts fit many 8-bit encodings equally well; then it is by far most often the western one.
    for match in matches:
        if match.chaos <= best.chaos and not _WESTERN.isdisjoint(match.could_be_from_charset):
            return "cp1252" if _decodes(data, "cp1252") else "latin-1"
    return best.encoding


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise RejectedError(
            "document_unreadable", "The text is not valid in its own character encoding. Save it as UTF-8."
        ) from error


def markdown_text(data: bytes) -> str:
    """What a reader of the rendered page would see; of HTML inside, its visible text."""
    parts: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(decode_text(data)):
        if token.type == "inline":
            parts.append("".join(_inline_text(child) for child in token.children or ()))
        elif token.type in ("fence", "code_block"):
            parts.append(token.content)
        elif token.type == "html_block":
            # The block may be nothing but a comment or a script.
            with contextlib.suppress(RejectedError):
                parts.append(html_text(token.content.encode()) + "\n\n")
        elif token.type in ("th_close", "td_close"):
            parts.append("\t")
        elif token.type in ("tr_close", "list_item_close"):
            parts.append("\n")
        elif token.nesting < 0:
            parts.append("\n" if token.hidden else "\n\n")
    return "".join(parts)


def _inline_text(token: Token) -> str:
    if token.type in ("text", "code_inline"):
        return token.content
    if token.type in ("softbreak", "hardbreak"):
        return "\n"
    return token.content if token.type == "image" else ""


def html_text(data: bytes) -> str:
    """Title and visible text; blocks become lines. Scripts, styles and comments are left out; nothing is fetched."""
    declared = _META_CHARSET.search(data[:4096])
    encoding = _known(declared.group(1).decode("ascii")) if declared else None
    if encoding is None or data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = decode_text(data).encode("utf-8")
        encoding = "utf-8"
    try:
        root = lxml_html.document_fromstring(data, parser=lxml_html.HTMLParser(encoding=encoding, no_network=True))
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        raise RejectedError("document_no_text", "The HTML page holds no text.") from error
    return _visible_text(root)


def _known(encoding: str) -> str | None:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        return None


def _visible_text(root: etree._Element) -> str:
    parts: list[str] = []
    # Walked by events, not by recursion: nesting depth is the author's choice.
    skipping: etree._Element | None = None
    for event, element in etree.iterwalk(root, events=("start", "end", "comment", "pi")):
        tag = element.tag if isinstance(element.tag, str) else ""
        if skipping is None and event == "start":
            if tag in _SKIPPED:
                skipping = element
                continue
            parts.append("" if tag in _INLINE else "\n")
            parts.append(_BLANKS.sub(" ", element.text or ""))
        elif event != "start" and (skipping is None or skipping is element):
            skipping = None
            if event == "end" and tag not in _INLINE:
                parts.append("\t" if tag in ("td", "th") else "\n")
            parts.append(_BLANKS.sub(" ", element.tail or ""))
    return "".join(parts)


def docx_text(data: bytes) -> str:
    """Paragraphs and tables in their order."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _MAX_UNPACKED:
                raise RejectedError("document_too_complex", "The Word document unpacks to more than 300 MB.")
        document = docx.Document(io.BytesIO(data))
        lines: list[str] = []
        for block in document.iter_inner_content():
            if isinstance(block, Table):
                lines.extend("\t".join(cell.text for cell in row.cells) for row in block.rows)
            else:
                lines.append(block.text)
    except (
        zipfile.BadZipFile,
        docx.opc.exceptions.OpcError,
        etree.LxmlError,
        KeyError,
        ValueError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise RejectedError("document_unreadable", "The Word document is damaged or incomplete.") from error
    return "\n".join(lines)
