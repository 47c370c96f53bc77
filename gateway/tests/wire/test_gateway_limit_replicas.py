"""Limits over several replicas: in processes of their own, with clocks that disagree, and while Redis dies under load."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from gateway_replica import replica_processes
from gateway_rig import Rig, new_redis, running

from wireroom_common.clock import SystemClock
from wireroom_common.runtime.embedded import EmbeddedValkey
from wireroom_common.testing import eventually

REQUESTS = 5_000
# Requests under way at a time; all others wait for a connection in the client.
CONNECTIONS = 400


async def statuses(urls: Sequence[str], count: int) -> Counter[tuple[int, str]]:
    """Send `count` requests to the replicas in turn, all at once: status and how the limits were counted."""
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as session:

        async def ask(number: int) -> tuple[int, str]:
            async with session.get(f"{urls[number % len(urls)]}/info") as reply:
                await reply.read()
                return reply.status, reply.headers.get("x-ratelimit-mode", "shared")

        return Counter(await asyncio.gather(*(ask(number) for number in range(count))))


@pytest.mark.timeout(180)
async def test_5000_requests_at_once_over_4_replicas_pass_exactly_up_to_the_limit(work_dir: Path, clean_valkey_url: str) -> None:
    with replica_processes(
        work_dir, 4, redis_url=clean_valkey_url, settings={"rate_limit_requests": 100, "limit_store_timeout": 5.0}
    ) as urls:
        assert len(set(urls)) == 4
        answers = await statuses(urls, REQUESTS)
    assert answers == {(200, "shared"): 100, (429, "shared"): REQUESTS - 100}


class SkewedClock(SystemClock):
    """A host whose clock is wrong."""

    def __init__(self, seconds: float) -> None:
        self._off = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return datetime.now(UTC) + self._off

    def monotonic(self) -> float:
        return super().monotonic() + self._off.total_seconds() + 1e6


@pytest.mark.parametrize("seconds", [90.0, -7_200.0, 7_200.0])
async def test_wrong_clocks_of_hosts_change_no_count(work_dir: Path, clean_valkey_url: str, seconds: float) -> None:
    limits = {"api.ip": 20}
    async with (
        running(work_dir / "a", redis_url=clean_valkey_url, limit_overrides=limits) as right,
        running(work_dir / "b", redis_url=clean_valkey_url, limit_overrides=limits, clock=SkewedClock(seconds)) as wrong,
    ):
        answers = await statuses([right.url, wrong.url], 60)
        assert answers == {(200, "shared"): 20, (429, "shared"): 40}
        async with wrong.session.get("/info") as reply:
            assert 1 <= int(reply.headers["retry-after"]) <= 60


@pytest.fixture
def own_valkey(work_dir: Path) -> Iterator[EmbeddedValkey]:
    server = EmbeddedValkey(work_dir)
    yield server
    server.stop()


async def kill(url: str) -> None:
    client = new_redis(url)
    await client.shutdown(nosave=True)
    await client.aclose()


@pytest.mark.timeout(120)
async def test_redis_that_dies_under_load_never_doubles_the_limit(work_dir: Path, own_valkey: EmbeddedValkey) -> None:
    # Two replicas that know of each other: what one may let pass by itself is half the limit.
    limit, share = 200, 100
    url = own_valkey.start()
    policy = work_dir / "limits.yaml"
    # A blocked caller is refused without being counted, which is another matter.
    policy.write_text(f"version: 1\nlimits: {{api: {{ip: {limit}}}}}\nblocks: {{enabled: false}}")
    settings = {"redis_url": url, "limits_file": policy, "known_replicas": 2, "limit_store_timeout": 2.0}
    async with running(work_dir / "a", **settings) as first, running(work_dir / "b", **settings) as second:
        rigs = (first, second)
        urls = [rig.url for rig in rigs]
        assert await statuses(urls, 80) == {(200, "shared"): 80}
        answers, _ = await asyncio.gather(statuses(urls, 1_000), kill(url))
        answers += await statuses(urls, 400)
        assert {status for status, _ in answers} == {200, 429}
        assert answers[429, "local"] > 0
        passed = 80 + answers[200, "shared"] + answers[200, "local"]
        # What a replica has let pass counts in its share; at worst one of them had let pass everything.
        assert limit // 2 <= passed <= limit + share
        own_valkey.start()

        async def shared_again(rig: Rig) -> bool:
            async with rig.session.get("/info") as reply:
                return "ratelimit" in reply.headers and "x-ratelimit-mode" not in reply.headers

        for rig in rigs:
            await eventually(lambda rig=rig: shared_again(rig), within=15)
            async with rig.session.get("/ready") as reply:
                assert "shared_limits" not in (await reply.json())["checks"]
