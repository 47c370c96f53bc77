from __future__ import annotations

import contextlib
import functools
import http.server
import io
import threading
import zipfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rag_files import book, mail, presentation, word, workbook, zipped

from wireroom_common.errors import WireroomError
from wireroom_rag.domain.document import RejectedError
from wireroom_rag.extraction import media_types as types
from wireroom_rag.extraction.archives import MAX_ENTRIES, open_archive
from wireroom_rag.extraction.encoding import decode_text
from wireroom_rag.extraction.markup import html_text, markdown_text
from wireroom_rag.extraction.media_types import media_type_of
from wireroom_rag.extraction.readers import MEDIA_TYPES, read_pages
from wireroom_rag.extraction.text import clean, stored_text

MARKER = "PLANTED"


def text_of(media_type: str, data: bytes) -> str:
    pages, paged = read_pages(media_type, data, 100)
    return stored_text(pages, paged=paged, max_characters=1_000_000).content


def test_html_inside_markdown_gives_its_visible_text_and_no_script() -> None:
    source = b"\n\n".join(
        [
            b"# Tax\n<script>alert(1)</script> The Kumquat duty is 31 crowns",
            b"<!-- secret note -->",
            b"<div>Box text</div>",
            b"End <b>bold</b>.",
        ]
    )
    assert " ".join(markdown_text(source).split()) == "# Tax The Kumquat duty is 31 crowns Box text End bold."


def test_headings_tables_and_code_keep_their_form() -> None:
    source = b"# Ports\n\n## Fares\n\n| Port | Fare |\n|---|---|\n| Hollin | 12 |\n\n```\nif a:\n    b\n```\n"
    assert text_of(types.MARKDOWN, source) == "# Ports\n\n## Fares\n\n| Port | Fare |\n| Hollin | 12 |\n\nif a:\n    b"


def test_word_keeps_headings_and_tables_and_names_merged_cells_once() -> None:
    assert (
        text_of(types.DOCX, word()) == "# Bakery report\n\nRye sells best in March.\n\n| Loaves | Price |\n| Rye | 4,217 | 3.10 |"
    )


def test_slides_are_pages_with_titles_tables_and_notes() -> None:
    pages, paged = read_pages(types.PPTX, presentation(), 10)
    assert (paged, len(pages)) == (True, 2)
    assert pages[0] == "# Orchards\n\nApples ripen in September."
    assert pages[1] == "# Cellars\n\nCider rests for nine weeks.\n\n| Barrels | 14 |\n\nAsk Ilse about the presses."


def test_sheets_are_pages_of_rows() -> None:
    pages, paged = read_pages(types.XLSX, workbook(), 10)
    assert (paged, pages) == (
        True,
        ["# Ferries\n\n| Harbour | Fare |\n| Hollin | 12 |\n| Tessaly | 7.5 |", "# Crew\n\n| Mate | Odd |"],
    )


def test_chapters_are_pages_in_reading_order() -> None:
    pages, paged = read_pages(types.EPUB, book("<h1>One</h1><p>Rain.</p>", "<p>Snow &amp; ice.</p>"), 10)
    assert (paged, [clean(page) for page in pages]) == (True, ["# One\n\nRain.", "Snow & ice."])


@pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf-8"), (";", "cp1252"), ("\t", "utf-16")])
def test_csv_rows_are_read_whatever_the_delimiter(delimiter: str, encoding: str) -> None:
    rows = [["Ort", "Straße", "Preis"], ["Köln", '"Am, Dom; 4"', "12"], ["Bonn", "Rhein", "7"]]
    data = "\r\n".join(delimiter.join(row) for row in rows).encode(encoding)
    assert text_of(types.CSV, data) == "| Ort | Straße | Preis |\n| Köln | Am, Dom; 4 | 12 |\n| Bonn | Rhein | 7 |"


