from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator
from typing import Any

import docx
import pypdf
import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import rag_pb2

INDEXED = rag_pb2.DOCUMENT_STATE_INDEXED
REJECTED = rag_pb2.DOCUMENT_STATE_REJECTED


def pdf(*pages: str) -> bytes:
    buffer = io.BytesIO()
    canvas = Canvas(buffer, pagesize=A4)
    for page in pages:
        canvas.drawString(72, 720, page)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def encrypted_pdf() -> bytes:
    writer = pypdf.PdfWriter(clone_from=pypdf.PdfReader(io.BytesIO(pdf("The vault code is hidden."))))
    writer.encrypt("secret", algorithm="RC4-128")
    buffer = io.BytesIO()
    writer.write(buffer)
    return buffer.getvalue()


def pdf_without_pages() -> bytes:
    buffer = io.BytesIO()
    pypdf.PdfWriter().write(buffer)
    return buffer.getvalue()


def word_document() -> bytes:
    document = docx.Document()
    document.add_paragraph("Quarterly report of the Velmora bakery.")
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text = "Rye loaves"
    table.cell(0, 1).text = "4,217"
    document.add_paragraph("The oven was replaced in March.")
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("readme.txt", "not a word document")
    return buffer.getvalue()


async def test_uploaded_text_becomes_searchable_with_spans_into_it(rag: Any) -> None:
    user = rag.user()
    content = "The Lighthouse of Ardnagrath was built in 1832.\n\nIts keeper was called Morag Sinclair. She kept nine goats.\n"
    document = await rag.index(user, "lighthouse.txt", content.encode())
    assert (document.state, document.media_type, document.version, document.chunks) == (INDEXED, "text/plain", 1, 1)
    (passage,) = await rag.retrieve(user, "Who kept the lighthouse?")
    assert content.strip()[passage.start : passage.end] == passage.text
    assert passage.title == "lighthouse.txt"
    assert passage.dense_score > 0.3
    assert passage.lexical_score > 0
    assert await rag.events() == ["rag.document.received", "rag.document.indexed"]


async def test_pdf_passages_carry_their_page(rag: Any) -> None:
    user = rag.user()
    pages = ("The harbour of Tessaly opened in 1901.", "Its crane lifts forty tonnes.", "Pelicans nest on the northern pier.")
    document = await rag.index(user, "harbour.pdf", pdf(*pages))
    assert (document.state, document.pages, document.media_type) == (INDEXED, 3, "application/pdf")
    for number, (question, page) in enumerate(zip(("harbour opened", "crane tonnes", "pelicans pier"), pages, strict=True), 1):
        best = (await rag.retrieve(user, question))[0]
        assert (best.page, best.text) == (number, page)


@pytest.mark.parametrize(
    ("name", "data", "media_type", "query", "expected"),
    [
        (
            "report.docx",
            word_document(),
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "rye loaves",
            "| Rye loaves | 4,217 |",
        ),
        (
            "page.html",
            (
                b"<!doctype html><html><head><title>Owls</title><style>p{}</style></head><body><p>Barn <b>owls</b> hunt voles."
                b"<script>alert('no')</script></p></body></html>"
            ),
            "text/html",
            "what do owls hunt",
            "Barn owls hunt voles.",
        ),
        (
            "notes.md",
            b"# Comets\n\nHalley returns in *2061*.\n\n- dust tail\n",
            "text/markdown",
            "Halley",
            "Halley returns in 2061.",
        ),
        (
            "menu.txt",
            "Crème brûlée coûte six euros à Orléans.".encode("latin-1"),
            "text/plain",
            "brûlée",
            "Crème brûlée coûte six euros",
        ),
        ("unicode.txt", "Wien liegt an der Donau.".encode("utf-16"), "text/plain", "Donau", "Wien liegt an der Donau."),
        ("renamed.txt", pdf("A PDF by any other name."), "application/pdf", "name", "A PDF by any other name."),
    ],
)
async def test_each_format_is_recognised_by_content_and_read(
    rag: Any, *, name: str, data: bytes, media_type: str, query: str, expected: str
) -> None:
    user = rag.user()
    document = await rag.index(user, name, data)
    assert (document.state, document.media_type, document.reason) == (INDEXED, media_type, "")
    (passage,) = await rag.retrieve(user, query)
    assert expected in passage.text
    assert "alert" not in passage.text


