"""Every call over every channel is made for somebody, who is verified."""

from __future__ import annotations

import contextlib
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rpc_contract_rig import (
    USER,
    Rig,
    Roles,
    Witness,
    failure_of,
    who_am_i,
)

from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind
from wireroom_common.principal import Principal, PrincipalKind, current_principal, set_current_principal
from wireroom_common.rpc import (
    PrincipalSigner,
    acting_as_service,
    remaining_time,
)
from wireroom_common.rpc.failures import error_from
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc


async def test_principal_arrives_as_it_was_signed(rig: Rig) -> None:
    seen: list[Principal] = []

    async def login(_request: Any, _context: Any) -> Any:
        seen.append(current_principal())
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    await rig.auth().Login(auth_pb2.LoginRequest())
    assert seen == [USER]


async def test_anonymous_callers_reach_public_methods_only(rig: Rig) -> None:
    async def login(_request: Any, _context: Any) -> Any:
        return auth_pb2.LoginResponse(user=auth_pb2.User(name=current_principal().kind.value))

    rig.servicers.login = login
    rig.servicers.get_me = who_am_i
    set_current_principal(None)
    stub = rig.auth("chat")
    assert (await stub.Login(auth_pb2.LoginRequest())).user.name == "anonymous"
    error = await failure_of(stub.GetMe(auth_pb2.GetMeRequest()))
    assert (error.kind, error.code) == (ErrorKind.UNAUTHENTICATED, "principal_anonymous")


def tampered(roles: Roles) -> bytes:
    signed = bytearray(roles.signer("gateway").sign(USER))
    signed[10] ^= 1
    return bytes(signed)


class Yesterday(SystemClock):
    def now(self) -> datetime:
        return super().now() - timedelta(days=1)


def expired(roles: Roles) -> bytes:
    return PrincipalSigner("gateway", roles.keys["gateway"], Yesterday()).sign(USER)


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (tampered, {"principal_signature_invalid", "principal_malformed"}),
        (expired, {"principal_expired"}),
        (
            lambda _: PrincipalSigner("gateway", Ed25519PrivateKey.generate(), SystemClock()).sign(USER),
            {"principal_signature_invalid"},
        ),
        (
            lambda _: PrincipalSigner("mallory", Ed25519PrivateKey.generate(), SystemClock()).sign(
                Principal(PrincipalKind.SERVICE)
            ),
            {"principal_signature_invalid"},
        ),
        (lambda _: b"\xff" * 64, {"principal_malformed"}),
        (None, {"principal_missing"}),
    ],
)
async def test_call_without_a_good_principal_is_refused(rig: Rig, make: Any, code: set[str]) -> None:
    called = False

    async def login(_request: Any, _context: Any) -> Any:
        nonlocal called
        called = True
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    metadata = (("x-principal-bin", make(rig.roles)),) if make else ()
    async with rig.bare() as bare:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await auth_pb2_grpc.AuthServiceStub(bare).Login(auth_pb2.LoginRequest(), metadata=metadata, timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    restored = error_from(caught.value.code(), caught.value.details(), caught.value.trailing_metadata())
    assert restored.code in code
    assert not called
    # gRPC tells the client first.
    await eventually(lambda: rig.count("server", "Login", "unauthenticated") == 1)


async def test_service_forwards_the_principal_it_serves_and_signs_no_other(rig: Rig) -> None:
    inner = rig.auth("chat")
    other = Principal(PrincipalKind.USER, subject=str(uuid4()), tenant_id=USER.tenant_id)

    async def login(request: Any, _context: Any) -> Any:
        if request.email == "forged":
            set_current_principal(other)
        answer = await inner.GetMe(auth_pb2.GetMeRequest())
        return auth_pb2.LoginResponse(user=answer.user)

    rig.servicers.login = login
    rig.servicers.get_me = who_am_i
    response = await rig.auth("gateway").Login(auth_pb2.LoginRequest())
    assert (response.user.id, UUID(response.user.tenant_id)) == (USER.subject, USER.tenant_id)
    error = await failure_of(rig.auth("gateway").Login(auth_pb2.LoginRequest(email="forged")))
    assert (error.kind, error.code) == (ErrorKind.INTERNAL, "principal_not_signable")


async def test_nested_call_does_not_outlive_its_caller(rig: Rig) -> None:
    witness = Witness()
    inner = rig.auth("chat")
    nested: list[float] = []

    async def get_me(_request: Any, _context: Any) -> Any:
        nested.append(remaining_time() or 0.0)
        await witness.wait_for_ever()

    async def login(_request: Any, _context: Any) -> Any:
        return await inner.GetMe(auth_pb2.GetMeRequest(), timeout=60)

    rig.servicers.get_me = get_me
    rig.servicers.login = login
    error = await failure_of(rig.auth().Login(auth_pb2.LoginRequest(), timeout=2.0))
    assert error.kind is ErrorKind.DEADLINE
    await witness.saw_cancellation()
    assert 0 < nested[0] < 3


async def test_background_work_acts_as_the_service(rig: Rig) -> None:
    rig.servicers.get_me = who_am_i
    set_current_principal(None)
    tenant = uuid4()
    with acting_as_service(tenant):
        response = await rig.auth("rag").GetMe(auth_pb2.GetMeRequest())
    assert (response.user.id, response.user.tenant_id) == ("rag", str(tenant))


async def test_caller_context_does_not_leak_into_the_servicer(rig: Rig) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(acting_as_service(uuid4()))
        rig.servicers.get_me = who_am_i
        async with rig.bare() as bare:
            answer = await auth_pb2_grpc.AuthServiceStub(bare).GetMe(
                auth_pb2.GetMeRequest(), metadata=(("x-principal-bin", rig.roles.signer("gateway").sign(USER)),), timeout=5
            )
    assert answer.user.id == USER.subject
