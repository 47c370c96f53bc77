"""Blob storage through obstore: a folder, or a bucket of an S3-compatible server."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import obstore
import zstandard
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, S3Store

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, OperatorError, WireroomError
from wireroom_rag.ports.documents import COMPRESSED

if TYPE_CHECKING:
    from obstore import BytesStream
    from obstore.store import S3Config

# Text shrinks to a third at this level, faster than it comes over the network.
_LEVEL = 3
# So much is compressed by itself: a file of one repeated character must not unpack to all of it at once.
_FRAME = 1 << 20
_PART = 1 << 20
# S3 takes no smaller parts but the last.
_S3_PART = 5 << 20
# How obstore calls a file in a folder while it is written.
_UNFINISHED = re.compile(r"#\d+$")


@dataclass(frozen=True)
class BucketAccess:
    """How to reach a bucket. Without keys: those of the environment or the machine."""

    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""
    timeout: float = 30.0


class ObjectBlobs:
    """Implements `BlobStore`. UNAVAILABLE `storage_unavailable` when the store does not answer or refuses."""

    def __init__(self, store: ObjectStore, clock: Clock, *, part: int = _PART, folder: Path | None = None) -> None:
        self._store = store
        self._clock = clock
        self._part = part
        self._folder = folder

    @classmethod
    def in_folder(cls, folder: Path, clock: Clock) -> ObjectBlobs:
        """A store in a folder of the file system; blobs appear whole or not at all."""
        try:
            return cls(LocalStore(folder, mkdir=True), clock, folder=folder)
        except (BaseError, OSError) as error:
            raise OperatorError(
                f"The folder for files, '{folder}' (see WIREROOM_RAG_BLOBS), cannot be used: {_short(error)}"
            ) from None

    @classmethod
    def at(cls, url: str, default: Path, clock: Clock, access: BucketAccess) -> ObjectBlobs:
        """The store that `url` names: `s3://bucket/prefix`, `file:///folder`, or empty for the folder `default`."""
        parts = urlsplit(url)
        if not url:
            return cls.in_folder(default, clock)
        if parts.scheme == "file" and parts.path:
            return cls.in_folder(Path(unquote(parts.path)), clock)
        if parts.scheme == "s3" and parts.netloc:
            try:
                return cls(bucket(url, access), clock, part=_S3_PART)
            except (BaseError, ValueError) as error:
                raise OperatorError(f"WIREROOM_RAG_BLOBS is '{url}', which cannot be used: {_short(error)}") from None
        raise OperatorError(f"WIREROOM_RAG_BLOBS is '{url}', but must be empty, file:///folder or s3://bucket/prefix.")

    async def write(self, key: str, data: AsyncIterator[bytes]) -> None:
        with _translated():
            # Leaving the block by an exception abandons the staged parts.
            async with obstore.open_writer_async(self._store, key, buffer_size=self._part) as writer:
                async for block in _compressed(data) if key.endswith(COMPRESSED) else data:
                    await writer.write(block)

    async def read(self, key: str) -> AsyncIterator[bytes]:
        with _translated():
            found = await obstore.get_async(self._store, key)
            blocks = found.stream(min_chunk_size=_PART)
            async for block in _unpacked(blocks) if key.endswith(COMPRESSED) else blocks:
                yield bytes(block)

    def open(self, key: str) -> BinaryIO:
        if self._folder is not None:
            return (self._folder / key).open("rb")
        # Without a name in the file system: nothing is left of it, however this process ends.
        file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        try:
            with _translated():
                for block in obstore.get(self._store, key).stream(min_chunk_size=_PART):
                    file.write(block)
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return cast("BinaryIO", file)

    async def move(self, key: str, to: str) -> None:
        with _translated():
            await obstore.rename_async(self._store, key, to)

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with contextlib.suppress(FileNotFoundError), _translated():
                if self._folder is not None and _UNFINISHED.search(key):
                    # The library does not show these.
                    await asyncio.to_thread((self._folder / key).unlink)
                else:
                    await obstore.delete_async(self._store, key)

    async def older_than(self, age: timedelta, *, prefix: str = "", after: str = "", limit: int = 500) -> tuple[list[str], str]:
        before = self._clock.now() - age
        if self._folder is not None:
            found = await asyncio.to_thread(_next_files, self._folder, prefix, after, limit)
        else:
            found = await self._listed(prefix, after, limit)
        position = found[-1][0] if len(found) == limit else ""
        return [key for key, modified in found if modified < before], position

    async def _listed(self, prefix: str, after: str, limit: int) -> list[tuple[str, datetime]]:
        found: list[tuple[str, datetime]] = []
        with _translated():
            async for listed in obstore.list(self._store, prefix.rstrip("/") or None, offset=after or None, chunk_size=limit):
                found += [(entry["path"], entry["last_modified"]) for entry in listed]
                if len(found) >= limit:
                    break
        return found[:limit]


def bucket(url: str, access: BucketAccess) -> S3Store:
    """The bucket and prefix of an `s3://` address."""
    timeout = timedelta(seconds=access.timeout)
    config: S3Config = {}
    if access.endpoint:
        config["endpoint"] = access.endpoint
    if access.region:
        config["region"] = access.region
    if access.access_key:
        config["access_key_id"], config["secret_access_key"] = access.access_key, access.secret_key
    return S3Store.from_url(
        url,
        config=config,
        client_options={"allow_http": access.endpoint.startswith("http://"), "timeout": timeout, "connect_timeout": timeout / 3},
        retry_config={"max_retries": 2, "retry_timeout": timeout},
    )


async def _compressed(data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    pack, filled = zstandard.ZstdCompressor(level=_LEVEL).compressobj(), 0
    async for block in data:
        for start in range(0, len(block), _FRAME):
            part = block[start : start + _FRAME]
            packed = await asyncio.to_thread(pack.compress, part)
            filled += len(part)
            if filled >= _FRAME:
                packed += pack.flush()
                pack, filled = zstandard.ZstdCompressor(level=_LEVEL).compressobj(), 0
            if packed:
                yield packed
    yield pack.flush()


async def _unpacked(blocks: BytesStream) -> AsyncIterator[bytes]:
    unpack = zstandard.ZstdDecompressor().decompressobj()
    async for block in blocks:
        left = bytes(block)
        while left:
            data = await asyncio.to_thread(unpack.decompress, left)
            left = unpack.unused_data if unpack.eof else b""
            if unpack.eof:
                unpack = zstandard.ZstdDecompressor().decompressobj()
            if data:
                yield data


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except BaseError as error:
        raise _away() from error


def _short(error: Exception) -> str:
    """The first line of what the library says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]


