"""What travels beside a message is the same over every channel."""

from __future__ import annotations

from typing import Any

import pytest
from rpc_contract_rig import (
    LOGIN,
    USER,
    Rig,
    who_am_i,
)

from wireroom_common.rpc import (
    current_request_id,
    set_request_id,
)
from wireroom_common.rpc.context import EffectKey, current_effect_key, idempotency_key_to_send, set_idempotency_key
from wireroom_protos.auth.v1 import auth_pb2


async def test_metadata_trace_and_request_id_travel(rig: Rig) -> None:
    seen: dict[str, Any] = {}

    async def login(_request: Any, context: Any) -> Any:
        seen.update(context.invocation_metadata())
        seen["request id"] = current_request_id()
        await context.send_initial_metadata((("x-first", "1"),))
        context.set_trailing_metadata((("x-last-bin", b"\x00\xff"),))
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    set_request_id("req-42")
    with rig.tracer.start_as_current_span("root") as root:
        call = rig.auth().Login(auth_pb2.LoginRequest(), metadata=(("x-given", "yes"), ("x-principal-bin", b"forged")))
        await call
    set_request_id("")
    assert seen["x-given"] == "yes"
    assert seen["request id"] == "req-42"
    assert dict(await call.initial_metadata())["x-first"] == "1"
    assert dict(await call.trailing_metadata())["x-last-bin"] == b"\x00\xff"
    names = {
        (span.name, span.kind.name) for span in rig.spans.get_finished_spans() if span.context.trace_id == root.context.trace_id
    }
    assert {(LOGIN[1:], "CLIENT"), (LOGIN[1:], "SERVER")} <= names


async def test_an_idempotency_key_travels_to_the_call_and_no_further(rig: Rig) -> None:
    keys: list[EffectKey | None] = []
    sent_on: list[str] = []

    async def login(_request: Any, _context: Any) -> Any:
        keys.append(current_effect_key())
        sent_on.append(idempotency_key_to_send())
        return auth_pb2.LoginResponse()

    rig.servicers.login = login
    set_idempotency_key("ab" * 32)
    await rig.auth().Login(auth_pb2.LoginRequest(), metadata=(("idempotency-key", "cd" * 32),))
    await rig.auth().Login(auth_pb2.LoginRequest())
    set_idempotency_key("")
    await rig.auth().Login(auth_pb2.LoginRequest(), metadata=(("idempotency-key", "ab" * 32),))
    first, second, none = keys
    assert first is not None
    assert second is not None
    assert first.value == second.value
    assert first.call_id != second.call_id
    assert none is None
    assert sent_on == ["", "", ""]


@pytest.mark.parametrize("unusable", ["bad\nid", "ünsendbar", "x" * 129])
async def test_request_id_that_cannot_be_sent_counts_as_none(rig: Rig, unusable: str) -> None:
    rig.servicers.get_me = who_am_i
    set_request_id(unusable)
    assert current_request_id() == ""
    assert (await rig.auth().GetMe(auth_pb2.GetMeRequest())).user.id == USER.subject
