from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from rag_files import zipped
from rag_servers import EICAR, Clamd, free_port

from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, OperatorError, WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.rag.v1 import processing_pb2, rag_pb2
from wireroom_rag.adapters.blobs import ObjectBlobs
from wireroom_rag.adapters.clamd import ClamdScanner
from wireroom_rag.adapters.file_upkeep_sql import FileUpkeep
from wireroom_rag.domain.document import RejectedError
from wireroom_rag.usecases.overdue import SweepQuarantine

INDEXED, REJECTED = rag_pb2.DOCUMENT_STATE_INDEXED, rag_pb2.DOCUMENT_STATE_REJECTED


@pytest.fixture(scope="module")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    server = Clamd(tmp_path_factory.mktemp("clamd"))
    server.start()
    yield server
    server.stop()


async def once(*data: bytes) -> Any:
    for part in data:
        yield part


@pytest.mark.parametrize("through", ["address", "socket"])
async def test_scanner_names_what_it_finds_whatever_it_is_packed_in(clamd: Clamd, through: str) -> None:
    scanner = ClamdScanner(getattr(clamd, through), timeout=20)
    assert await scanner.scan(once(b"harmless", b"")) == ""
    assert await scanner.scan(once(EICAR[:30], EICAR[30:])) == "Eicar-Test-Signature.UNOFFICIAL"
    assert "Eicar" in await scanner.scan(once(zipped({"word/document.xml": EICAR})))


async def test_file_above_the_scanners_limit_is_refused_by_name(clamd: Clamd) -> None:
    with pytest.raises(RejectedError, match="document_too_large_to_scan"):
        await ClamdScanner(clamd.address, timeout=20).scan(once(*[b"x" * 100_000] * 30))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "/nowhere/clamd.sock"])
async def test_scanner_that_is_away_is_unavailable(address: str) -> None:
    with pytest.raises(WireroomError) as away:
        await ClamdScanner(address, timeout=2).scan(once(b"x"))
    assert (away.value.kind, away.value.code) == (ErrorKind.UNAVAILABLE, "scanner_unavailable")


def test_address_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(OperatorError, match="WIREROOM_RAG_CLAMD"):
        ClamdScanner("clamd", timeout=1)


async def test_file_with_malware_is_rejected_quarantined_and_never_given_out(start_rag: Any, clamd: Clamd) -> None:
    rag = await start_rag(clamd=clamd.address)
    user = rag.user()
    clean = await rag.index(user, "clean.txt", b"The lark sings at four.")
    infected = await rag.index(user, "letter.txt", EICAR)
    assert (clean.state, infected.state, infected.reason_code) == (INDEXED, REJECTED, "malware_found")
    assert "Eicar-Test-Signature" in infected.reason
    held = [path for path in rag.blobs() if "quarantine" in path.parts]
    assert len(held) == 1
    events = await rag.events()
    assert events[-2:] == ["rag.document.rejected", "audit.recorded"]
    with pytest.raises(WireroomError) as refused:
        async for _ in rag.documents.GetContent(rag_pb2.GetContentRequest(id=infected.id)):
            pass
    assert refused.value.code == "document_quarantined"
    with pytest.raises(WireroomError) as kept:
        await rag.processing.RetryDocument(processing_pb2.RetryDocumentRequest(id=infected.id))
    assert kept.value.code == "document_quarantined"
    again = await rag.upload(user, "letter.txt", EICAR)
    assert (again.state, len(rag.blobs())) == (REJECTED, 2)
    blobs = ObjectBlobs.in_folder(rag.folder / "rag" / "blobs", SystemClock())
    positions = FileUpkeep(rag.database)
    assert await SweepQuarantine(blobs, positions, keep=timedelta(days=1))() == 0
    assert await SweepQuarantine(blobs, positions, keep=timedelta(seconds=-60))() == 1
    assert not held[0].exists()
    assert len(rag.blobs()) == 1


async def test_documents_wait_for_a_scanner_that_is_away(start_rag: Any, clamd: Clamd, tmp_path: Any) -> None:
    port = free_port()
    rag = await start_rag(clamd=f"127.0.0.1:{port}")
    user = rag.user()
    document = await rag.upload(user, "patient.txt", b"The owl waits for the moon.")

    async def postponed() -> bool:
        rows = await rag.rows(
            user.tenant_id, "SELECT 1 FROM document_versions WHERE next_attempt_at > now() + interval '2 s' AND attempts = 0"
        )
        return bool(rows)

    await eventually(postponed, what="a postponed job")
    set_current_principal(user.principal())
    assert (await rag.get(user, document.id)).state == rag_pb2.DOCUMENT_STATE_RECEIVED
    folder = tmp_path / "late"
    folder.mkdir()
    late = Clamd(folder, port=port)
    late.start()
    try:
        assert (await rag.processed(user, document.id)).state == INDEXED
    finally:
        late.stop()