@pytest.mark.parametrize(
    ("name", "data", "kind", "code"),
    [
        ("empty.txt", b"", ErrorKind.INVALID, "document_empty"),
        ("big.txt", b"x" * 200_001, ErrorKind.TOO_LARGE, "document_too_large"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00", ErrorKind.INVALID, "document_type_unsupported"),
        ("letter.docx", zip_file(), ErrorKind.INVALID, "document_type_mismatch"),
        ("broken.docx", word_document()[:4000], ErrorKind.INVALID, "document_type_mismatch"),
        ("fake.pdf", b"this is not a PDF", ErrorKind.INVALID, "document_type_mismatch"),
        ("", b"text", ErrorKind.INVALID, "document_name_invalid"),
        ("../", b"text", ErrorKind.INVALID, "document_name_invalid"),
        ("a\x00b.txt", b"text", ErrorKind.INVALID, "document_name_invalid"),
    ],
)
async def test_bad_upload_is_refused_and_leaves_nothing(
    start_rag: Any, name: str, data: bytes, kind: ErrorKind, code: str
) -> None:
    rag = await start_rag(max_document_bytes=200_000)
    user = rag.user()
    with pytest.raises(WireroomError) as refused:
        await rag.upload(user, name, data)
    assert (refused.value.kind, refused.value.code) == (kind, code)
    assert rag.blobs() == []
    assert await rag.rows(user.tenant_id, "SELECT id FROM documents") == []
    assert await rag.events() == []


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("blank.pdf", pdf("", ""), "document_no_text"),
        ("pageless.pdf", pdf_without_pages(), "document_no_text"),
        ("locked.pdf", encrypted_pdf(), "document_encrypted"),
        ("truncated.pdf", pdf("Half of this is missing.")[:300], "document_unreadable"),
        ("blank.txt", b" \n\t \n", "document_no_text"),
        ("long.pdf", pdf(*("page" for _ in range(6))), "document_too_complex"),
        ("wordy.txt", b"word " * 500, "document_too_complex"),
    ],
)
async def test_unusable_content_is_rejected_with_its_reason(start_rag: Any, name: str, data: bytes, code: str) -> None:
    rag = await start_rag(max_pages=5, max_characters=2_000)
    user = rag.user()
    document = await rag.index(user, name, data)
    assert (document.state, document.reason_code) == (REJECTED, code)
    assert document.reason
    assert await rag.rows(user.tenant_id, "SELECT id FROM chunks") == []
    assert await rag.events() == ["rag.document.received", "rag.document.rejected"]


async def test_upload_that_its_client_abandons_leaves_nothing(rag: Any) -> None:
    user = rag.user()
    stored = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 65_536
        stored.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(rag.upload(user, "endless.txt", endless()))
    await stored.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    await eventually(lambda: rag.blobs() == [], what="no blob left")
    assert await rag.rows(user.tenant_id, "SELECT id FROM documents") == []


async def test_same_file_again_is_the_same_document_and_changed_file_its_next_version(rag: Any) -> None:
    user = rag.user()
    first = await rag.index(user, "price.txt", b"The ticket to Marrowby costs 12 crowns.")
    again = await rag.upload(user, "price.txt", b"The ticket to Marrowby costs 12 crowns.")
    assert (again.id, again.version, len(rag.blobs())) == (first.id, 1, 1)
    (old,) = await rag.retrieve(user, "ticket to Marrowby")
    (citation,) = await rag.verify(
        user, rag_pb2.Span(document_id=old.document_id, version=1, start=old.start, end=old.end, quote="costs 12 crowns")
    )
    second = await rag.index(user, "price.txt", b"The ticket to Marrowby costs 19 crowns.")
    assert (second.id, second.version, second.state) == (first.id, 2, INDEXED)
    (new,) = await rag.retrieve(user, "ticket to Marrowby")
    assert (new.version, new.text) == (2, "The ticket to Marrowby costs 19 crowns.")
    resolved = await rag.resolve(user, citation.citation_id)
    assert (resolved.version, resolved.text) == (1, "The ticket to Marrowby costs 12 crowns.")


