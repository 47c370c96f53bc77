"""Every channel carries every shape of call, in order and with bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from rpc_contract_rig import (
    MIB,
    Rig,
    failure_of,
)

from wireroom_common.errors import ErrorKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.chat.v1 import chat_pb2
from wireroom_protos.rag.v1 import rag_pb2


async def test_unary_returns_the_response(rig: Rig) -> None:
    async def login(request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse(user=auth_pb2.User(email=request.email))

    rig.servicers.login = login
    response = await rig.auth().Login(auth_pb2.LoginRequest(email="ä@example.org"))
    assert response.user.email == "ä@example.org"
    assert rig.count("server", "Login", "ok") == 1
    assert rig.count("client", "Login", "ok") == 1


async def test_server_stream_arrives_in_order_and_ends(rig: Rig) -> None:
    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        for number in range(100):
            yield chat_pb2.StreamCompleteResponse(data=b"%d" % number)

    rig.servicers.stream = stream
    received = [part.data async for part in rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())]
    assert received == [b"%d" % number for number in range(100)]
    assert rig.count("client", "StreamComplete", "ok") == 1


async def test_client_stream_arrives_in_order(rig: Rig) -> None:
    async def upload(requests: Any, _context: Any) -> Any:
        joined = b"".join([request.data async for request in requests])
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(name=joined.decode()))

    async def parts() -> AsyncIterator[Any]:
        for letter in "wireroom":
            yield rag_pb2.UploadDocumentRequest(data=letter.encode())

    rig.servicers.upload = upload
    response = await rig.documents().UploadDocument(parts())
    assert response.document.name == "wireroom"


async def test_both_directions_interleave(rig: Rig) -> None:
    async def talk(requests: Any, _context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.upper()

    rig.servicers.talk = talk
    call = rig.talk()()
    for word in (b"one", b"two"):
        await call.write(word)
        assert await call.read() == word.upper()
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF


async def test_server_may_answer_before_the_client_has_sent_all(rig: Rig) -> None:
    closed = asyncio.Event()

    async def upload(requests: Any, _context: Any) -> Any:
        first = await anext(aiter(requests))
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(name=first.data.decode()))

    async def parts() -> AsyncIterator[Any]:
        try:
            yield rag_pb2.UploadDocumentRequest(data=b"first")
            await asyncio.Event().wait()
        finally:
            closed.set()

    rig.servicers.upload = upload
    response = await rig.documents().UploadDocument(parts())
    assert response.document.name == "first"
    async with asyncio.timeout(5):
        await closed.wait()


async def test_ten_megabytes_pass_and_twenty_five_are_too_large(rig: Rig) -> None:
    async def login(request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse(user=auth_pb2.User(name=request.password))

    rig.servicers.login = login
    stub = rig.auth()
    response = await stub.Login(auth_pb2.LoginRequest(password="x" * (10 * MIB)), timeout=30)
    assert len(response.user.name) == 10 * MIB
    error = await failure_of(stub.Login(auth_pb2.LoginRequest(password="x" * (25 * MIB)), timeout=30))
    assert (error.kind, error.code) == (ErrorKind.TOO_LARGE, "message_too_large")


async def test_slow_reader_stalls_the_writer(rig: Rig) -> None:
    written = 0
    total = 200

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        nonlocal written
        for _ in range(total):
            yield chat_pb2.StreamCompleteResponse(data=bytes(MIB))
            written += 1

    rig.servicers.stream = stream
    call = rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())
    await anext(call)
    # The writer runs freely until it stalls: it has stalled once its count stands still through many turns of the loop.
    still, last = 0, -1
    while still < 20:
        still, last = (still + 1, last) if written == last else (0, written)
        await asyncio.sleep(0.01)
    assert written < total // 4
    assert len([part async for part in call]) == total - 1
