"""Blocked addresses: one in force per address and principal, over replicas and restarts."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from wireroom_auth.domain.address_blocks import counted_network
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import ANONYMOUS, Principal, PrincipalKind
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

METHOD = "/wireroom_protos.auth.v1.AddressService/"
GATEWAY = Principal(PrincipalKind.SERVICE, "gateway")
OPERATOR = Principal(PrincipalKind.USER, str(new_id()), UUID(int=7), permissions=frozenset({"ip:manage"}))


async def block(auth: Any, network: str = "192.0.2.1", caller: Principal = GATEWAY, **fields: Any) -> Any:
    request = auth_pb2.BlockAddressRequest(network=network, **fields)
    return (await auth.call(METHOD + "BlockAddress", request, caller)).block


async def listed(auth: Any, caller: Principal = GATEWAY, **fields: Any) -> Any:
    return await auth.call(METHOD + "ListBlocks", auth_pb2.ListBlocksRequest(**fields), caller)


async def lift(auth: Any, block_id: str, caller: Principal = OPERATOR) -> None:
    await auth.call(METHOD + "LiftBlock", auth_pb2.LiftBlockRequest(id=block_id), caller)


async def test_a_block_is_listed_told_and_audited(auth: Any) -> None:
    made = await block(auth, "2001:db8:1:2:3::4", principal="u1", violations=100, reason="limits", ttl_seconds=600)
    assert (made.network, made.principal, made.violations, made.reason) == ("2001:db8:1:2::/64", "u1", 100, "limits")
    assert made.until.seconds - made.blocked_at.seconds == 600
    assert list((await listed(auth)).blocks) == [made]
    (told,) = await auth.events_of(events_pb2.GatewayIpBlocked)
    assert (told.block_id, told.network, told.principal, told.violations) == (made.id, made.network, "u1", 100)
    assert told.until == made.until
    (fact,) = await auth.events_of(events_pb2.AuditRecorded)
    assert (fact.action, fact.outcome) == ("address.blocked", "success")
    assert json.loads(fact.details_json)["block_id"] == made.id
    async with auth.database.system() as connection:
        rows = (await connection.execute(text("SELECT tenant_id, actor FROM outbox"))).all()
    assert {(row.tenant_id, row.actor) for row in rows} == {(None, "gateway")}


async def test_replicas_that_see_the_same_violations_make_one_block(make_auth: Any) -> None:
    replicas = [await make_auth() for _ in range(3)]
    made = await asyncio.gather(*(block(replicas[n % 3], violations=100 + n) for n in range(12)))
    assert len({one.id for one in made}) == 1
    assert len({one.violations for one in made}) == 1
    assert len(await replicas[0].events_of(events_pb2.GatewayIpBlocked)) == 1
    assert len(await replicas[0].events_of(events_pb2.AuditRecorded)) == 1


async def test_a_block_is_confined_to_its_principal(auth: Any) -> None:
    made = [await block(auth, principal=principal) for principal in ("", "u1", "u2")]
    assert len({one.id for one in made}) == 3
    await lift(auth, made[1].id)
    assert {one.principal for one in (await listed(auth)).blocks} == {"", "u2"}


async def test_a_block_ends_by_itself_and_can_be_made_again(auth: Any) -> None:
    first = await block(auth, ttl_seconds=60)
    auth.clock.advance(59)
    assert (await block(auth, ttl_seconds=60)) == first
    auth.clock.advance(1)
    assert not (await listed(auth)).blocks
    second = await block(auth, ttl_seconds=60)
    assert second.id != first.id
    assert [one.id for one in (await listed(auth)).blocks] == [second.id]


async def test_an_operator_sets_the_end_of_a_block_anew(auth: Any) -> None:
    first = await block(auth, ttl_seconds=60, violations=100)
    longer = await block(auth, caller=OPERATOR, ttl_seconds=86_400, reason="known scanner")
    assert (longer.id, longer.reason) == (first.id, "known scanner")
    assert longer.until.seconds - longer.blocked_at.seconds == 86_400
    told = await auth.events_of(events_pb2.GatewayIpBlocked)
    assert [event.until.seconds for event in told] == [first.until.seconds, longer.until.seconds]
    facts = await auth.events_of(events_pb2.AuditRecorded)
    assert [fact.action for fact in facts] == ["address.blocked", "address.block_changed"]


async def test_a_lifted_block_is_told_once_and_gone(auth: Any) -> None:
    made = await block(auth)
    outcomes = await asyncio.gather(*(lift(auth, made.id) for _ in range(4)), return_exceptions=True)
    refused = [error for error in outcomes if isinstance(error, WireroomError)]
    assert len(refused) == 3
    assert {error.code for error in refused} == {"block_not_found"}
    assert not (await listed(auth)).blocks
    (told,) = await auth.events_of(events_pb2.GatewayIpUnblocked)
    assert (told.block_id, told.network) == (made.id, made.network)
    assert [fact.action for fact in await auth.events_of(events_pb2.AuditRecorded)] == ["address.blocked", "address.unblocked"]
    assert (await block(auth)).id != made.id


async def test_blocks_outlive_a_restart_and_are_forgotten_long_after_their_end(make_auth: Any) -> None:
    before = await make_auth()
    made = await block(before, ttl_seconds=60)
    after = await make_auth(infra=before.infra)
    assert list((await listed(after)).blocks) == [made]
    (purge,) = [found.run for found in after.service.periodic if found.name == "auth.blocks.purge"]
    count = text("SELECT count(*) FROM address_blocks")
    for seconds, left in ((60, 1), (30 * 86_400 - 1, 1), (2, 0)):
        after.clock.advance(seconds)
        await purge()
        async with after.database.system() as connection:
            assert await connection.scalar(count) == left


async def test_pages_cover_all_blocks_once(auth: Any) -> None:
    made = [(await block(auth, f"192.0.2.{number}")).id for number in range(7)]
    found: list[str] = []
    token = ""
    while True:
        page = await listed(auth, page_size=3, page_token=token)
        found += [one.id for one in page.blocks]
        token = page.next_page_token
        if not token:
            break
    assert found == made[::-1]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"network": ""}, "network_malformed"),
        ({"network": "example.org"}, "network_malformed"),
        ({"network": "192.0.2.0/24"}, "network_malformed"),
        ({"network": "0.0.0.0/0"}, "network_malformed"),
        ({"network": "2001:db8::/32"}, "network_malformed"),
        ({"network": "2001:db8::/96"}, "network_malformed"),
        ({"ttl_seconds": -1}, "ttl_out_of_range"),
        ({"ttl_seconds": 30 * 86_400 + 1}, "ttl_out_of_range"),
        ({"violations": -1}, "violations_negative"),
        ({"principal": "x" * 201}, "principal_malformed"),
        ({"reason": "a\x00b"}, "reason_malformed"),
    ],
)
async def test_what_cannot_be_blocked_is_invalid(auth: Any, fields: dict[str, Any], code: str) -> None:
    with pytest.raises(WireroomError) as refused:
        await block(auth, **{"network": "192.0.2.1", **fields})
    assert (refused.value.kind, refused.value.code) == (ErrorKind.INVALID, code)
    assert not (await listed(auth)).blocks


async def test_only_the_gateway_and_operators_may(auth: Any) -> None:
    made = await block(auth)
    others = [
        ANONYMOUS,
        Principal(PrincipalKind.SERVICE, "rag"),
        Principal(PrincipalKind.USER, "gateway"),
        Principal(PrincipalKind.USER, str(new_id()), UUID(int=7), permissions=frozenset({"security:read"})),
    ]
    for caller in others:
        for call in (block(auth, "192.0.2.9", caller), listed(auth, caller), lift(auth, made.id, caller)):
            with pytest.raises(WireroomError) as refused:
                await call
            assert refused.value.kind is ErrorKind.FORBIDDEN
    with pytest.raises(WireroomError) as refused:
        await lift(auth, made.id, GATEWAY)
    assert refused.value.kind is ErrorKind.FORBIDDEN
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with auth.database.tenant(UUID(int=7)) as connection:
            await connection.execute(text("SELECT * FROM address_blocks"))
    for unknown in (str(new_id()), "x"):
        with pytest.raises(WireroomError):
            await lift(auth, unknown)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_counts_alone_however_it_is_written(address: Any) -> None:
    for written in (str(address), f"{address}/32", f"::ffff:{address}", f" {address} "):
        assert counted_network(written) == str(address)


@given(st.ip_addresses(v=6).filter(lambda address: address.ipv4_mapped is None))
def test_an_ipv6_address_counts_with_its_64(address: Any) -> None:
    network = counted_network(str(address))
    assert network.endswith("/64")
    assert counted_network(network) == network
    assert int(address) >> 64 == int(type(address)(network.removesuffix("/64"))) >> 64
