"""One's own data as a ZIP archive of JSON Lines and files, written while it is read: nothing of it is held here."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from fastapi import Response
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from starlette.responses import StreamingResponse

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_gateway.routes.answering import pieces_of
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.services import Services
from wireroom_protos.auth.v1 import auth_pb2, privacy_pb2
from wireroom_protos.chat.v1 import privacy_pb2 as chat_privacy_pb2
from wireroom_protos.rag.v1 import privacy_pb2 as rag_privacy_pb2
from wireroom_protos.rag.v1 import rag_pb2

EXPORT: dict[int | str, dict[str, Any]] = {
    **problem_responses(404, 409),
    200: {
        "description": "A ZIP archive; `complete.json` is its last member",
        "content": {"application/zip": {}},
        "headers": {"content-disposition": {"schema": {"type": "string"}}},
    },
}
_PAGE = 200
_log = get_logger(__name__)


class _Archive:
    """Writes members one after the other; `taken` gives what was written since."""

    def __init__(self) -> None:
        self._buffer = _Pipe()
        self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_DEFLATED)
        self._member: Any = None

    def begin(self, name: str) -> None:
        self.end()
        # Originals and lists alike may grow beyond what a header without ZIP64 can say.
        self._member = self._zip.open(name, "w", force_zip64=True)

    def write(self, data: bytes) -> bytes:
        self._member.write(data)
        return self._buffer.taken()

    def end(self) -> None:
        if self._member is not None:
            self._member.close()
            self._member = None

    def finish(self) -> bytes:
        self.end()
        self._zip.close()
        return self._buffer.taken()


class _Pipe(io.RawIOBase):
    """What a ZIP file is written to; it cannot be sought, so that sizes follow the members."""

    def __init__(self) -> None:
        self._data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._data += data
        return len(data)

    def taken(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


@dataclass
class _Told:
    """What is in the archive so far. `originals`: ids and names of documents that may have one."""

    counts: dict[str, int] = field(default_factory=dict)
    originals: list[tuple[str, str]] = field(default_factory=list)
    given: int = 0
    missing: list[str] = field(default_factory=list)

    def count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1


class Exporter:
    """`timeout` of single calls, `stream_timeout` of each list and each original, in seconds."""

    def __init__(self, services: Services, *, timeout: float, stream_timeout: float) -> None:
        self._services = services
        self._timeout = timeout
        self._stream_timeout = stream_timeout

    async def start(self) -> Response:
        """The archive as it is made; a refusal is raised before it begins."""
        started = await self._services.privacy.StartExport(privacy_pb2.StartExportRequest(), timeout=self._timeout)
        headers = {"content-disposition": 'attachment; filename="wireroom-export.zip"', "cache-control": "no-store"}
        return StreamingResponse(self._body(started.user), media_type="application/zip", headers=headers)

    async def _body(self, user: auth_pb2.User) -> AsyncGenerator[bytes, None]:
        archive, told = _Archive(), _Told()
        parts = (self._account(archive, told, user), self._streamed(archive, told), self._originals(archive, told))
        for part in parts:
            async with aclosing(part):
                async for piece in part:
                    if piece:
                        yield piece
        archive.begin("complete.json")
        complete = {"counts": told.counts, "originals": told.given, "missing": told.missing}
        yield archive.write(json.dumps(complete).encode()) + archive.finish()

    async def _account(self, archive: _Archive, told: _Told, user: auth_pb2.User) -> AsyncGenerator[bytes, None]:
        lists = (
            ("profile", self._profile(user)),
            ("api_keys", self._api_keys()),
            ("logins", self._logins()),
            ("audit", self._audit()),
        )
        for name, lines in lists:
            archive.begin(f"{name}.jsonl")
            try:
                async with aclosing(lines):
                    async for line in lines:
                        told.count(name)
                        yield archive.write(line)
            except WireroomError as error:
                # A role without the right to a list of its own gets the rest, and the archive says what it lacks.
                if error.kind is not ErrorKind.FORBIDDEN:
                    raise
                told.missing.append(name)

    async def _streamed(self, archive: _Archive, told: _Told) -> AsyncGenerator[bytes, None]:
        """Lists that follow each other in the stream of a service."""
        current = ""
        texts, documents = self._texts(), self._documents()
        async with aclosing(texts):
            async for text in texts:
                if text.list != current:
                    current = text.list
                    archive.begin(f"{current}.jsonl")
                if not text.more:
                    told.count(current)
                yield await asyncio.to_thread(archive.write, text.json if text.more else text.json + b"\n")
        async with aclosing(documents):
            async for entry in documents:
                if entry.list != current:
                    current = entry.list
                    archive.begin(f"{current}.jsonl")
                told.count(current)
                if entry.document_id:
                    told.originals.append((entry.document_id, entry.name))
                yield await asyncio.to_thread(archive.write, entry.json + b"\n")

    async def _originals(self, archive: _Archive, told: _Told) -> AsyncGenerator[bytes, None]:
        for document_id, name in told.originals:
            try:
                content = self._original(document_id)
                async with aclosing(content):
                    archive.begin(f"originals/{document_id}/{PurePath(name).name or 'file'}")
                    async for data in content:
                        yield await asyncio.to_thread(archive.write, data)
                told.given += 1
            except WireroomError as error:
                if error.kind is ErrorKind.UNAVAILABLE:
                    # The others would only be waited for one by one: the archive ends here, without its last member.
                    raise
                # Deleted or rejected meanwhile: the rest is given all the same, and the archive says so.
                _log.info("original_not_exported", document_id=document_id, code=error.code)
                told.missing.append(document_id)

    async def _profile(self, user: auth_pb2.User) -> AsyncGenerator[bytes, None]:
        yield _line(user)

    async def _api_keys(self) -> AsyncGenerator[bytes, None]:
        token: str | None = ""
        while token is not None:
            request = auth_pb2.ListKeysRequest(page_size=_PAGE, page_token=token)
            page = await self._services.api_keys.ListKeys(request, timeout=self._timeout)
            for key in page.keys:
                yield _line(key)
            token = page.next_page_token or None

    async def _logins(self) -> AsyncGenerator[bytes, None]:
        token: str | None = ""
        while token is not None:
            request = auth_pb2.ListSessionsRequest(page_size=_PAGE, page_token=token)
            page = await self._services.auth.ListSessions(request, timeout=self._timeout)
            for session in page.sessions:
                yield _line(session)
            token = page.next_page_token or None

    async def _audit(self) -> AsyncGenerator[bytes, None]:
        after = 0
        while True:
            request = privacy_pb2.ListOwnAuditRequest(after=after, page_size=_PAGE)
            page = await self._services.privacy.ListOwnAudit(request, timeout=self._timeout)
            for record in page.records:
                yield _line(record)
            if not page.records:
                return
            after = page.next_after

    def _texts(self) -> AsyncGenerator[chat_privacy_pb2.ExportTextsResponse, None]:
        call = self._services.text_export.ExportTexts(chat_privacy_pb2.ExportTextsRequest(), timeout=self._stream_timeout)
        return pieces_of(call)

    def _documents(self) -> AsyncGenerator[rag_privacy_pb2.ExportDocumentsResponse, None]:
        request = rag_privacy_pb2.ExportDocumentsRequest()
        return pieces_of(self._services.document_export.ExportDocuments(request, timeout=self._stream_timeout))

    async def _original(self, document_id: str) -> AsyncGenerator[bytes, None]:
        request = rag_pb2.GetContentRequest(id=document_id)
        pieces = pieces_of(self._services.documents.GetContent(request, timeout=self._stream_timeout))
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.data:
                    yield piece.data


def _line(message: Message) -> bytes:
    text = json.dumps(MessageToDict(message, preserving_proto_field_name=True), ensure_ascii=False)
    return text.encode() + b"\n"
