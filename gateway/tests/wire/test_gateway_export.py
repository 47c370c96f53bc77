"""`POST /api/v1/privacy/export`: the archive says what it lacks, and one that was cut off shows it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from gateway_rig import Rig

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.chat.v1 import privacy_pb2 as chat_privacy_pb2
from wireroom_protos.rag.v1 import privacy_pb2, rag_pb2

PATH = "/api/v1/privacy/export"
IDS = [str(uuid4()) for _ in range(4)]


def with_documents(rig: Rig, failure: WireroomError) -> None:
    """Four documents, of which the second fails so."""

    async def texts(_request: Any) -> AsyncIterator[chat_privacy_pb2.ExportTextsResponse]:
        for more, part in ((True, b'{"id":'), (False, b'"s1"}')):
            yield chat_privacy_pb2.ExportTextsResponse(list="sessions", json=part, more=more)

    async def documents(_request: Any) -> AsyncIterator[privacy_pb2.ExportDocumentsResponse]:
        for document_id in IDS:
            yield privacy_pb2.ExportDocumentsResponse(list="documents", json=b"{}", document_id=document_id, name="a.txt")

    async def content(request: rag_pb2.GetContentRequest) -> AsyncIterator[rag_pb2.GetContentResponse]:
        if request.id == IDS[1]:
            raise failure
        yield rag_pb2.GetContentResponse(data=b"The heron waits.")

    rig.neighbours.answers.update(ExportTexts=texts, ExportDocuments=documents, GetContent=content)


async def test_an_original_that_is_gone_is_named_and_the_others_are_given(rig: Rig) -> None:
    with_documents(rig, WireroomError(ErrorKind.NOT_FOUND, "document_not_found", "Gone."))
    async with rig.session.post(PATH, headers=rig.bearer("privacy:erase:self")) as reply:
        assert (reply.status, reply.headers["content-type"]) == (200, "application/zip")
        archive = zipfile.ZipFile(io.BytesIO(await reply.read()))
    complete = json.loads(archive.read("complete.json"))
    assert (complete["originals"], complete["missing"]) == (3, [IDS[1]])
    assert archive.read(f"originals/{IDS[3]}/a.txt") == b"The heron waits."
    assert (archive.read("sessions.jsonl"), complete["counts"]["sessions"]) == (b'{"id":"s1"}\n', 1)


async def test_a_service_that_cannot_be_reached_ends_the_archive_and_is_not_asked_for_every_original(rig: Rig) -> None:
    with_documents(rig, WireroomError(ErrorKind.UNAVAILABLE, "rpc_unavailable", "Away."))
    async with rig.session.post(PATH, headers=rig.bearer("privacy:erase:self")) as reply:
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()
    assert len(rig.neighbours.called("GetContent")) == 2
