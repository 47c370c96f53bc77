"""Take a file in: streamed to blob storage, measured, recognised, registered."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import unicodedata
from collections.abc import AsyncIterator
from pathlib import PurePath
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError, invalid
from wireroom_common.ids import new_id
from wireroom_rag.domain.document import Document, Placement, StoredFile
from wireroom_rag.domain.scope import Scope
from wireroom_rag.extraction.media_types import HEAD_BYTES, may_shrink, media_type_of
from wireroom_rag.ports.documents import COMPRESSED, BlobStore, DocumentStore

_LONGEST_NAME = 255
# Larger pieces are hashed in a thread; for small ones the switch costs more than the hash.
_HASH_INLINE = 64 * 1024
# Tells whether it is text; archives and PDFs show themselves earlier.
_PEEK = 1024


class _Intake:
    """Counts, hashes and remembers the beginning of a stream on its way to storage."""

    def __init__(self, source: AsyncIterator[bytes], max_bytes: int) -> None:
        self._source = aiter(source)
        self._peeked = bytearray()
        self._max_bytes = max_bytes
        self._digest = hashlib.sha256()
        self.size = 0
        self.head = b""

    async def begin(self) -> bytes:
        """The beginning of the stream; it is read again with the rest."""
        while len(self._peeked) < _PEEK and (block := await anext(self._source, None)) is not None:
            self._peeked += block
        return bytes(self._peeked)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for block in self._blocks():
            self.size += len(block)
            if self.size > self._max_bytes:
                raise WireroomError(
                    ErrorKind.TOO_LARGE,
                    "document_too_large",
                    f"The file is larger than {self._max_bytes} bytes, the most that is accepted. Split it.",
                )
            if len(self.head) < HEAD_BYTES:
                self.head += block[: HEAD_BYTES - len(self.head)]
            if len(block) > _HASH_INLINE:
                await asyncio.to_thread(self._digest.update, block)
            else:
                self._digest.update(block)
            yield block

    async def _blocks(self) -> AsyncIterator[bytes]:
        if self._peeked:
            yield bytes(self._peeked)
            self._peeked.clear()
        async for block in self._source:
            yield block

    def sha256(self) -> str:
        return self._digest.hexdigest()


class UploadDocument:
    """Returns the registered document; processing starts in the background."""

    def __init__(self, documents: DocumentStore, blobs: BlobStore, *, max_bytes: int) -> None:
        self._documents = documents
        self._blobs = blobs
        self._max_bytes = max_bytes

    async def __call__(
        self, scope: Scope, filename: str, data: AsyncIterator[bytes], placement: Placement | None = None
    ) -> Document:
        """Errors, which leave nothing behind: `document_{name_invalid,empty,too_large}` and those of `media_type_of`."""
        name = file_name(filename)
        intake = _Intake(data, self._max_bytes)
        shrinks = await asyncio.to_thread(may_shrink, (await intake.begin())[:HEAD_BYTES])
        key = _new_key(scope.tenant_id, shrinks=shrinks)
        used = False
        try:
            await self._blobs.write(key, aiter(intake))
            if intake.size == 0:
                raise invalid("document_empty", "The file is empty.", field="file")
            media_type = await asyncio.to_thread(media_type_of, name, intake.head, functools.partial(self._blobs.open, key))
            file = StoredFile(name=name, media_type=media_type, size=intake.size, sha256=intake.sha256(), blob_key=key)
            document, used = await self._documents.register(scope, file, placement)
            return document
        finally:
            if not used:
                # Also when the caller left: the deletion is finished whatever becomes of this task.
                await asyncio.shield(self._blobs.delete([key]))


def _new_key(tenant_id: UUID, *, shrinks: bool) -> str:
    """Files of about three days share a folder, which the beginning of an id tells: no folder has more of them than can be listed."""
    name = new_id()
    return f"{tenant_id}/{name.hex[:5]}/{name}{COMPRESSED if shrinks else ''}"


def file_name(filename: str) -> str:
    """The bare, composed name of a file; INVALID when there is none or it cannot be shown."""
    name = unicodedata.normalize("NFC", PurePath(filename.replace("\\", "/")).name).strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable() or name in {".", ".."}:
        raise invalid(
            "document_name_invalid", f"A file name of 1 to {_LONGEST_NAME} printable characters is needed.", field="filename"
        )
    return name