async def test_other_tenants_see_nothing_of_a_document(rag: Any) -> None:
    owner, stranger = rag.user(), rag.user()
    marker = "zanzibarquux"
    document = await rag.index(owner, "secret.txt", f"The marker {marker} is planted here.".encode())
    await rag.index(stranger, "own.txt", b"Something else entirely.")
    (passage,) = await rag.retrieve(owner, marker)
    span = rag_pb2.Span(document_id=document.id, version=1, start=passage.start, end=passage.end, quote=marker)
    (own,) = await rag.verify(owner, span)
    assert own.verified
    assert all(marker not in found.text for found in await rag.retrieve(stranger, f"the marker {marker}", top_k=50))
    assert [citation.verified for citation in await rag.verify(stranger, span)] == [False]
    for attempt in (rag.resolve(stranger, own.citation_id), rag.get(stranger, document.id), rag.delete(stranger, document.id)):
        with pytest.raises(WireroomError) as hidden:
            await attempt
        assert hidden.value.kind is ErrorKind.NOT_FOUND
    for table in ("documents", "document_versions", "chunks", "posting_blocks", "indexed_stems", "index_statistics"):
        tenants = await rag.rows(stranger.tenant_id, f"SELECT DISTINCT tenant_id FROM {table}")  # noqa: S608  names of this test
        assert [row.tenant_id for row in tenants] == [stranger.tenant_id]


async def test_permissions_decide_what_is_searched(rag: Any) -> None:
    owner = rag.user()
    await rag.index(owner, "doc.txt", b"The kingfisher is blue.")
    news_reader = rag.user(tenant_id=owner.tenant_id, permissions=frozenset({"news:read"}))
    nobody = rag.user(tenant_id=owner.tenant_id, permissions=frozenset())
    assert await rag.retrieve(news_reader, "kingfisher") == []
    for attempt in (
        rag.retrieve(nobody, "kingfisher"),
        rag.retrieve(news_reader, "kingfisher", kinds=[rag_pb2.SOURCE_KIND_DOCUMENT]),
        rag.upload(news_reader, "x.txt", b"x"),
    ):
        with pytest.raises(WireroomError) as refused:
            await attempt
        assert refused.value.kind is ErrorKind.FORBIDDEN
    colleague = rag.user(tenant_id=owner.tenant_id, permissions=frozenset({"docs:read"}))
    assert len(await rag.retrieve(colleague, "kingfisher")) == 1


async def test_deleted_document_is_gone_everywhere(rag: Any) -> None:
    owner = rag.user()
    document = await rag.index(owner, "gone.txt", b"The heron leaves at dawn.")
    colleague = rag.user(tenant_id=owner.tenant_id)
    with pytest.raises(WireroomError) as refused:
        await rag.delete(colleague, document.id)
    assert refused.value.code == "document_not_owned"
    permissions = colleague.permissions | {"collections:manage"}
    await rag.delete(rag.user(tenant_id=owner.tenant_id, permissions=permissions), document.id)
    assert await rag.retrieve(owner, "heron") == []
    assert rag.blobs() == []
    for table in ("documents", "document_versions", "chunks", "posting_blocks", "indexed_stems"):
        assert await rag.rows(owner.tenant_id, f"SELECT 1 FROM {table}") == []  # noqa: S608  names of this test
    assert (await rag.rows(owner.tenant_id, "SELECT chunks, terms FROM index_statistics")) == [(0, 0)]
    assert (await rag.events())[-2:] == ["rag.document.deleted", "audit.recorded"]
    with pytest.raises(WireroomError) as missing:
        await rag.get(owner, document.id)
    assert missing.value.kind is ErrorKind.NOT_FOUND


async def test_list_is_paged_newest_first(rag: Any) -> None:
    user = rag.user()
    for number in range(5):
        await rag.upload(user, f"{number}.txt", f"Document number {number}".encode())
    set_current_principal(user.principal())
    names: list[str] = []
    token = ""
    for _ in range(3):
        page = await rag.documents.ListDocuments(rag_pb2.ListDocumentsRequest(page_size=2, page_token=token))
        names += [document.name for document in page.documents]
        token = page.next_page_token
    assert (names, token) == (["4.txt", "3.txt", "2.txt", "1.txt", "0.txt"], "")
    with pytest.raises(WireroomError) as malformed:
        await rag.documents.ListDocuments(rag_pb2.ListDocumentsRequest(page_token="nonsense"))
    assert malformed.value.code == "page_token_malformed"