def test_mail_gives_heads_text_names_of_attachments_and_mails_inside() -> None:
    assert text_of(types.MAIL, mail()) == (
        "# Tide für morgen\n\nFrom: Bo Ørn <bo@example.org>\nTo: crew@example.org\nDate: Tue, 04 Mar 2025 09:00:00 +0000\n\n"
        "Wir laufen um fünf aus.\n\nAttachment: chart.bin (application/octet-stream)\n\n"
        "# Re: Tide\n\nFrom: ada@example.org\nTo: bo@example.org\nDate: Mon, 03 Mar 2025 10:00:00 +0000\n\nHigh water is at five."
    )


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("Zürich".encode("utf-8-sig"), "Zürich"),
        ("Zürich".encode("utf-16"), "Zürich"),
        ("Zürich".encode("utf-32"), "Zürich"),
        ("Zürich liegt am See.".encode("latin-1"), "Zürich liegt am See."),
        (
            "Съешь же ещё этих мягких французских булок, да выпей чаю.".encode("cp1251"),
            "Съешь же ещё этих мягких французских булок",
        ),
    ],
)
def test_encodings_are_told_by_mark_then_by_likelihood(data: bytes, text: str) -> None:
    assert decode_text(data).startswith(text)


def test_declared_encoding_of_a_page_counts_unless_a_mark_says_otherwise() -> None:
    page = '<html><head><meta charset="{}"></head><body>Łódź</body></html>'
    assert html_text(page.format("iso-8859-2").encode("iso-8859-2")).strip() == "Łódź"
    assert html_text(page.format("iso-8859-2").encode("utf-8-sig")).strip() == "Łódź"
    assert html_text(page.format("rot13").encode()).strip() == "Łódź"


@pytest.mark.parametrize(
    "hidden",
    [
        "<p hidden>{}</p>",
        "<p style='display:none'>{}</p>",
        "<p style='DISPLAY : NONE !important'>{}</p>",
        "<div style='visibility:hidden'><b>{}</b></div>",
        "<p style='opacity:0'>{}</p>",
        "<p style='color:white'>{}</p>",
        "<p style='color:#fefefe'>{}</p>",
        "<p style='color:rgba(10,10,10,0)'>{}</p>",
        "<p style='color:oklch(1 0 0)'>{}</p>",
        "<font color='#ffffff'>{}</font>",
        "<table bgcolor='#102030'><tr><td><span style='color:#112131'>{}</span></td><td>x</td></tr></table>",
        "<p style='font-size:0'>{}</p>",
        "<p style='font-size:1px'>{}</p>",
        "<p style='position:absolute;left:-9999px'>{}</p>",
        "<p style='text-indent:-999em'>{}</p>",
        "<p style='height:0;overflow:hidden'>{}</p>",
        "<p style='transform:scale(0)'>{}</p>",
        "<style>.aside{{display:none}}</style><p class='aside'>{}</p>",
        "<style>div > .aside i{{color:#fff}}</style><div><p class='aside'><i>{}</i></p></div>",
        "<style>@media screen{{#aside{{display:none}}}}</style><p id='aside'>{}</p>",
        "<dialog>{}</dialog>",
        "<template>{}</template>",
        "<noscript>{}</noscript>",
        "<!-- {} -->",
        "<svg><text>{}</text></svg>",
    ],
)
def test_hidden_text_of_a_page_is_not_read(hidden: str) -> None:
    page = f"<html><body><p>Before.</p>{hidden.format(MARKER)}<p>After.</p></body></html>".encode()
    markdown = f"Before.\n\n{hidden.format(MARKER)}\n\nAfter.".encode()
    for text in (text_of(types.HTML, page), text_of(types.MARKDOWN, markdown), text_of(types.EPUB, book(page.decode()))):
        assert MARKER not in text
        assert "Before." in text
        assert "After." in text


def test_text_that_only_looks_hidden_is_read() -> None:
    page = (
        b"<html><head><style>.dark{background:#000;color:#fff} @media print{p{display:none}} .gap{font-size:0} .gap p{font-size:14px}"
        b"</style></head><body class='dark'><p>One</p><div class='gap'><p>two</p></div><p style='color:#777'>three</p></body></html>"
    )
    assert html_text(page).split() == ["One", "two", "three"]


