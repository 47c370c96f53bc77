"""One suite over a folder and a bucket."""

from __future__ import annotations

import asyncio
import os
import zipfile
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rag_files import word, zipped
from rag_servers import ObjectServer

from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, OperatorError, WireroomError
from wireroom_rag.adapters.blobs import BucketAccess, ObjectBlobs

NOW = timedelta(seconds=-60)


@pytest.fixture(scope="module")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    server = ObjectServer(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


def access(server: ObjectServer) -> BucketAccess:
    return BucketAccess(server.endpoint, "us-east-1", server.access_key, server.secret_key, 5.0)


@pytest.fixture(params=["folder", "bucket"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectBlobs:
    clock = SystemClock()
    if request.param == "folder":
        return ObjectBlobs.at(f"file://{tmp_path}/a%20folder", tmp_path, clock, BucketAccess())
    server: ObjectServer = request.getfixturevalue("object_server")
    return ObjectBlobs.at(f"s3://{server.bucket}/{tmp_path.name}", tmp_path, clock, access(server))


async def parts(*data: bytes) -> AsyncIterator[bytes]:
    for part in data:
        yield part


async def content(blobs: ObjectBlobs, key: str) -> bytes:
    return b"".join([block async for block in blobs.read(key)])


async def keys(blobs: ObjectBlobs) -> list[str]:
    return sorted((await blobs.older_than(NOW))[0])


async def test_blobs_are_written_in_parts_read_moved_and_deleted(blobs: ObjectBlobs) -> None:
    large = [os.urandom(1 << 20) for _ in range(12)]
    await blobs.write("t/large", parts(*large))
    await blobs.write("t/small", parts(b"a", b"bc"))
    assert await content(blobs, "t/large") == b"".join(large)
    await blobs.move("t/small", "quarantine/t/small")
    assert await content(blobs, "quarantine/t/small") == b"abc"
    assert await keys(blobs) == ["quarantine/t/small", "t/large"]
    assert await blobs.older_than(timedelta(hours=1)) == ([], "")
    await blobs.delete(["t/large", "quarantine/t/small", "t/never-there"])
    assert await keys(blobs) == []
    for missing in (content(blobs, "t/large"), blobs.move("t/large", "t/other")):
        with pytest.raises(FileNotFoundError):
            await missing


async def test_text_is_compressed_where_it_is_kept_and_nowhere_else(blobs: ObjectBlobs, tmp_path: Path) -> None:
    text = b"The same line again and again.\n" * 20_000
    await blobs.write("t/text.zst", parts(text[:300_000], text[300_000:]))
    await blobs.write("t/empty.zst", parts())
    assert await content(blobs, "t/text.zst") == text
    assert await content(blobs, "t/empty.zst") == b""
    assert b"".join([block async for block in blobs.read("t/text.zst")]) == text
    await blobs.move("t/text.zst", "t/raw")
    assert len(await content(blobs, "t/raw")) < len(text) / 10


async def test_blob_opens_as_a_file_that_readers_of_archives_take(blobs: ObjectBlobs) -> None:
    filler = zipfile.ZIP_STORED
    await blobs.write("t/small", parts(word()))
    await blobs.write("t/large", parts(zipped({"big": os.urandom(3 << 20), "word/document.xml": b"<x/>"}, compression=filler)))

    def names(key: str) -> list[str]:
        with blobs.open(key) as file, zipfile.ZipFile(file) as archive:
            return archive.namelist()

    for key in ("t/small", "t/large"):
        assert "word/document.xml" in await asyncio.to_thread(names, key)
    with pytest.raises(FileNotFoundError):
        await asyncio.to_thread(blobs.open, "t/none")


async def test_upload_that_breaks_off_leaves_no_blob(blobs: ObjectBlobs) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (6 << 20)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.write("t/broken", broken())
    assert await keys(blobs) == []


async def test_blobs_are_listed_in_parts_each_of_them_once(blobs: ObjectBlobs) -> None:
    written = {f"{tenant}/{part}/{number}" for tenant in ("a", "a-b", "quarantine") for part in "xy" for number in range(3)}
    written |= {"a/flat", "single"}
    for key in written:
        await blobs.write(key, parts(b"x"))
    for prefix in ("", "quarantine/"):
        found, position, rounds = list[str](), "", 0
        while position or not rounds:
            some, position = await blobs.older_than(NOW, prefix=prefix, after=position, limit=4)
            assert len(some) <= 4
            found += some
            rounds += 1
            if rounds == 1:
                # What is gone meanwhile is no matter.
                await blobs.delete([some[-1]])
                written.discard(gone := some[-1])
        assert sorted(found) == sorted({key for key in written if key.startswith(prefix)} | {gone})
    assert await blobs.older_than(NOW, prefix="nowhere/") == ([], "")


async def test_what_a_killed_upload_left_in_a_folder_is_found_by_age_and_deleted(tmp_path: Path) -> None:
    blobs = ObjectBlobs.in_folder(tmp_path, SystemClock())
    await blobs.write("t/whole", parts(b"x"))
    for name in ("left#1", "young#2"):
        (tmp_path / "t" / name).write_bytes(b"half")
    os.utime(tmp_path / "t" / "left#1", (0, 0))
    found, _ = await blobs.older_than(timedelta(hours=1))
    assert found == ["t/left#1"]
    await blobs.delete(found)
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == ["whole", "young#2"]


async def test_bucket_that_does_not_answer_is_unavailable(object_server: ObjectServer, tmp_path: Path) -> None:
    wrong = BucketAccess(object_server.endpoint, "us-east-1", "nobody", "wrong", 2.0)
    away = BucketAccess("http://127.0.0.1:9", "us-east-1", "a", "b", 1.0)
    for given in (wrong, away):
        blobs = ObjectBlobs.at(f"s3://{object_server.bucket}", tmp_path, SystemClock(), given)
        with pytest.raises(WireroomError) as refused:
            await content(blobs, "t/any")
        assert (refused.value.kind, refused.value.code) == (ErrorKind.UNAVAILABLE, "storage_unavailable")


def test_address_of_an_unknown_kind_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="WIREROOM_RAG_BLOBS"):
        ObjectBlobs.at("ftp://files", tmp_path, SystemClock(), BucketAccess())


async def test_documents_live_in_a_bucket_from_upload_to_deletion(start_rag: Any, object_server: ObjectServer) -> None:
    rag = await start_rag(
        blobs=f"s3://{object_server.bucket}/whole",
        blobs_endpoint=object_server.endpoint,
        blobs_access_key=object_server.access_key,
        blobs_secret_key=object_server.secret_key,
    )
    user = rag.user()
    text = await rag.index(user, "note.txt", b"The beacon of Tarn is lit at dusk. " * 50)
    document = await rag.index(user, "report.docx", word())
    assert [entry.state for entry in (text, document)] == [5, 5]
    assert (await rag.retrieve(user, "rye bakery"))[0].title == "report.docx"
    kept = sorted(path.suffix for path in (object_server.folder / object_server.bucket / "whole").rglob("*") if path.is_file())
    assert kept == ["", ".zst"]
    for entry in (text, document):
        await rag.delete(user, entry.id)
    assert not [path for path in (object_server.folder / object_server.bucket / "whole").rglob("*") if path.is_file()]