def _away() -> WireroomError:
    return WireroomError(
        ErrorKind.UNAVAILABLE, "storage_unavailable", "The storage of files does not answer; try again shortly.", retry_after=5
    )


def _next_files(folder: Path, prefix: str, after: str, limit: int) -> list[tuple[str, datetime]]:
    """Files in the order of their paths' parts, so that only folders that are not yet behind `after` are read."""
    names = [name for name in prefix.split("/") if name]
    behind = after.split("/")[len(names) :] if after else []
    files = itertools.islice(_files(folder.joinpath(*names), "".join(f"{name}/" for name in names), behind), limit)
    return list(files)


def _files(folder: Path, prefix: str, behind: Sequence[str]) -> Iterator[tuple[str, datetime]]:
    try:
        with os.scandir(folder) as entries:
            names = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except FileNotFoundError:
        return
    first = behind[0] if behind else ""
    for name, is_folder in names:
        if name < first or (name == first and not is_folder):
            continue
        if is_folder:
            yield from _files(folder / name, f"{prefix}{name}/", behind[1:] if name == first else ())
        else:
            # It may have been deleted meanwhile.
            with contextlib.suppress(FileNotFoundError):
                yield f"{prefix}{name}", datetime.fromtimestamp((folder / name).stat().st_mtime, UTC)
