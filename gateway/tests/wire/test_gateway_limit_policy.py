"""The policy file: what it may say, what is told about mistakes, how changes take effect, who is bound by which row."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from gateway_rig import Rig, running
from gateway_tokens import TENANT
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from wireroom_common.clock import ManualClock
from wireroom_common.principal import ANONYMOUS, Principal, PrincipalKind
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.limiter import Limiter
from wireroom_gateway.limits.memory import MemoryCounterStore
from wireroom_gateway.limits.networks import network_of
from wireroom_gateway.limits.policy import BlockRule, Limit, LimitScope, Policy, default_table, policy_table
from wireroom_gateway.limits.policy_file import PolicyFile, PolicyFileError, parse_policy
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.settings import GatewaySettings

ACME = "0198a000-0000-7000-8000-000000000001"
KEY = "0198a000-0000-7000-8000-000000000002"
EXAMPLE = Path(__file__).parents[3] / "docs" / "how-to" / "limits.example.yaml"
PER_ADDRESS = (Bucket.API, LimitScope.IP)


def parse(text: str) -> Policy:
    return parse_policy(text.encode(), "limits.yaml", default_table())


def test_the_file_says_what_holds() -> None:
    policy = parse(
        f"""
        version: 1
        limits:
          chat:
            ip: 20
            user: {{requests: 100, window: 10, shadow: true}}
            global: unlimited
        tenants:
          {ACME}:
            api: {{tenant: 5000, key: unlimited}}
        keys:
          {KEY}: {{api: {{requests: 7, window: 1}}}}
        allow: [10.0.0.0/8, "2001:db8::/32", 192.0.2.1]
        blocks: {{violations: 50, ttl: 120}}
        """
    )
    assert policy.limit((Bucket.CHAT, LimitScope.IP)) == Limit(20, 60)
    assert policy.limit((Bucket.CHAT, LimitScope.USER)) == Limit(100, 10, shadow=True)
    assert policy.limit((Bucket.CHAT, LimitScope.GLOBAL)) is None
    # What the file does not name stays as it was.
    assert policy.limit((Bucket.CHAT, LimitScope.TENANT)) == Limit(1_000)
    assert policy.limit((Bucket.API, LimitScope.TENANT), ACME) == Limit(5_000)
    assert policy.limit((Bucket.API, LimitScope.TENANT), str(UUID(int=9))) == Limit(1_000)
    # The key's row wins over its tenant's.
    assert policy.limit((Bucket.API, LimitScope.KEY), ACME) is None
    assert policy.limit((Bucket.API, LimitScope.KEY), ACME, KEY) == Limit(7, 1)
    assert policy.limit((Bucket.NEWS, LimitScope.KEY), ACME, KEY) == Limit(1_200)
    for address, allowed in {
        "10.9.8.7": True,
        "::ffff:10.9.8.7": True,
        "11.0.0.1": False,
        "2001:db8:1::5": True,
        "2001:db9::5": False,
        "192.0.2.1": True,
        "192.0.2.2": False,
        "": False,
        "unix": False,
    }.items():
        assert (address in policy.allow) is allowed, address
    assert policy.blocks == BlockRule(violations=50, ttl=120)


MISTAKES = {
    "": (1, "write keys with values here"),
    "[1]": (1, "write keys with values here"),
    "limits: {}": (1, "'version' is missing"),
    "version: 2": (1, "version: write 1"),
    "version: true": (1, "version: write 1"),
    "version: 1\nversion: 1": (2, "'version' stands here a second time"),
    "version: 1\nlimit: {}": (2, "limit: is not known here"),
    "version: 1\nlimits:\n  chatt: {ip: 1}": (3, "there are chat, api, news, upload, auth"),
    "version: 1\nlimits:\n  chat:\n    ipp: 1": (4, "limits.chat.ipp: is not known here"),
    "version: 1\nlimits:\n  chat:\n    ip: 0": (4, "limits.chat.ip: write a number of requests"),
    "version: 1\nlimits:\n  chat:\n    ip: -5": (4, "at least 1"),
    "version: 1\nlimits:\n  chat:\n    ip:": (4, "write a number of requests"),
    "version: 1\nlimits:\n  chat:\n    ip: yes": (4, "write a number of requests"),
    "version: 1\nlimits:\n  chat:\n    ip: 1.5": (4, "write a number of requests"),
    "version: 1\nlimits:\n  chat:\n    ip: '10'": (4, "write a number of requests"),
    "version: 1\nlimits:\n  chat:\n    ip: 99999999999": (4, "less than or equal to 10000000"),
    "version: 1\nlimits:\n  chat:\n    ip: {requests: 5, window: 0}": (4, "limits.chat.ip.window"),
    "version: 1\nlimits:\n  chat:\n    ip: {window: 5}": (4, "'requests' is missing"),
    "version: 1\nlimits:\n  chat:\n    ip: !!int many": (4, "cannot be read as a number"),
    "version: 1\ntenants:\n  acme: {}": (3, "tenants.acme: write the id as it is shown by the API"),
    f"version: 1\ntenants:\n  {ACME}:\n    chat: {{ip: 3}}": (4, "chat.ip: is not known here"),
    "version: 1\nkeys: {}\nallow:\n  - 10.0.0.1/8": (4, "without host bits"),
    "version: 1\nblocks: {ttl: 5}": (2, "blocks.ttl"),
    "version: &one 1\nblocks: {violations: *one}": (1, "references (&, *) are not supported"),
    "version: 1\nallow: [": (2, "expected"),
    "version: 1\nallow: [2026-01-01]": (2, "put quotes around it"),
    "? [version]\n: 1": (1, "a key must be a plain word"),
    "version: 1\n---\nversion: 1": (2, "document"),
}


@pytest.mark.parametrize(("text", "told"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_is_told_with_its_line_and_what_to_do(text: str, told: tuple[int, str]) -> None:
    line, sentence = told
    with pytest.raises(PolicyFileError) as caught:
        parse(text)
    assert str(caught.value).startswith("limits.yaml: ")
    assert f"line {line}: " in str(caught.value)
    assert sentence in str(caught.value)


@settings(deadline=None)
@given(st.one_of(st.text(), st.binary(), st.text(alphabet="{}[]:-&*!'\"\n #12ab"), st.integers(1, 3_000).map(lambda n: "[" * n)))
def test_anything_else_is_a_policy_or_a_sentence(text: str | bytes) -> None:
    data = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    with pytest.raises(PolicyFileError, match=r"limits\.yaml: "):
        parse_policy(data, "limits.yaml", default_table())


def test_the_example_of_the_documentation_is_valid() -> None:
    policy = parse_policy(EXAMPLE.read_bytes(), EXAMPLE.name, default_table())
    assert policy.tenants
    assert policy.keys
    # Its limits are those that hold without it: whoever starts from it changes nothing by accident.
    assert policy.table == default_table()
    assert policy.blocks == BlockRule()


def test_single_settings_stand_below_the_file_and_short_names_below_overrides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHAT_RATE_LIMIT", "11")
    monkeypatch.setenv("RATE_LIMIT_REQUESTS", "1000")
    monkeypatch.setenv("RATE_LIMIT_WINDOW", "30")
    table = GatewaySettings().limit_table()
    assert table[Bucket.CHAT, LimitScope.IP] == Limit(11)
    assert table[PER_ADDRESS] == Limit(1_000, 30)
    assert table[Bucket.NEWS, LimitScope.IP] == Limit(200)
    monkeypatch.setenv("WIREROOM_GATEWAY_CHAT_RATE_LIMIT", "12")
    monkeypatch.setenv("WIREROOM_GATEWAY_LIMIT_OVERRIDES", '{"api.ip": 55}')
    table = GatewaySettings().limit_table()
    assert table[Bucket.CHAT, LimitScope.IP] == Limit(12)
    assert table[PER_ADDRESS] == Limit(55)
    file = tmp_path / "limits.yaml"
    file.write_text("version: 1\nlimits: {api: {ip: 66}}")
    followed = PolicyFile(file, table, GatewayMetrics(CollectorRegistry()))
    assert followed.policy().table[PER_ADDRESS] == Limit(66)
    assert followed.policy().table[Bucket.CHAT, LimitScope.IP] == Limit(12)


@pytest.mark.parametrize(
    ("content", "sentence"), [("version: 1\nlimitz: {}", "line 2: limitz: is not known here"), (None, "cannot be read")]
)
def test_a_bad_file_stops_the_start_with_a_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    file = tmp_path / "limits.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValidationError) as caught:
        GatewaySettings(limits_file=file)
    assert str(file) in str(caught.value)
    assert sentence in str(caught.value)


async def test_the_file_is_followed_and_a_bad_one_leaves_the_last_good_policy(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    # As a mounted volume does it: a link to a link to the folder of the day.
    for day, quota in (("monday", "10"), ("tuesday", "20"), ("wednesday", "many")):
        (tmp_path / day).mkdir()
        (tmp_path / day / "limits.yaml").write_text(f"version: 1\nlimits: {{api: {{ip: {quota}}}}}")
    (tmp_path / "..data").symlink_to("monday")
    (tmp_path / "limits.yaml").symlink_to("..data/limits.yaml")

    def turn_to(day: str) -> None:
        (tmp_path / "..new").symlink_to(day)
        (tmp_path / "..new").replace(tmp_path / "..data")

    followed = PolicyFile(tmp_path / "limits.yaml", default_table(), GatewayMetrics(registry))

    async def polled() -> tuple[Limit | None, bool]:
        await followed.poll()
        return followed.policy().limit(PER_ADDRESS), followed.bad

    def loads(outcome: str) -> float:
        return registry.get_sample_value("wireroom_gateway_limit_policy_loads_total", {"outcome": outcome}) or 0.0

    assert await polled() == (Limit(10), False)
    turn_to("tuesday")
    assert await polled() == (Limit(20), False)
    turn_to("wednesday")
    assert await polled() == (Limit(20), True)
    assert await polled() == (Limit(20), True)
    assert registry.get_sample_value("wireroom_gateway_limit_policy_bad") == 1
    assert (loads("loaded"), loads("refused")) == (1, 1)
    (tmp_path / "..data").unlink()
    assert await polled() == (Limit(20), True)
    # Back to what it was: good again.
    turn_to("tuesday")
    assert await polled() == (Limit(20), False)
    assert registry.get_sample_value("wireroom_gateway_limit_policy_bad") == 0
    # The same length and the same times: the content counts.
    file = tmp_path / "tuesday" / "limits.yaml"
    times = file.stat()
    file.write_text("version: 1\nlimits: {api: {ip: 30}}")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert await polled() == (Limit(30), False)


async def asked(rig: Rig, path: str = "/info") -> tuple[int, str]:
    async with rig.session.get(path) as reply:
        return reply.status, reply.headers.get("ratelimit-policy", "")


async def test_a_changed_file_holds_on_every_replica_without_restart(work_dir: Path, clean_valkey_url: str) -> None:
    file = work_dir / "limits.yaml"
    file.write_text("version: 1\nlimits: {api: {ip: 2}}")
    async with (
        running(work_dir / "a", redis_url=clean_valkey_url, limits_file=file) as first,
        running(work_dir / "b", redis_url=clean_valkey_url, limits_file=file) as second,
    ):
        polls = [work for rig in (first, second) for work in rig.service.periodic if work.name == "gateway.limits_file"]
        assert all(work.interval <= 2 for work in polls)
        assert [(await asked(rig))[0] for rig in (first, second, first)] == [200, 200, 429]
        file.write_text("version: 1\nlimits: {api: {ip: {requests: 5, window: 90}}}")
        for work in polls:
            await work.run()
        assert [await asked(rig) for rig in (first, second)] == [(200, '"api-ip";q=5;w=90')] * 2
        file.write_text("version: 1\nlimits: {api: {ip: nonsense}}")
        for work in polls:
            await work.run()
        assert await asked(first) == (200, '"api-ip";q=5;w=90')
        async with second.session.get("/ready") as reply:
            assert reply.status == 200
            assert (await reply.json())["checks"]["limits_file"] == "degraded"


async def test_shadow_rows_are_measured_but_never_refuse(work_dir: Path, clean_valkey_url: str) -> None:
    file = work_dir / "limits.yaml"
    file.write_text("version: 1\nlimits: {api: {ip: {requests: 1, shadow: true}}}")
    async with running(work_dir, redis_url=clean_valkey_url, limits_file=file) as rig:
        assert [await asked(rig) for _ in range(3)] == [(200, "")] * 3
        async with rig.session.get("/metrics") as reply:
            assert 'wireroom_gateway_limit_shadowed_total{bucket="api",scope="ip"} 2.0' in await reply.text()


async def test_allowed_networks_have_no_limit_per_address(work_dir: Path, clean_valkey_url: str) -> None:
    file = work_dir / "limits.yaml"
    file.write_text("version: 1\nlimits: {api: {ip: 1, global: 3}}\nallow: [127.0.0.0/8]")
    async with running(work_dir, redis_url=clean_valkey_url, limits_file=file) as rig:
        # What binds all, binds them too.
        assert [(await asked(rig))[0] for _ in range(4)] == [200, 200, 200, 429]


def limiter_for(policy: Policy) -> Limiter:
    clock = ManualClock()
    store = MemoryCounterStore(clock)
    return Limiter(lambda: policy, store, MemoryCounterStore(clock), clock, GatewayMetrics(CollectorRegistry()))


BY_KEY = Principal(PrincipalKind.API_KEY, "owner", TENANT, credential_id=KEY)


@pytest.mark.parametrize(
    ("rows", "own", "told"),
    [
        # A key's own limit only ever narrows what the policy gives it.
        ("{}", {}, {"api-key": (600, 60)}),
        ("{}", {"api": 30}, {"api-key": (30, 60)}),
        ("{}", {"api": 9_000}, {"api-key": (600, 60)}),
        ("{}", {"chat": 1}, {"api-key": (600, 60)}),
        ("{api: 9000}", {"api": 5_000}, {"api-key": (5_000, 60)}),
        ("{api: 10}", {"api": 5_000}, {"api-key": (10, 60)}),
        ("{api: unlimited}", {"api": 5_000}, {"api-key-own": (5_000, 60)}),
        # Other windows, and rows in shadow, do not imply it: both hold.
        ("{api: {requests: 10, window: 1}}", {"api": 50}, {"api-key": (10, 1), "api-key-own": (50, 60)}),
        ("{api: {requests: 10, shadow: true}}", {"api": 50}, {"api-key": (10, 60), "api-key-own": (50, 60)}),
    ],
)
async def test_limits_of_keys(rows: str, own: Mapping[str, int], told: Mapping[str, Any]) -> None:
    policy = parse(f"version: 1\nlimits: {{api: {{tenant: unlimited, global: unlimited}}}}\nkeys: {{{KEY}: {rows}}}")
    decision = await limiter_for(policy).charge(Bucket.API, BY_KEY, "192.0.2.1", own)
    assert decision is not None
    assert {row.name: (row.limit.quota, row.limit.window) for row in decision.rows} == told


@pytest.mark.parametrize(
    ("principal", "scopes"),
    [
        (ANONYMOUS, {"ip": network_of("2001:db8::1"), "global": "all"}),
        (Principal(PrincipalKind.USER, "u", TENANT), {"user": "u", "tenant": str(TENANT), "global": "all"}),
        (BY_KEY, {"key": KEY, "tenant": str(TENANT), "global": "all"}),
    ],
    ids=["anonymous", "user", "key"],
)
async def test_who_is_bound_by_which_rows(principal: Principal, scopes: Mapping[str, str]) -> None:
    for bucket in Bucket:
        decision = await limiter_for(Policy(policy_table({}))).charge(bucket, principal, "2001:db8::1")
        assert decision is not None
        assert {row.scope.value: row.subject for row in decision.rows} == scopes


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("proxy.example", "unknown"),
    ],
)
def test_addresses_are_counted_by_what_one_household_gets(address: str, network: str) -> None:
    assert network_of(address) == network
