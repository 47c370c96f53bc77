"""Whose address a request counts for, and which header fields only proxies may state."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import Rig, running
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from structlog.testing import capture_logs

from wireroom_common.runtime.http_limits import TrustedProxies
from wireroom_gateway.client_address import ClientAddresses, ForwardedHeader, Origin
from wireroom_gateway.settings import GatewaySettings

TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48")
PROXY = "10.0.0.1"


def claim(
    peer: str, *headers: tuple[str, str], trusted: tuple[str, ...] = TRUSTED, header: str = "x-forwarded-for"
) -> tuple[Origin, dict[str, Any]]:
    scope: dict[str, Any] = {
        "client": (peer, 1),
        "scheme": "http",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    return ClientAddresses(TrustedProxies(trusted), ForwardedHeader(header)).claim(scope), scope


@pytest.mark.parametrize(
    ("peer", "value", "client"),
    [
        (PROXY, "203.0.113.7", "203.0.113.7"),
        (PROXY, " 203.0.113.7 ", "203.0.113.7"),
        (PROXY, "1.1.1.1, 203.0.113.7", "203.0.113.7"),
        (PROXY, "1.1.1.1, 203.0.113.7, 10.9.9.9", "203.0.113.7"),
        (PROXY, "203.0.113.7, 10.3.3.3,10.9.9.9", "203.0.113.7"),
        (PROXY, "10.2.2.2, 10.9.9.9", "10.2.2.2"),
        (PROXY, "203.0.113.7:4711", "203.0.113.7"),
        (PROXY, "[2001:db8::7]:4711", "2001:db8::7"),
        (PROXY, "[2001:db8::7]", "2001:db8::7"),
        (PROXY, "2001:db8::7", "2001:db8::7"),
        (PROXY, "::ffff:203.0.113.7", "203.0.113.7"),
        ("::ffff:10.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("2001:db8:1::5", "203.0.113.7, 2001:db8:1::6", "203.0.113.7"),
        # What cannot be read stops the walk at the last good address.
        (PROXY, "1.1.1.1, unknown, 10.9.9.9", "10.9.9.9"),
        (PROXY, "unknown", PROXY),
        (PROXY, "", PROXY),
        (PROXY, "203.0.113.7,", PROXY),
        (PROXY, "203.0.113.7:x", PROXY),
        (PROXY, "203.0.113.7:123456", PROXY),
        (PROXY, "[203.0.113.7]", PROXY),
        (PROXY, "[::1", PROXY),
        (PROXY, "fe80::1%eth0", PROXY),
        (PROXY, "0x7f.1", PROXY),
        (PROXY, "127.1", PROXY),
        (PROXY, "010.0.0.9", PROXY),
        (PROXY, "2130706433", PROXY),
        (PROXY, "203.0.113.7\t\x01", PROXY),
        (PROXY, "²03.0.113.7", PROXY),
        # From anybody else it says nothing.
        ("203.0.113.9", "1.1.1.1", "203.0.113.9"),
        ("203.0.113.9", "10.0.0.5", "203.0.113.9"),
    ],
)
def test_the_list_is_read_from_the_right_as_far_as_trust_goes(peer: str, value: str, client: str) -> None:
    origin, scope = claim(peer, ("x-forwarded-for", value), ("accept", "*/*"))
    assert origin.client == client
    assert origin.relayed
    assert scope["headers"] == [(b"accept", b"*/*")]


@pytest.mark.parametrize(
    ("value", "client", "scheme"),
    [
        ("for=203.0.113.7", "203.0.113.7", "http"),
        ("for=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7", "https"),
        ('For="[2001:db8::7]:4711";Proto=HTTPS', "2001:db8::7", "https"),
        ("for=1.1.1.1, for=203.0.113.7, for=10.9.9.9;proto=https", "203.0.113.7", "https"),
        ("proto=https;for=203.0.113.7", "203.0.113.7", "https"),
        ("for=1.1.1.1, for=unknown, for=10.9.9.9", "10.9.9.9", "http"),
        ("for=_hidden", PROXY, "http"),
        ('for="a,b;c=d\\"e", for=203.0.113.7', "203.0.113.7", "http"),
        # A list that cannot be read as a whole says nothing: where an entry begins would be a guess.
        ('for="1.1.1.1, for=203.0.113.7', PROXY, "http"),
        ("for=203.0.113.7;for=1.1.1.1", PROXY, "http"),
        ("203.0.113.7", PROXY, "http"),
        ("", PROXY, "http"),
    ],
)
def test_the_standard_header_is_read_where_it_is_chosen(value: str, client: str, scheme: str) -> None:
    origin, scope = claim(PROXY, ("forwarded", value), header="forwarded")
    assert (origin.client, origin.scheme, scope["scheme"]) == (client, scheme, scheme)


def test_the_header_that_the_proxies_do_not_write_counts_for_nothing() -> None:
    both = (("forwarded", "for=1.1.1.1;proto=https"), ("x-forwarded-for", "203.0.113.7"))
    assert claim(PROXY, *both)[0].client == "203.0.113.7"
    assert claim(PROXY, *both)[0].scheme == "http"
    assert claim(PROXY, *both, header="forwarded")[0].client == "1.1.1.1"
    assert claim(PROXY, both[0])[0].client == PROXY


def test_several_fields_are_one_list() -> None:
    fields = (("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "203.0.113.7, 10.4.4.4"), ("x-forwarded-for", "10.9.9.9"))
    assert claim(PROXY, *fields)[0].client == "203.0.113.7"


def test_the_walk_is_bounded() -> None:
    assert claim(PROXY, ("x-forwarded-for", "203.0.113.7," + "10.9.9.9," * 40 + "10.9.9.9"))[0].client == "10.9.9.9"


@pytest.mark.parametrize(
    ("peer", "value", "scheme"),
    [(PROXY, "https", "https"), (PROXY, "http, HTTPS", "https"), (PROXY, "javascript", "http"), ("203.0.113.9", "https", "http")],
)
def test_the_scheme_comes_from_a_trusted_proxy_only(peer: str, value: str, scheme: str) -> None:
    origin, scope = claim(peer, ("x-forwarded-proto", value))
    assert (origin.scheme, scope["scheme"]) == (scheme, scheme)


@pytest.mark.parametrize(
    "name",
    [
        "x-forwarded-for",
        "x-forwarded-host",
        "x_forwarded_for",
        "x-real-ip",
        "forwarded",
        "x-user-id",
        "x-user-roles",
        "x-internal-token",
    ],
)
def test_reserved_fields_are_dropped_whoever_sends_them(name: str) -> None:
    for peer in (PROXY, "203.0.113.9"):
        origin, scope = claim(peer, (name, "1.1.1.1"), ("x-request-id", "abcdefgh"), ("authorization", "x"))
        assert [entry[0] for entry in scope["headers"]] == [b"x-request-id", b"authorization"]
        assert origin.client == (peer if name != "x-forwarded-for" or peer != PROXY else "1.1.1.1")


@given(st.text(max_size=80), st.sampled_from(["x-forwarded-for", "forwarded"]))
def test_no_header_leads_to_anything_but_an_address(value: str, header: str) -> None:
    origin, _ = claim(PROXY, (header, value.encode("utf-8", "replace").decode("latin-1")), header=header)
    assert str(ipaddress.ip_address(origin.client)) == origin.client


@given(
    st.lists(st.ip_addresses(), max_size=5), st.lists(st.ip_addresses(v=4, network="10.0.0.0/8"), max_size=5), st.ip_addresses()
)
def test_nothing_that_the_client_writes_changes_its_address(forged: list[Any], proxies: list[Any], client: Any) -> None:
    if str(client) in TrustedProxies(TRUSTED):
        return
    value = ", ".join(str(entry) for entry in [*forged, client, *proxies])
    shown = client.ipv4_mapped or client if isinstance(client, ipaddress.IPv6Address) else client
    assert claim(PROXY, ("x-forwarded-for", value))[0].client == str(shown)


async def client_in_log(rig: Rig, headers: dict[str, str]) -> tuple[str, str]:
    """What the access log and the services take for the client."""
    with capture_logs() as logs:
        async with rig.session.get("/health/detailed", headers={**headers, **rig.bearer("monitoring:read")}) as reply:
            assert reply.status == 200
            assert ("strict-transport-security" in reply.headers) is (
                headers.get("x-forwarded-proto") == "https" and len(rig.settings.trusted_proxies) > 0
            )
    return next(entry["client"] for entry in logs if entry["event"] == "http_request"), reply.headers["x-request-id"]


async def test_without_trusted_proxies_a_forged_header_changes_nothing(rig: Rig) -> None:
    forged = {
        "x-forwarded-for": "203.0.113.7",
        "forwarded": "for=203.0.113.7",
        "x-real-ip": "203.0.113.7",
        "x-forwarded-proto": "https",
    }
    assert (await client_in_log(rig, forged))[0] == "127.0.0.1"


async def test_behind_a_trusted_proxy_the_told_client_counts(work_dir: Path) -> None:
    async with running(work_dir, trusted_proxies=("127.0.0.0/8",)) as rig:
        told = {"x-forwarded-for": "9.9.9.9, 203.0.113.7", "x-forwarded-proto": "https"}
        assert (await client_in_log(rig, told))[0] == "203.0.113.7"


@pytest.mark.parametrize(
    "headers",
    [
        {"x-forwarded-for": "127.0.0.1"}, {"x-forwarded-for": "203.0.113.7"}, {"forwarded": "for=127.0.0.1"}, {"via": "1.1 proxy"},
        {"x-real-ip": "127.0.0.1"}, {"x-forwarded-proto": "https"}, {"host": "api.example.com"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("trusted", [(), ("127.0.0.1",)])
async def test_a_proxy_on_this_machine_does_not_open_the_metrics(
    work_dir: Path, trusted: tuple[str, ...], headers: dict[str, str]
) -> None:
    async with running(work_dir, trusted_proxies=trusted, allowed_hosts=("*",)) as rig:
        async with rig.session.get("/metrics") as reply:
            assert reply.status == 200
        async with rig.session.get("/metrics", headers=headers) as reply:
            assert reply.status == 403


async def test_the_metrics_are_not_opened_by_the_proxy_protocol(work_dir: Path) -> None:
    async with running(work_dir, trusted_proxies=("127.0.0.1",), proxy_protocol=True) as rig:
        for source in ("203.0.113.7", "127.0.0.1"):
            reader, writer = await rig.connect()
            writer.write(f"PROXY TCP4 {source} 127.0.0.1 1 2\r\n".encode() + rig.head("GET", "/metrics", connection="close"))
            assert (await reader.readline()).startswith(b"HTTP/1.1 403")
            writer.close()


@pytest.mark.parametrize(
    "wrong", [{"trusted_proxies": ("10.0.0.1/8",)}, {"trusted_proxies": ("proxy",)}, {"proxy_protocol": True}]
)
def test_settings_that_trust_nobody_in_particular_stop_the_start(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"trusted_proxies|proxy_protocol"):
        GatewaySettings(**wrong)
