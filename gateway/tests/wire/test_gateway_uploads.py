from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import aiohttp
import pytest
from gateway_rig import Rig, running

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.rag.v1 import rag_pb2

PATH = "/api/v1/documents"
HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
TAIL = b"\r\n--b--\r\n"
MULTIPART = "multipart/form-data; boundary=b"


class Receiver:
    """Takes an upload and shows how far it is."""

    def __init__(self) -> None:
        self.head = rag_pb2.UploadHead()
        self.data = bytearray()
        self.largest = 0
        self.half = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.completed = False

    async def __call__(self, messages: Any) -> rag_pb2.UploadDocumentResponse:
        try:
            async for message in messages:
                if message.HasField("head"):
                    self.head = message.head
                self.data += message.data
                self.largest = max(self.largest, len(message.data))
                if len(self.data) >= 1_000_000:
                    self.half.set()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        self.completed = True
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(id="d1", name=self.head.filename, size=len(self.data)))


@pytest.fixture
def receiver(rig: Rig) -> Receiver:
    made = Receiver()
    rig.neighbours.answers["UploadDocument"] = made
    return made


def start(rig: Rig, length: int) -> bytes:
    return rig.head(
        "POST", PATH, content_type=MULTIPART, content_length=str(length), connection="close", **rig.bearer("docs:write")
    )


async def test_a_file_arrives_as_it_was_sent(rig: Rig, receiver: Receiver) -> None:
    content = bytes(range(256)) * 8_000
    form = aiohttp.FormData()
    form.add_field("file", io.BytesIO(content), filename="Bericht \u00fc.pdf", content_type="application/pdf")
    async with rig.session.post(PATH, data=form, headers=rig.bearer("docs:write")) as reply:
        assert reply.status == 202
        assert reply.headers["location"] == "/api/v1/documents/d1"
        assert (await reply.json())["size"] == len(content)
    assert bytes(receiver.data) == content
    assert receiver.head.media_type == "application/pdf"
    assert receiver.largest <= 1_000_000


async def test_parts_reach_the_service_while_the_client_still_sends(rig: Rig, receiver: Receiver) -> None:
    half = b"x" * 1_500_000
    reader, writer = await rig.connect()
    writer.write(start(rig, len(HEAD) + 2 * len(half) + len(TAIL)) + HEAD + half)
    async with asyncio.timeout(10):
        await receiver.half.wait()
        assert not receiver.completed
        writer.write(half + TAIL)
        assert (await reader.readline()).startswith(b"HTTP/1.1 202")
    assert len(receiver.data) == 2 * len(half)
    writer.close()


async def test_a_client_that_leaves_cancels_the_upload(rig: Rig, receiver: Receiver) -> None:
    _, writer = await rig.connect()
    writer.write(start(rig, 9_000_000) + HEAD + b"x" * 1_500_000)
    async with asyncio.timeout(10):
        await receiver.half.wait()
        writer.close()
        await receiver.cancelled.wait()
    assert not receiver.completed


PART = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\nabc\r\n'


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"nonsense", 400),
        (HEAD + b"abc", 400),
        (HEAD + b"abc\r\n--b", 400),
        (b"--b--\r\n", 422),
        (PART % (b"file", b"") + b"--b--\r\n", 422),
        (PART % (b"other", b'; filename="a"') + b"--b--\r\n", 422),
        (HEAD + b"abc\r\n" + PART % (b"file", b'; filename="b"') + b"--b--\r\n", 422),
        (b"--b\r\nX: " + b"y" * 20_000, 400),
        (b"--b\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(3_000)) + b"\r\nabc" + TAIL, 400),
    ],
    ids=["empty", "nonsense", "cut off", "cut off in the boundary", "no part", "no file name", "other name", "two files",
         "header too long", "too many headers"],
)  # fmt: skip
async def test_malformed_forms_store_nothing(rig: Rig, receiver: Receiver, body: bytes, status: int) -> None:
    headers = {**rig.bearer("docs:write"), "content-type": MULTIPART}
    async with rig.session.post(PATH, data=body, headers=headers) as reply:
        assert reply.status in (status, 422 if status == 400 and len(body) > 3_000 else status)
        assert (await reply.json(content_type=None))["status"] == reply.status
    assert not receiver.completed


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", "multipart/form-data; boundary=", "text/plain", "multipart/mixed; boundary=b"]
)
async def test_other_content_types_are_415(rig: Rig, receiver: Receiver, content_type: str) -> None:
    headers = {**rig.bearer("docs:write"), "content-type": content_type}
    async with rig.session.post(PATH, data=HEAD + b"abc" + TAIL, headers=headers) as reply:
        assert reply.status == 415
    assert rig.neighbours.called("UploadDocument") == []


async def test_a_file_above_the_limit_is_cut_off_although_the_body_is_within_its_own(work_dir: Any) -> None:
    receiver = Receiver()
    async with running(work_dir, max_upload_bytes=1_000_000, answers={"UploadDocument": receiver}) as rig:
        headers = {**rig.bearer("docs:write"), "content-type": MULTIPART}
        for size, status in ((1_000_000, 202), (1_000_001, 413)):
            receiver.completed = False
            async with rig.session.post(PATH, data=HEAD + b"x" * size + TAIL, headers=headers) as reply:
                assert reply.status == status
                if status == 413:
                    assert (await reply.json(content_type=None))["code"] == "document_too_large"
            assert receiver.completed is (status == 202)


async def test_a_refusal_by_the_service_in_mid_upload_reaches_the_client(rig: Rig) -> None:
    async def refuse(messages: Any) -> Any:
        async for message in messages:
            if message.data:
                raise WireroomError(ErrorKind.INVALID, "document_type_unsupported", "Send text or PDF.")

    rig.neighbours.answers["UploadDocument"] = refuse
    body = HEAD + b"x" * 20_000_000 + TAIL
    reader, writer = await rig.connect()
    writer.write(start(rig, len(body)) + body)
    async with asyncio.timeout(20):
        await writer.drain()
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 400")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "document_type_unsupported"
    writer.close()