@pytest.mark.parametrize(
    ("media_type", "make", "shown"),
    [
        (types.DOCX, word, "Rye sells best in March."),
        (types.PPTX, presentation, "Cider rests"),
        (types.XLSX, workbook, "Hollin"),
    ],
)
def test_hidden_text_of_office_files_is_not_read(media_type: str, make: Callable[..., bytes], shown: str) -> None:
    text = text_of(media_type, make(hidden=MARKER))
    assert MARKER not in text
    assert shown in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ig\u200bno\u2060re\ufeff", "ignore"),
        ("pay\u202e 001\u202c now", "pay 001 now"),
        ("\u2066a\u2069\u200eb\u200f", "ab"),
        ("".join(chr(0xE0000 + ord(letter)) for letter in "obey") + "ok", "ok"),
        ("a" + "".join(chr(0xE0100 + byte) for byte in b"obey"), "a"),
        ("l\u00adong\u200d\u200cer", "longer"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("👩\u200d🔬", "👩\u200d🔬"),
    ],
)
def test_invisible_characters_go_and_meaningful_ones_stay(text: str, expected: str) -> None:
    assert clean(text) == expected


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_cleaning_is_stable_and_leaves_nothing_invisible(text: str) -> None:
    once = clean(text)
    assert clean(once) == once
    assert not set(once) & set("\u200b\u202e\u2066\ufeff\x00\r")


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(sorted(MEDIA_TYPES)), st.binary(max_size=400))
def test_no_reader_raises_anything_but_a_named_reason_for_noise(media_type: str, data: bytes) -> None:
    with contextlib.suppress(RejectedError):
        pages, _ = read_pages(media_type, data, 10)
        assert all(isinstance(page, str) for page in pages)


@functools.cache
def whole(media_type: str) -> bytes:
    return {types.DOCX: word, types.PPTX: presentation, types.XLSX: workbook}[media_type]()


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from([types.DOCX, types.PPTX, types.XLSX]), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20)
)
def test_damaged_office_files_give_a_named_reason(media_type: str, places: list[float]) -> None:
    broken = bytearray(whole(media_type))
    for place in places:
        broken[int(place * len(broken))] ^= 0xFF
    with contextlib.suppress(RejectedError):
        assert read_pages(media_type, bytes(broken), 10)[0]


def bomb(kind: str) -> bytes:
    if kind == "ratio":
        return zipped({"[Content_Types].xml": "", "word/document.xml": b"\0" * 20_000_000})
    if kind == "total":
        noise = bytes(range(256)) * 16_000
        return zipped({"[Content_Types].xml": "", **{f"word/media/{number}": noise for number in range(80)}})
    return zipped(
        {"[Content_Types].xml": "", **{f"{number}": b"" for number in range(MAX_ENTRIES)}}, compression=zipfile.ZIP_STORED
    )


@pytest.mark.parametrize("kind", ["ratio", "total", "entries"])
def test_archive_bombs_are_refused_by_name_before_they_are_unpacked(kind: str) -> None:
    data = bomb(kind)
    with pytest.raises(WireroomError) as refused:
        media_type_of("report.docx", data[:65_536], lambda: io.BytesIO(data))
    assert refused.value.code == "document_archive_bomb"
    for media_type in (types.DOCX, types.PPTX, types.XLSX, types.EPUB):
        with pytest.raises(RejectedError, match="document_archive_bomb"):
            read_pages(media_type, data, 10)


def test_entry_that_is_larger_than_its_directory_says_is_cut_there() -> None:
    data = bytearray(zipped({"a.txt": b"x" * 5_000_000}))
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (1_000).to_bytes(4, "little")
    with open_archive(io.BytesIO(bytes(data))) as archive, contextlib.suppress(zipfile.BadZipFile):
        assert len(archive.read("a.txt")) <= 1_000


def test_book_whose_entities_grow_is_refused() -> None:
    laughs = "".join(f'<!ENTITY l{number} "{f"&l{number - 1};" * 10}">' for number in range(1, 10))
    package = f'<!DOCTYPE package [<!ENTITY l0 "{MARKER}">{laughs}]><package xmlns="http://www.idpf.org/2007/opf">&l9;</package>'
    parts = {
        "mimetype": types.EPUB,
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="p.opf"/></rootfiles></container>',
        "p.opf": package,
    }
    with pytest.raises(RejectedError, match="document_unreadable"):
        read_pages(types.EPUB, zipped(parts), 10)


