"""After so many refusals a caller is blocked: on every replica, that caller only, until the block ends or is lifted."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from gateway_rig import NO_REDIS, Rig, running
from prometheus_client import CollectorRegistry

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import ANONYMOUS, PrincipalKind
from wireroom_common.testing import eventually
from wireroom_gateway.limits.blocks import AddressBlocks
from wireroom_gateway.limits.networks import AllowList
from wireroom_gateway.limits.policy import BlockRule
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_protos.auth.v1 import auth_pb2, auth_pb2_grpc
from wireroom_protos.events.v1 import events_pb2

LOOPBACK, NEIGHBOUR = "127.0.0.1", "127.0.0.9"
ALICE, BOB = "0198a000-0000-7000-8000-000000000a01", "0198a000-0000-7000-8000-000000000a02"


class AddressBook:
    """The part of `auth` that keeps blocks, and the bus between the replicas."""

    def __init__(self) -> None:
        self.rigs: list[Rig] = []
        self.blocks: dict[tuple[str, str], auth_pb2.AddressBlock] = {}
        self.orders: list[auth_pb2.BlockAddressRequest] = []
        self.away = False
        self.refusing = False
        self.silent = False

    def answers(self) -> dict[str, Any]:
        return {"BlockAddress": self.block_address, "ListBlocks": self.list_blocks}

    async def block_address(self, request: auth_pb2.BlockAddressRequest) -> auth_pb2.BlockAddressResponse:
        self._check()
        if self.refusing:
            raise WireroomError(ErrorKind.INVALID, "network_malformed", "No.")
        self.orders.append(request)
        return auth_pb2.BlockAddressResponse(block=await self.put(request.network, request.principal, request.ttl_seconds))

    async def list_blocks(self, request: auth_pb2.ListBlocksRequest) -> auth_pb2.ListBlocksResponse:
        self._check()
        # Pages of one: what goes by pages is seen to.
        at = int(request.page_token or 0)
        blocks = list(self.blocks.values())
        return auth_pb2.ListBlocksResponse(
            blocks=blocks[at : at + 1], next_page_token=str(at + 1) if at + 1 < len(blocks) else ""
        )

    async def put(self, network: str, principal: str = "", seconds: float = 3_600) -> auth_pb2.AddressBlock:
        key = (network, principal)
        if key not in self.blocks:
            block = auth_pb2.AddressBlock(id=str(uuid4()), network=network, principal=principal)
            block.until.FromDatetime(datetime.now(UTC) + timedelta(seconds=seconds))
            self.blocks[key] = block
            await self._tell(
                events_pb2.GatewayIpBlocked(block_id=block.id, network=network, principal=principal, until=block.until)
            )
        return self.blocks[key]

    async def lift(self, network: str, principal: str = "") -> None:
        block = self.blocks.pop((network, principal))
        await self._tell(events_pb2.GatewayIpUnblocked(block_id=block.id, network=network, principal=principal))

    async def _tell(self, event: Any) -> None:
        if not self.silent:
            for rig in self.rigs:
                await rig.publish(event)

    def _check(self) -> None:
        if self.away:
            raise WireroomError(ErrorKind.UNAVAILABLE, "away", "Away.")


@asynccontextmanager
async def replicas(
    folder: Path, book: AddressBook, url: str, count: int = 1, *, rules: str = "", **settings: Any
) -> AsyncIterator[list[Rig]]:
    """Gateways whose block work runs. The limit is 2 per address and user; 3 refusals block, unless `rules` say otherwise."""
    file = folder / "limits.yaml"
    file.write_text(f"version: 1\nlimits: {{api: {{ip: 2, user: 2}}}}\n{rules or 'blocks: {violations: 3, ttl: 600}'}")
    async with AsyncExitStack() as stack:
        rigs = []
        for _ in range(count):
            rig = await stack.enter_async_context(
                running(folder / uuid4().hex, redis_url=url, limits_file=file, answers=book.answers(), **settings)
            )
            work = next(work for work in rig.service.periodic if work.name == "gateway.blocks")

            async def repeat(run: Any = work.run) -> None:
                while True:
                    await run()

            task = asyncio.create_task(repeat())
            stack.callback(task.cancel)
            rigs.append(rig)
            book.rigs.append(rig)
        yield rigs
        book.rigs = [rig for rig in book.rigs if rig not in rigs]


async def ask(
    rig: Rig, path: str = "/info", *, source: str = LOOPBACK, headers: dict[str, str] | None = None, method: str = "GET"
) -> tuple[int, str]:
    """Status and error code of a request from `source`."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=(source, 0))) as session,
        session.request(method, f"{rig.url}{path}", headers=headers, json={} if method == "POST" else None) as reply,
    ):
        if reply.status < 400:
            return reply.status, ""
        body = await reply.json(content_type=None)
        if reply.status == 429:
            assert int(reply.headers["retry-after"]) >= 1
        return reply.status, body["code"] if "code" in body else body["error"]["code"]


async def provoke(rigs: Sequence[Rig], times: int, **request: Any) -> Counter[str]:
    return Counter([(await ask(rigs[number % len(rigs)], **request))[1] for number in range(times)])


