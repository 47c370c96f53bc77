"""Errors keep their kind and details over every channel."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from rpc_contract_rig import (
    Rig,
    failure_of,
)
from structlog.testing import capture_logs

from wireroom_common.errors import ErrorKind, FieldProblem, WireroomError
from wireroom_common.rpc import (
    set_request_id,
)
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.chat.v1 import chat_pb2


@pytest.mark.parametrize("kind", list(ErrorKind))
async def test_every_error_kind_survives(rig: Rig, kind: ErrorKind) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise WireroomError(
            kind, "some_code", "Détail with ünïcode.", fields=[FieldProblem("/email", "is wrong")], retry_after=2.5
        )

    async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
        yield chat_pb2.StreamCompleteResponse(data=b"before")
        raise WireroomError(kind, "late_code", "Too late.")

    rig.servicers.login = login
    rig.servicers.stream = stream
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest()))
    assert (error.kind, error.code, error.detail) == (kind, "some_code", "Détail with ünïcode.")
    assert (error.fields, error.retry_after) == ((FieldProblem("/email", "is wrong"),), 2.5)
    call = rig.chat().StreamComplete(chat_pb2.StreamCompleteRequest())
    assert (await anext(call)).data == b"before"
    assert (await failure_of(anext(call))).code == "late_code"
    assert rig.count("client", "StreamComplete", kind.value) == 1
    # gRPC tells the client first.
    await eventually(lambda: rig.count("server", "Login", kind.value) == 1)


async def test_long_error_still_fits(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise WireroomError(
            ErrorKind.INVALID, "many", "🌊" * 9000, fields=[FieldProblem("🌊" * 500, "🌊" * 500) for _ in range(100)]
        )

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=5))
    assert (error.kind, error.code) == (ErrorKind.INVALID, "many")
    assert error.fields


async def test_unknown_exception_is_blank_and_logged(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        raise RuntimeError("password=hunter2 at 10.0.0.7")

    rig.servicers.login = login
    set_request_id("req-7")
    with capture_logs() as logs:
        call = rig.auth().Login(auth_pb2.LoginRequest())
        error = await failure_of(call)
    set_request_id("")
    assert (error.kind, error.code) == (ErrorKind.INTERNAL, "internal")
    assert "hunter2" not in str(error)
    assert "hunter2" not in await call.details()
    assert [entry["request_id"] for entry in logs if entry["event"] == "rpc_failed"] == ["req-7"]


async def test_abort_by_the_servicer_keeps_its_meaning(rig: Rig) -> None:
    async def login(_request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.NOT_FOUND, "internal words")

    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest()))
    assert (error.kind, error.code) == (ErrorKind.NOT_FOUND, "rpc_not_found")
    assert "internal words" not in error.detail


async def test_method_nobody_offers_is_unimplemented(rig: Rig) -> None:
    error = await failure_of(rig.auth().Logout(auth_pb2.LogoutRequest()))
    assert (error.kind, error.code) == (ErrorKind.INTERNAL, "rpc_unimplemented")
    unknown = rig.channel().unary_unary("/test.Echo/Nothing")
    assert (await failure_of(unknown(b""))).code == "rpc_unimplemented"
    assert rig.count("server", "unknown", "unimplemented") == 1
