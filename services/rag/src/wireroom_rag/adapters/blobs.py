"""Blob storage through obstore; today a folder, by the same interface S3, GCS or Azure."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.store import LocalStore, ObjectStore

from wireroom_common.clock import Clock

_PART = 1 << 20
_LISTED = 500


class ObjectBlobs:
    """Implements `BlobStore`."""

    def __init__(self, store: ObjectStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    @classmethod
    def in_folder(cls, folder: Path, clock: Clock) -> ObjectBlobs:
        """A store in a folder of the file system; blobs appear whole or not at all."""
        return cls(LocalStore(folder, mkdir=True), clock)

    async def write(self, key: str, data: AsyncIterator[bytes]) -> None:
        # Leaving the block by an exception abandons the staged parts.
        async with obstore.open_writer_async(self._store, key, buffer_size=_PART) as writer:
            async for block in data:
                await writer.write(block)

    async def read(self, key: str) -> AsyncIterator[bytes]:
        found = await obstore.get_async(self._store, key)
        async for block in found.stream(min_chunk_size=_PART):
            yield bytes(block)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._store, key)

    async def older_than(self, age: timedelta) -> AsyncIterator[list[str]]:
        before = self._clock.now() - age
        async for listed in obstore.list(self._store, chunk_size=_LISTED):
            yield [entry["path"] for entry in listed if entry["last_modified"] < before]