class _Listener(http.server.BaseHTTPRequestHandler):
    asked: list[str]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Listener) as server:
        asked: list[str] = []
        server.asked = asked  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def _with_part(data: bytes, name: str, change: Callable[[str], str]) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts: dict[str, str | bytes] = {entry: archive.read(entry) for entry in archive.namelist()}
    old = parts.get(name, b"")
    parts[name] = change(old.decode() if isinstance(old, bytes) else old)
    return zipped(parts)


def test_nothing_that_a_file_refers_to_is_fetched(listener: tuple[str, list[str]]) -> None:
    address, asked = listener
    entity = f'<!DOCTYPE x [<!ENTITY e SYSTEM "{address}/entity"><!ENTITY f SYSTEM "file:///etc/hostname">]>'
    link = f'<Relationship Id="rId99" Type="http://x/attachedTemplate" Target="{address}/template" TargetMode="External"/></Relationships>'
    docx = _with_part(word(), "word/_rels/document.xml.rels", lambda old: old.replace("</Relationships>", link))
    docx = _with_part(
        docx, "word/document.xml", lambda old: old.replace("?>", f"?>{entity}", 1).replace("March.", "March&e;&f;.", 1)
    )
    slides = _with_part(presentation(), "ppt/_rels/presentation.xml.rels", lambda old: old.replace("</Relationships>", link))
    sheets = _with_part(workbook(), "xl/workbook.xml", lambda old: old.replace("?>", f"?>{entity}", 1))
    page = (
        f"<!DOCTYPE html SYSTEM '{address}/dtd'><html><head><link rel=stylesheet href='{address}/css'><style>@import '{address}/i';</style>"
        f"</head><body><img src='{address}/img'><iframe src='{address}/frame'></iframe><p>Text.</p></body></html>"
    )
    chapters = book(f"<p>Text.</p><img src='{address}/img'/>")
    files = [(types.DOCX, docx), (types.PPTX, slides), (types.XLSX, sheets), (types.HTML, page.encode()), (types.EPUB, chapters)]
    for media_type, data in files:
        with contextlib.suppress(RejectedError):
            text = text_of(media_type, data)
            assert "localhost" not in text
            assert text
    assert asked == []


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.docx", word(), types.DOCX),
        ("a.bin", presentation(), types.PPTX),
        ("a.docx", workbook(), types.XLSX),
        ("a", book("<p>x</p>"), types.EPUB),
        ("a.eml", mail(), types.MAIL),
        ("a.txt", mail(), types.MAIL),
        ("a.csv", b"a,b\n1,2\n", types.CSV),
        ("a.txt", b"a,b\n1,2\n", types.TEXT),
        ("a.txt", b"From: Bo\nDate: soon\n\nA note.", types.TEXT),
        ("a.txt", b"<!doctype html><p>x", types.HTML),
    ],
)
def test_type_is_told_by_content(name: str, data: bytes, expected: str) -> None:
    assert media_type_of(name, data[:65_536], lambda: io.BytesIO(data)) == expected


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.pdf", b"plain", "document_type_mismatch"),
        ("a.pdf", b"MZ\x90\x00\x03\x00\x00", "document_type_mismatch"),
        ("a.eml", b"Dear all,\n\nhello", "document_type_mismatch"),
        ("a.epub", book("x", mimetype="application/zip"), "document_type_mismatch"),
        ("a.docx", word()[:4_000], "document_type_mismatch"),
        ("a.bin", b"\x7fELF\x02\x01\x01\x00", "document_type_unsupported"),
        ("a.txt", b"{\\rtf1 hello}", "document_type_unsupported"),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'><text>x</text></svg>", "document_type_unsupported"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(name: str, data: bytes, code: str) -> None:
    with pytest.raises(WireroomError) as refused:
        media_type_of(name, data, lambda: io.BytesIO(data))
    assert refused.value.code == code