async def test_violations_on_all_replicas_together_block_the_caller_on_all(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    rules = "blocks: {violations: 100, ttl: 900}"
    async with replicas(work_dir, book, clean_valkey_url, 4, rules=rules) as rigs:
        # Two pass, then a hundred are refused by the limit: the last of them is the last straw.
        assert await provoke(rigs, 102) == {"": 2, "rate_limit_exceeded": 100}

        async def blocked_everywhere() -> bool:
            return all([await ask(rig) == (429, "address_blocked") for rig in rigs])

        await eventually(blocked_everywhere, within=10)
        order = book.orders[0]
        assert len(book.orders) == 1
        assert (order.network, order.principal, order.violations, order.ttl_seconds) == (LOOPBACK, "", 100, 900)
        calls = [call for rig in rigs for call in rig.neighbours.called("BlockAddress")]
        assert [(call.principal.kind, call.principal.subject) for call in calls] == [(PrincipalKind.SERVICE, "gateway")]
        # Nobody else is, whatever they claim about themselves.
        assert (await ask(rigs[0], source=NEIGHBOUR, headers={"x-forwarded-for": LOOPBACK}))[0] == 200
        # No call, no body, no page that does not exist, no guess of a credential gets further.
        for path, method in (("/auth/login", "POST"), ("/nowhere", "GET"), ("/v1/nowhere", "GET"), ("/openapi.json", "GET")):
            assert await ask(rigs[1], path, method=method) == (429, "address_blocked")
        assert await ask(rigs[1], "/api/v1/documents") == (429, "address_blocked")
        guess = {"authorization": "Bearer guess"}
        assert await ask(rigs[1], "/api/v1/documents", headers=guess) == (429, "address_blocked")
        assert rigs[1].neighbours.called("Login") == []
        # Probes do: they may well come from an address that others call from.
        for probe in ("/health/live", "/ready"):
            assert (await ask(rigs[2], probe))[0] == 200
        async with aiohttp.ClientSession() as session, session.get(f"{rigs[1].url}/metrics") as reply:
            text = await reply.text()
            assert "wireroom_gateway_blocked_addresses 1.0" in text
            assert 'wireroom_gateway_blocked_requests_total{caller="anonymous"}' in text


async def test_a_block_survives_a_restart_and_ends_when_it_is_lifted(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    async with replicas(work_dir, book, clean_valkey_url) as rigs:
        await provoke(rigs, 5)
        await eventually(lambda: book.orders, within=5)
    async with replicas(work_dir, book, clean_valkey_url, 2) as rigs:

        async def all_say(code: str) -> bool:
            return {(await ask(rig, source=LOOPBACK))[1] for rig in rigs} == {code}

        async def blocked() -> bool:
            return await all_say("address_blocked")

        async def free() -> bool:
            return await all_say("rate_limit_exceeded")

        await eventually(blocked, within=10)
        await book.lift(LOOPBACK)
        # At once, although the counts in Redis stand where they stood: a lifted caller is not blocked again by the next refusal.
        await eventually(free, within=5)
        assert book.blocks == {}


async def test_signed_in_callers_behind_a_blocked_address_work_on(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    async with replicas(work_dir, book, clean_valkey_url) as rigs:
        rig = rigs[0]
        alice, bob = (rig.bearer("docs:read", sub=user) for user in (ALICE, BOB))
        await provoke(rigs, 5)
        assert await ask(rig) == (429, "address_blocked")
        assert (await ask(rig, "/api/v1/documents", headers=alice))[0] == 200
        # They can renew their tokens; whether that is a good one, `auth` says.
        assert (await ask(rig, "/auth/refresh", method="POST"))[1] != "address_blocked"
        # And a user who is blocked there is the only one.
        assert (await provoke(rigs, 5, path="/api/v1/documents", headers=alice))["rate_limit_exceeded"] >= 3
        assert await ask(rig, "/api/v1/documents", headers=alice) == (429, "address_blocked")
        assert (await ask(rig, "/api/v1/documents", headers=bob))[0] == 200
        # From elsewhere she is only out of quota.
        assert await ask(rig, "/api/v1/documents", headers=alice, source=NEIGHBOUR) == (429, "rate_limit_exceeded")
        await eventually(lambda: {(LOOPBACK, ""), (LOOPBACK, ALICE)} == set(book.blocks), within=5)


async def test_rows_that_many_share_block_nobody(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    rules = "blocks: {violations: 2}"
    async with replicas(work_dir, book, clean_valkey_url, rules=rules, limit_overrides={"api.global": 1}) as rigs:
        assert await provoke(rigs, 8) == {"": 1, "rate_limit_exceeded": 7}
        assert book.orders == []


async def test_allowed_networks_are_never_blocked(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    rules = f"blocks: {{violations: 3}}\nallow: [{LOOPBACK}]"
    async with replicas(work_dir, book, clean_valkey_url, rules=rules, limit_overrides={"api.global": 1}) as rigs:
        alice = rigs[0].bearer("docs:read", sub=ALICE)
        assert "address_blocked" not in await provoke(rigs, 8, path="/api/v1/documents", headers=alice)
        # Nor by someone else's order.
        await book.put(LOOPBACK)
        await book.put(NEIGHBOUR)
        assert await ask(rigs[0], source=NEIGHBOUR) == (429, "address_blocked")
        assert await ask(rigs[0]) != (429, "address_blocked")


async def test_while_auth_is_away_the_replica_blocks_by_itself_and_reports_later(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    book.away = True
    async with replicas(work_dir, book, clean_valkey_url) as rigs:
        await provoke(rigs, 5)
        assert await ask(rigs[0]) == (429, "address_blocked")
        await eventually(lambda: len(rigs[0].neighbours.called("BlockAddress")) >= 2, within=10)
        book.away = False
        await eventually(lambda: (LOOPBACK, "") in book.blocks, within=20)
        assert await ask(rigs[0]) == (429, "address_blocked")


async def test_a_block_that_auth_refuses_is_taken_back(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    book.refusing = True
    async with replicas(work_dir, book, clean_valkey_url) as rigs:
        await provoke(rigs, 5)

        async def free() -> bool:
            return (await ask(rigs[0]))[1] == "rate_limit_exceeded"

        await eventually(free, within=5)


async def test_without_redis_nobody_is_blocked(work_dir: Path) -> None:
    book = AddressBook()
    async with replicas(work_dir, book, NO_REDIS) as rigs:
        assert await provoke(rigs, 8) == {"": 2, "rate_limit_exceeded": 6}
        assert book.orders == []


async def test_what_events_missed_comes_with_the_list(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    book.silent = True
    async with replicas(work_dir, book, clean_valkey_url) as rigs:
        for number in range(3):
            await book.put(f"192.0.2.{number}")
        blocks = blocks_of(rigs[0])
        await blocks.resynchronise()
        assert blocks.remaining("192.0.2.2", ANONYMOUS, AllowList()) > 3_500
        await book.lift("192.0.2.2")
        await blocks.resynchronise()
        assert blocks.remaining("192.0.2.2", ANONYMOUS, AllowList()) == 0
        assert len(blocks) == 2
        # While `auth` is away, what is known stays.
        book.away = True
        with pytest.raises(WireroomError):
            await blocks.resynchronise()
        assert len(blocks) == 2


async def test_a_lift_that_is_told_while_a_list_is_read_is_not_undone_by_it(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    async with replicas(work_dir, book, clean_valkey_url) as rigs:
        await book.put("192.0.2.1")
        listing, go_on = asyncio.Event(), asyncio.Event()

        async def slow(request: auth_pb2.ListBlocksRequest) -> auth_pb2.ListBlocksResponse:
            answer = await book.list_blocks(request)
            listing.set()
            await go_on.wait()
            return answer

        rigs[0].neighbours.answers["ListBlocks"] = slow
        blocks = blocks_of(rigs[0])
        reading = asyncio.create_task(blocks.resynchronise())
        await asyncio.wait_for(listing.wait(), 5)
        await book.lift("192.0.2.1")
        go_on.set()
        await reading
        assert len(blocks) == 0


async def test_a_block_ends_by_itself(work_dir: Path, clean_valkey_url: str) -> None:
    clock = ManualClock(datetime.now(UTC))
    book = AddressBook()
    async with running(work_dir, redis_url=clean_valkey_url, clock=clock, answers=book.answers()) as rig:
        book.rigs.append(rig)
        await book.put(LOOPBACK, seconds=100)
        assert await ask(rig) == (429, "address_blocked")
        # The block is timed by the machine's clock, which went on while the gateway started.
        clock.advance(400)
        assert (await ask(rig))[0] == 200


async def test_ipv6_is_blocked_by_64_and_the_map_is_bounded(work_dir: Path, clean_valkey_url: str) -> None:
    book = AddressBook()
    async with replicas(work_dir, book, clean_valkey_url) as rigs:
        blocks = blocks_of(rigs[0])
        await book.put("2001:db8:0:1::/64")
        assert blocks.remaining("2001:db8:0:1:ffff::1", ANONYMOUS, AllowList()) > 0
        assert blocks.remaining("2001:db8:0:2::1", ANONYMOUS, AllowList()) == 0
        for number in range(20):
            await book.put(f"192.0.2.{number}")
        assert len(blocks) == 21
        stub = auth_pb2_grpc.AddressServiceStub(rigs[0].infra.channel("auth"))
        small = AddressBlocks(stub, rigs[0].infra.clock, GatewayMetrics(CollectorRegistry()), max_blocks=10)
        await small.resynchronise()
        assert len(small) == 10
        small.block("198.51.100.1", ANONYMOUS, 100, BlockRule())
        assert len(small) == 10
        assert small.remaining("198.51.100.1", ANONYMOUS, AllowList()) > 0


def blocks_of(rig: Rig) -> Any:
    """The gateway's map of blocks."""
    work = next(work for work in rig.service.periodic if work.name == "gateway.blocks")
    return work.run.__self__  # type: ignore[attr-defined] # a bound method, as wired in app.py
