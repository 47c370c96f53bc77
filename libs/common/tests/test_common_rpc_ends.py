"""Every channel ends calls alike: by deadline, by cancellation from either side, by the end of the server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from rpc_contract_rig import (
    USER,
    Rig,
    Witness,
    failure_of,
)

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.rpc import (
    remaining_time,
    set_remaining_time,
)
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.chat.v1 import chat_pb2
from wireroom_protos.rag.v1 import rag_pb2


async def test_client_gives_up_at_its_deadline_and_the_servicer_is_cancelled(rig: Rig) -> None:
    witness = Witness()

    async def login(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=1.0))
    assert (error.kind, error.code) == (ErrorKind.DEADLINE, "rpc_deadline")
    await witness.saw_cancellation()


async def test_servicer_sees_the_deadline_of_the_client(rig: Rig) -> None:
    seen: list[float | None] = []

    async def login(_request: Any, _context: Any) -> Any:
        seen.append(remaining_time())
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    stub = rig.auth()
    await stub.Login(auth_pb2.LoginRequest(), timeout=5)
    await stub.Login(auth_pb2.LoginRequest())
    set_remaining_time(3.0)
    await stub.Login(auth_pb2.LoginRequest(), timeout=50)
    set_remaining_time(None)
    assert seen == [pytest.approx(limit, abs=1.5) for limit in (5, 10, 3)]


async def test_call_without_a_deadline_gets_the_servers_default(rig: Rig) -> None:
    witness = Witness()

    async def login(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    rig.servicers.login = login
    async with rig.bare() as bare:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth_pb2_grpc.AuthServiceStub(bare).Login(
                auth_pb2.LoginRequest(), metadata=(("x-principal-bin", rig.roles.signer("gateway").sign(USER)),)
            )
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await witness.saw_cancellation()
    await eventually(lambda: rig.count("server", "Login", "deadline") == 1)


async def test_cancelling_the_waiting_task_cancels_the_servicer(rig: Rig) -> None:
    witness = Witness()

    async def login(_request: Any, _context: Any) -> Any:
        await witness.wait_for_ever()

    async def client() -> None:
        await rig.auth().Login(auth_pb2.LoginRequest())

    rig.servicers.login = login
    task = asyncio.create_task(client())
    await witness.began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await witness.saw_cancellation()
    assert rig.count("client", "Login", "cancelled") == 1


@pytest.mark.parametrize("how", ["cancel", "aclose", "drop"])
async def test_leaving_a_stream_early_cancels_the_servicer(rig: Rig, how: str) -> None:
    witness = Witness()

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(data=b"first")
        await witness.wait_for_ever()

    rig.servicers.stream = stream
    stub = rig.chat()
    if how == "drop":
        async for part in stub.StreamComplete(chat_pb2.StreamCompleteRequest()):
            assert part.data == b"first"
            break
    else:
        call = stub.StreamComplete(chat_pb2.StreamCompleteRequest())
        assert (await anext(call)).data == b"first"
        if how == "cancel":
            assert call.cancel()
        else:
            await call.aclose()
        assert call.done()
    await witness.saw_cancellation()


async def test_cancellation_by_the_server_is_unavailable(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise asyncio.CancelledError

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=5))
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_cancelled")


async def test_failing_request_iterator_raises_its_own_error_and_cancels(rig: Rig) -> None:
    witness = Witness()

    async def upload(requests: Any, _context: Any) -> Any:
        await anext(aiter(requests))
        await witness.wait_for_ever()

    async def parts() -> AsyncIterator[Any]:
        yield rag_pb2.UploadDocumentRequest(data=b"1")
        await witness.began.wait()
        raise WireroomError(ErrorKind.TOO_LARGE, "body_too_large", "The body is too large.")

    rig.servicers.upload = upload
    error = await failure_of(rig.documents().UploadDocument(parts()))
    assert error.code == "body_too_large"
    await witness.saw_cancellation()


async def test_stopped_server_ends_calls_unavailable_and_refuses_new_ones(rig: Rig) -> None:
    witness = Witness()

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(data=b"first")
        await witness.wait_for_ever()

    rig.servicers.stream = stream
    call = rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())
    await anext(call)
    await witness.began.wait()
    await rig.stop(0)
    assert (await failure_of(anext(call))).kind is ErrorKind.UNAVAILABLE
    await witness.saw_cancellation()
    error = await failure_of(rig.auth(connect_wait=0.3).Login(auth_pb2.LoginRequest(), timeout=60))
    assert (error.kind, error.code) == (ErrorKind.UNAVAILABLE, "rpc_unavailable")


async def test_graceful_stop_lets_calls_finish(rig: Rig) -> None:
    began, release = asyncio.Event(), asyncio.Event()

    async def login(_request: Any, _context: Any) -> Any:
        began.set()
        await release.wait()
        return auth_pb2.LoginResponse(user=auth_pb2.User(id="done"))

    rig.servicers.login = login
    call = rig.auth().Login(auth_pb2.LoginRequest())
    await began.wait()
    stopping = asyncio.create_task(rig.stop(5))
    await asyncio.sleep(0)
    release.set()
    assert (await call).user.id == "done"
    await stopping
