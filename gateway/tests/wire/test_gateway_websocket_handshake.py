from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from gateway_chat import SESSION_ID, ScriptedChat, Wire, close_code, frame, frames_until, say, wired
from gateway_tokens import TENANT, USER
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

PAGE = "https://app.example.com"
KEY_ID = "0198a000-0000-7000-8000-0000000000f1"
SECRET = "wr_" + "k" * 40


@pytest_asyncio.fixture
async def wire(work_dir: Path, clean_valkey_url: str) -> AsyncIterator[Wire]:
    """Two gateways with a common Redis."""
    chat = ScriptedChat(["a ", "b "])
    async with wired(work_dir, chat, gateways=2, redis_url=clean_valkey_url, cors_origins=(PAGE,)) as started:
        yield started


async def refusal(connecting: connect) -> tuple[int, dict[str, Any], Any]:
    """Status, problem document and headers of a handshake that is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with connecting:
            pass
    response = caught.value.response
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["x-request-id"]
    assert response.headers["x-content-type-options"] == "nosniff"
    problem = json.loads(response.body)
    assert problem["status"] == response.status_code
    return response.status_code, problem, response.headers


async def ticket_of(wire: Wire, number: int = 0, **headers: str) -> str:
    given = headers or {"authorization": f"Bearer {wire.token()}"}
    async with wire.rigs[number].session.post("/api/v1/ws-tickets", headers=given) as reply:
        assert reply.status == 201, await reply.text()
        answer = await reply.json()
    assert answer["expires_in"] == 30
    assert reply.headers["cache-control"] == "no-store"
    ticket: str = answer["ticket"]
    return ticket


async def opens(connecting: connect) -> bool:
    async with connecting as socket:
        return bool((await frame(socket))["type"] == "ready")


async def test_the_three_ways_to_show_who_one_is(wire: Wire) -> None:
    assert await opens(wire.open())
    assert await opens(wire.open(token="", additional_headers={"authorization": f"Bearer {wire.token()}"}))
    ticket = await ticket_of(wire)
    async with wire.open(token="", query=f"?ticket={ticket}") as socket:
        await frame(socket)
        assert socket.subprotocol is None
        await say(socket, message="hello")
        assert (await frames_until(socket, "done", "error"))[-1]["type"] == "done"
    assert wire.rig.neighbours.called("StreamSend")[-1].principal.subject == str(USER)


async def test_a_ticket_is_good_once_on_any_replica(wire: Wire) -> None:
    ticket = await ticket_of(wire, 0)
    assert await opens(wire.open(1, token="", query=f"?ticket={ticket}", subprotocols=["wireroom.v1"]))
    for number in (0, 1):
        status, problem, _ = await refusal(wire.open(number, token="", query=f"?ticket={ticket}"))
        assert (status, problem["code"]) == (401, "credential_invalid")
    shared = await ticket_of(wire)
    results = await asyncio.gather(
        *(opens(wire.open(number % 2, token="", query=f"?ticket={shared}")) for number in range(6)), return_exceptions=True
    )
    assert [result for result in results if result is True] == [True]


async def test_the_store_of_tickets_tells_nothing(wire: Wire) -> None:
    ticket = await ticket_of(wire)
    redis = wire.rig.infra.redis()
    names = [name async for name in redis.scan_iter("wst:*")]
    assert len(names) == 1
    stored = await redis.get(names[0])
    assert ticket.encode() not in names[0]
    assert b"eyJ" not in stored
    assert 0 < await redis.pttl(names[0]) <= 30_000
    # Whoever may write there gains nothing by it either.
    await redis.set(names[0], b"\x00" * 60)
    status, _, _ = await refusal(wire.open(token="", query=f"?ticket={ticket}"))
    assert status == 401


async def test_a_ticket_is_worth_what_its_credential_is_worth_now(wire: Wire) -> None:
    ticket = await ticket_of(wire)
    await wire.rigs[1].publish(events_pb2.AuthSessionRevoked(session_id=str(wire.issuer.claims()["sid"])))
    status, problem, _ = await refusal(wire.open(1, token="", query=f"?ticket={ticket}"))
    assert (status, problem["code"]) == (401, "credential_invalid")


async def test_a_ticket_may_be_bound_to_the_address(work_dir: Path, clean_valkey_url: str) -> None:
    settings = {"websocket_ticket_binds_address": True, "trusted_proxies": ("127.0.0.1",)}
    async with wired(work_dir, ScriptedChat(), redis_url=clean_valkey_url, **settings) as wire:
        bearer = f"Bearer {wire.token()}"
        mine = {"x-forwarded-for": "198.51.100.7"}
        for address, good in (("198.51.100.7", True), ("198.51.100.8", False)):
            ticket = await ticket_of(wire, authorization=bearer, **mine)
            connecting = wire.open(token="", query=f"?ticket={ticket}", additional_headers={"x-forwarded-for": address})
            if good:
                assert await opens(connecting)
            else:
                assert (await refusal(connecting))[0] == 401


async def test_without_a_store_there_are_no_tickets(work_dir: Path) -> None:
    async with wired(work_dir, ScriptedChat()) as wire:
        headers = {"authorization": f"Bearer {wire.token()}"}
        async with wire.rig.session.post("/api/v1/ws-tickets", headers=headers) as reply:
            assert reply.status == 503
            assert (await reply.json())["code"] == "tickets_unavailable"
        ticket = "wr_wt_" + "A" * 43
        status, problem, _ = await refusal(wire.open(token="", query=f"?ticket={ticket}"))
        assert (status, problem["code"]) == (503, "tickets_unavailable")
        assert await opens(wire.open())


@pytest.mark.parametrize(
    "parameter", ["token={}", "access_token={}", "api_key=wr_abcdefghijklmnop", "ticket={}", "x={}", "Token=a"]
)
async def test_a_token_in_the_address_is_refused_and_told_why(wire: Wire, parameter: str) -> None:
    status, problem, _ = await refusal(wire.open(token="", query="?" + parameter.format(wire.token())))
    assert (status, problem["code"]) == (400, "credential_in_address")
    assert "ws-tickets" in problem["detail"]


async def test_one_credential_is_enough(wire: Wire) -> None:
    bearer = {"authorization": f"Bearer {wire.token()}"}
    for connecting in (
        wire.open(additional_headers=bearer),
        wire.open(query=f"?ticket={await ticket_of(wire)}"),
        wire.open(token="", subprotocols=["wireroom.v1", "bearer.a", "bearer.b"]),
    ):
        status, problem, _ = await refusal(connecting)
        assert (status, problem["code"]) == (400, "credential_ambiguous")


async def test_another_subprotocol_is_not_spoken(wire: Wire) -> None:
    status, problem, _ = await refusal(wire.open(token="", subprotocols=["graphql-ws"]))
    assert (status, problem["code"]) == (400, "subprotocol_unsupported")


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"token": ""}, 401, "credential_missing"),
        ({"token": "nonsense"}, 401, "credential_invalid"),
        ({"token": "", "query": "?ticket=wr_wt_short"}, 401, "credential_invalid"),
        ({"token": "", "additional_headers": {"authorization": "Ticket wr_wt_short"}}, 401, "credential_invalid"),
        ({"token": "", "additional_headers": {"authorization": "Basic YTpi"}}, 401, "credential_invalid"),
        ({"token": "expired"}, 401, "credential_invalid"),
        ({"token": "without"}, 403, "permission_missing"),
        ({"origin": "https://evil.example"}, 403, "origin_refused"),
        ({"origin": "null"}, 403, "origin_refused"),
        ({"origin": "http://app.example.com"}, 403, "origin_refused"),
    ],
)
async def test_refusals_are_http_with_a_problem_document(wire: Wire, options: dict[str, Any], status: int, code: str) -> None:
    given = dict(options)
    if given.get("token") == "expired":
        given["token"] = wire.token(iat=1, nbf=1, exp=2)
    elif given.get("token") == "without":
        given["token"] = wire.token("docs:read")
    told = await refusal(wire.open(**given))
    assert (told[0], told[1]["code"]) == (status, code)
    assert not wire.rig.neighbours.called("GetSession")


async def test_another_host_is_not_served(wire: Wire) -> None:
    # What a page does whose name resolves to this address from one moment to the next.
    address = urlsplit(wire.rig.url)
    connecting = connect(
        f"ws://evil.example:{address.port}/api/v1/ws/{SESSION_ID}",
        host=address.hostname,
        port=address.port,
        origin=f"http://evil.example:{address.port}",
        subprotocols=["wireroom.v1", f"bearer.{wire.token()}"],
        proxy=None,
    )
    status, problem, _ = await refusal(connecting)
    assert (status, problem["code"]) == (400, "host_not_allowed")


async def test_pages_of_listed_origins_and_of_this_one_may_connect(wire: Wire) -> None:
    assert await opens(wire.open(origin=PAGE))
    assert await opens(wire.open(origin=wire.rig.url))


async def test_other_addresses_are_no_websockets(wire: Wire) -> None:
    url = wire.rig.url.replace("http", "ws", 1)
    token = {"additional_headers": {"authorization": f"Bearer {wire.token()}"}, "proxy": None}
    assert (await refusal(connect(f"{url}/nowhere", **token)))[0] == 404
    status, _, headers = await refusal(connect(f"{url}/health", **token))
    assert (status, headers["allow"]) == (405, "GET")
    async with wire.rig.session.get(f"/api/v1/ws/{SESSION_ID}") as reply:
        assert (reply.status, reply.headers["upgrade"]) == (426, "websocket")
        assert (await reply.json())["code"] == "upgrade_required"


def known_key(*permissions: str, **changes: Any) -> auth_pb2.VerifyKeyResponse:
    return auth_pb2.VerifyKeyResponse(key_id=KEY_ID, user_id=str(USER), tenant_id=str(TENANT), permissions=permissions, **changes)


async def test_an_api_key_is_looked_at_again_with_each_message(wire: Wire) -> None:
    known = known_key("chat:use", "docs:read")

    async def verify(_request: Any) -> auth_pb2.VerifyKeyResponse:
        return known

    wire.rig.neighbours.answers["VerifyKey"] = verify
    async with wire.open(token=SECRET) as socket:
        await frame(socket)
        await say(socket, message="hello")
        assert (await frames_until(socket, "done", "error"))[-1]["type"] == "done"
        known = known_key("docs:read")
        await wire.rig.publish(events_pb2.AuthApiKeyChanged(key_id=KEY_ID))
        await say(socket, message="hello again")
        assert (await frames_until(socket, "error"))[-1]["code"] == "permission_missing"
        assert await close_code(socket) == 4403
    assert len(wire.chat.said) == 1


async def test_a_revoked_key_closes_the_connection(wire: Wire) -> None:
    async def verify(_request: Any) -> auth_pb2.VerifyKeyResponse:
        return known_key("chat:use")

    wire.rig.neighbours.answers["VerifyKey"] = verify
    ticket = await ticket_of(wire, authorization=f"Bearer {SECRET}")
    async with wire.open(token="", query=f"?ticket={ticket}") as socket:
        await frame(socket)
        await wire.rig.publish(events_pb2.AuthApiKeyRevoked(key_id=KEY_ID))
        assert await close_code(socket) == 4401


async def test_limits_count_connections_and_messages(work_dir: Path, clean_valkey_url: str) -> None:
    settings = {"limits_enabled": True, "limit_overrides": {"chat.user": 4}}
    async with wired(work_dir, ScriptedChat(["a"]), redis_url=clean_valkey_url, **settings) as wire:
        async with wire.open() as socket:
            assert socket.response is not None
            assert socket.response.headers["ratelimit"].startswith('"chat-user";r=3')
            await frame(socket)
            for _ in range(3):
                await say(socket, message="again")
                assert (await frames_until(socket, "done", "error"))[-1]["type"] == "done"
            await say(socket, message="too much")
            error = (await frames_until(socket, "error"))[-1]
            assert error["code"] == "rate_limit_exceeded"
            assert 0 < error["retry_after"] <= 60
            for _ in range(19):
                await say(socket, message="still too much")
                assert (await frames_until(socket, "error"))[-1]["code"] == "rate_limit_exceeded"
            assert await close_code(socket) == 4429
        status, problem, headers = await refusal(wire.open())
        assert (status, problem["code"]) == (429, "rate_limit_exceeded")
        assert int(headers["retry-after"]) > 0
    assert len(wire.chat.said) == 3


async def test_connections_are_counted_by_user_and_altogether(work_dir: Path) -> None:
    other = "0198a000-0000-7000-8000-0000000000ab"
    async with wired(work_dir, ScriptedChat(), max_websockets=3, max_websockets_per_user=2) as wire:
        async with wire.open() as first, wire.open():
            await frame(first)
            status, problem, _ = await refusal(wire.open())
            assert (status, problem["code"]) == (429, "too_many_websockets")
            wire.chat.owners[another := "0198a000-0000-7000-8000-00000000e009"] = other
            async with wire.open(token=wire.token(sub=other), session=another) as third:
                await frame(third)
                status, problem, _ = await refusal(wire.open(token=wire.token(sub="0198a000-0000-7000-8000-0000000000ac")))
                assert (status, problem["code"]) == (503, "too_many_websockets")
        registry = wire.rig.infra.registry
        await eventually(lambda: registry.get_sample_value("wireroom_gateway_websockets") == 0, what="all are counted off")
        assert await opens(wire.open())


async def test_a_stopping_gateway_takes_no_new_connections(wire: Wire) -> None:
    wire.rig.servers.drain()
    status, problem, headers = await refusal(wire.open())
    assert (status, problem["code"], headers["retry-after"]) == (503, "stopping", "1")
    assert await opens(wire.open(1))


def handshake(wire: Wire, **changes: str | None) -> bytes:
    fields: dict[str, str | None] = {
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec_websocket_version": "13",
        "sec_websocket_key": base64.b64encode(os.urandom(16)).decode(),
        "authorization": f"Bearer {wire.token()}",
        **changes,
    }
    return wire.rig.head(
        "GET", f"/api/v1/ws/{SESSION_ID}", **{name: value for name, value in fields.items() if value is not None}
    )


@pytest.mark.parametrize(
    ("changes", "more", "status", "code"),
    [
        ({"sec_websocket_key": "short"}, b"", 400, b"handshake_invalid"),
        ({"sec_websocket_key": None}, b"", 400, b"handshake_invalid"),
        ({"sec_websocket_version": None}, b"", 400, b"handshake_invalid"),
        ({"sec_websocket_version": "8"}, b"", 426, b"websocket_version_unsupported"),
        ({"content_length": "3"}, b"abc", 400, b"upgrade_unsupported"),
        ({"transfer_encoding": "chunked"}, b"0\r\n\r\n", 400, b"upgrade_unsupported"),
        ({}, b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", 400, b"request_malformed"),
        ({"x_long": "a" * 9_000}, b"", 431, b"header_fields_too_large"),
    ],
)
async def test_handshakes_that_are_none(
    wire: Wire, changes: dict[str, str | None], more: bytes, status: int, code: bytes
) -> None:
    reader, writer = await wire.rig.connect()
    writer.write(handshake(wire, **changes) + more)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert code in answer
    assert answer.count(b"HTTP/1.1 ") - answer.count(b"HTTP/1.1 request") == 1


async def test_an_upgrade_behind_an_unanswered_request_is_refused(wire: Wire) -> None:
    reader, writer = await wire.rig.connect()
    writer.write(wire.rig.head("GET", "/health") + handshake(wire))
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"101 Switching" not in answer
