from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
import pytest
from gateway_rig import NO_REDIS, Rig, running

LOGIN = {"email": "a@example.com", "password": "wrong password"}


async def test_above_the_quota_requests_are_429_with_the_time_to_wait(work_dir: Path, clean_valkey_url: str) -> None:
    async with running(work_dir, redis_url=clean_valkey_url, limit_overrides={"api.ip": 3}) as rig:
        for remaining in (2, 1, 0):
            async with rig.session.get("/info") as reply:
                assert reply.status == 200
                assert reply.headers["ratelimit"].startswith(f'"api-ip";r={remaining};t=')
                assert reply.headers["ratelimit-policy"] == '"api-ip";q=3;w=60'
                assert "x-ratelimit-mode" not in reply.headers
        async with rig.session.get("/info") as reply:
            assert reply.status == 429
            assert 1 <= int(reply.headers["retry-after"]) <= 60
            assert reply.content_type == "application/problem+json"
            assert (await reply.json(content_type=None))["code"] == "rate_limit_exceeded"
        # A path that does not exist is counted with the others, and told in its dialect.
        async with rig.session.get("/v1/nothing") as reply:
            assert reply.status == 429
            assert (await reply.json())["error"]["type"] == "rate_limit_error"
        for probe in ("/health/live", "/ready", "/metrics"):
            async with rig.session.get(probe) as reply:
                assert reply.status == 200
                assert "ratelimit" not in reply.headers


async def test_each_user_has_a_count_and_the_tenant_one_for_all(work_dir: Path, clean_valkey_url: str) -> None:
    async with running(work_dir, redis_url=clean_valkey_url, limit_overrides={"api.user": 2, "api.tenant": 3}) as rig:
        first = rig.bearer("docs:read", sub="0198a000-0000-7000-8000-000000000a01")
        second = rig.bearer("docs:read", sub="0198a000-0000-7000-8000-000000000a02")
        statuses = []
        for headers in (first, first, first, second, second):
            async with rig.session.get("/api/v1/documents", headers=headers) as reply:
                statuses.append((reply.status, reply.headers["ratelimit"].split(";")[0]))
        assert statuses == [
            (200, '"api-user"'),
            (200, '"api-user"'),
            (429, '"api-user"'),
            (200, '"api-tenant"'),
            (429, '"api-tenant"'),
        ]


async def test_refused_credentials_cost_what_anonymous_requests_cost(work_dir: Path, clean_valkey_url: str) -> None:
    async with running(work_dir, redis_url=clean_valkey_url, limit_overrides={"api.ip": 2}) as rig:
        statuses = []
        for number in range(3):
            async with rig.session.get("/api/v1/documents", headers={"authorization": f"Bearer guess{number}"}) as reply:
                statuses.append(reply.status)
        assert statuses == [401, 401, 429]


async def test_two_replicas_share_their_counts(work_dir: Path, clean_valkey_url: str) -> None:
    limits = {"api.ip": 3}
    async with (
        running(work_dir / "a", redis_url=clean_valkey_url, limit_overrides=limits) as first,
        running(work_dir / "b", redis_url=clean_valkey_url, limit_overrides=limits) as second,
    ):
        statuses = []
        for rig in (first, second, first, second, first):
            async with rig.session.get("/info") as reply:
                statuses.append(reply.status)
    assert statuses == [200, 200, 200, 429, 429]


@pytest.mark.parametrize("path", ["/auth/login", "/auth/register"])
async def test_signing_in_is_limited_by_address(work_dir: Path, clean_valkey_url: str, path: str) -> None:
    async with running(work_dir, redis_url=clean_valkey_url) as rig:
        statuses = []
        for _ in range(6):
            async with rig.session.post(path, json=LOGIN) as reply:
                statuses.append(reply.status)
    assert statuses[:5].count(429) == 0
    assert statuses[5] == 429


async def degraded(rig: Rig) -> bool:
    async with rig.session.get("/ready") as reply:
        assert reply.status == 200
        return (await reply.json())["checks"].get("shared_limits") == "degraded"


async def test_while_redis_is_away_this_replica_counts_its_share_and_says_so(work_dir: Path) -> None:
    async with running(work_dir, redis_url=NO_REDIS, limit_overrides={"api.ip": 4}, known_replicas=2) as rig:
        assert not await degraded(rig)
        statuses = []
        for _ in range(3):
            async with rig.session.get("/info") as reply:
                statuses.append(reply.status)
                assert reply.headers["x-ratelimit-mode"] == "local"
        assert statuses == [200, 200, 429]
        assert await degraded(rig)
        async with rig.session.get("/metrics") as reply:
            assert "wireroom_gateway_limit_fallbacks_total 3.0" in await reply.text()


async def test_while_redis_is_away_signing_in_is_refused(work_dir: Path) -> None:
    async with running(work_dir, redis_url=NO_REDIS) as rig:
        for _ in range(2):
            async with rig.session.post("/auth/login", json=LOGIN) as reply:
                assert reply.status == 503
                assert int(reply.headers["retry-after"]) >= 1
                assert (await reply.json(content_type=None))["code"] == "limits_unavailable"
        assert rig.neighbours.called("Login") == []


async def test_a_burst_over_200_connections_passes_exactly_up_to_the_quota(work_dir: Path, clean_valkey_url: str) -> None:
    # More patience than the default has: on a loaded machine a burst may take seconds, and this is about the count.
    options = {"redis_url": clean_valkey_url, "limit_overrides": {"api.ip": 100}, "limit_store_timeout": 5.0}
    async with running(work_dir, **options) as rig, aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> int:
            async with session.get(f"{rig.url}/info") as reply:
                assert "x-ratelimit-mode" not in reply.headers
                return reply.status

        assert Counter(await asyncio.gather(*(ask() for _ in range(200)))) == {200: 100, 429: 100}
