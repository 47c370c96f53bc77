"""The PROXY protocol: the parser against anything, the listener over sockets."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import struct
from pathlib import Path

import pytest
from http_listener_rig import listening
from hypothesis import given
from hypothesis import strategies as st

from wireroom_common.clock import SystemClock
from wireroom_common.runtime.http_limits import HttpLimits, TrustedProxies, client_group, parse_address
from wireroom_common.runtime.http_proxy_protocol import ProxyHeaderError, parse_v1, parse_v2, v2_length
from wireroom_common.runtime.http_tls import self_signed
from wireroom_common.testing import eventually

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\r\n"


def v2(source: str, port: int, *, command: int = 0x21, extension: bytes = b"") -> bytes:
    address = ipaddress.ip_address(source)
    other = ipaddress.ip_address("192.0.2.1" if address.version == 4 else "2001:db8::1")
    body = address.packed + other.packed + struct.pack("!HH", port, 443) + extension
    return SIGNATURE + bytes([command, 0x11 if address.version == 4 else 0x21]) + struct.pack("!H", len(body)) + body


def test_lines_of_version_1_are_read() -> None:
    assert parse_v1(V1) == ("203.0.113.7", 56324)
    assert parse_v1(b"PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n") == ("2001:db8::7", 1)
    assert parse_v1(b"PROXY UNKNOWN\r\n") is None
    assert parse_v1(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n") is None


@pytest.mark.parametrize(
    "line",
    [
        b"", b"PROXY", b"PROXY \r\n", b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 443\n", b"PROXY TCP4 203.0.113.7 192.0.2.1 56324\r\n",
        b"PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n", b"PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n", b"PROXY TCP4 a b 1 2\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 443\r\n", b"PROXY TCP4 203.0.113.7 192.0.2.1 01 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 443\r\n", b"PROXY TCP4  203.0.113.7 192.0.2.1 1 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 443 x\r\n", b"proxy TCP4 203.0.113.7 192.0.2.1 1 443\r\n",
        b"PROXY TCP4 \xff 192.0.2.1 1 443\r\n", b"PROXY UNKNOWN" + b"x" * 200 + b"\r\n", b"PROXY UDP4 203.0.113.7 192.0.2.1 1 443\r\n",
    ],
)  # fmt: skip
def test_other_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        parse_v1(line)


@given(st.ip_addresses(), st.integers(0, 65535), st.binary(max_size=100))
def test_headers_of_version_2_are_read(source: ipaddress.IPv4Address, port: int, extension: bytes) -> None:
    header = v2(str(source), port, extension=extension)
    assert v2_length(header[:16]) == len(header) - 16
    assert parse_v2(header[:16], header[16:]) == (str(source), port)
    assert parse_v2(*_split(v2(str(source), port, command=0x20))) is None


@given(
    st.binary(max_size=200),
    st.sampled_from([b"", SIGNATURE, SIGNATURE + b"\x21\x11", SIGNATURE + b"\x21\x21\x00\x24", b"PROXY "]),
)
def test_no_bytes_break_the_parsers(data: bytes, start: bytes) -> None:
    whole = start + data
    for parse in (lambda: parse_v1(whole), lambda: parse_v1(whole + b"\r\n"), lambda: parse_v2(*_split(whole))):
        try:
            found = parse()
        except ProxyHeaderError:
            continue
        assert found is None or (parse_address(found[0]) is not None and 0 <= found[1] <= 65535)


def _split(header: bytes) -> tuple[bytes, bytes]:
    return header[:16], header[16:]


def test_version_2_headers_that_are_cut_or_too_long_are_refused() -> None:
    header = v2("203.0.113.7", 1)
    for head, rest in (
        (header[:15], b""),
        (header[:16], header[16:-1]),
        (SIGNATURE + b"\x31\x11" + header[14:16], header[16:]),
        (SIGNATURE + b"\x22\x11" + header[14:16], header[16:]),
        (SIGNATURE + b"\x21\x11\x00\x04", header[16:20]),
        (SIGNATURE + b"\x21\x11\xff\xff", bytes(65535)),
    ):
        with pytest.raises(ProxyHeaderError):
            parse_v2(head, rest)


@pytest.mark.parametrize(
    ("header", "client"),
    [
        (V1, "203.0.113.7"),
        (v2("203.0.113.8", 9), "203.0.113.8"),
        (v2("2001:db8::9", 9, extension=bytes(50)), "2001:db8::9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (v2("203.0.113.8", 9, command=0x20), "127.0.0.1"),
    ],
)
async def test_the_told_address_is_the_client_and_the_peer_stays_known(tmp_path: Path, header: bytes, client: str) -> None:
    async with listening(tmp_path, proxy_protocol=True, trusted_proxies=("127.0.0.1",)) as listener:
        for parts in ([header + GET], [bytes([byte]) for byte in header] + [GET]):
            connection = await listener.connect()
            for part in parts:
                await connection.send(part)
            told = (await connection.answer()).json()
            assert (told["client"], told["peer"]) == (client, "127.0.0.1")
            connection.close()


async def test_the_header_comes_before_the_handshake(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    cert, _ = self_signed(tmp_path / "tls", SystemClock())
    async with listening(tmp_path, tls_port=port, proxy_protocol=True, trusted_proxies=("127.0.0.1",)) as listener:
        connection = await listener.connect(plain_to_tls=True)
        await connection.send(V1)
        await connection.writer.start_tls(_trusting(cert), server_hostname="localhost")
        await connection.send(GET)
        told = (await connection.answer()).json()
        assert (told["client"], told["scheme"]) == ("203.0.113.7", "https")
        connection.close()


def _trusting(cert: str) -> ssl.SSLContext:

    return ssl.create_default_context(cafile=cert)


async def test_connections_without_header_or_from_others_are_ended(tmp_path: Path) -> None:
    limits = HttpLimits(head_seconds=0.4)
    for trusted, data in (
        (("127.0.0.1",), GET),
        (("10.0.0.0/8",), V1 + GET),
        (("127.0.0.1",), b"PROXY "),
        (("127.0.0.1",), SIGNATURE),
    ):
        async with listening(tmp_path, proxy_protocol=True, trusted_proxies=trusted, limits=limits) as listener:
            connection = await listener.connect()
            await connection.send(data)
            assert await connection.ended()
            assert listener.app.served == []
            assert listener.cut("proxy_header") + listener.cut("handshake_timeout") == 1
            await eventually(lambda listener=listener: listener.open == 0)


async def test_the_cap_of_connections_counts_the_told_address(tmp_path: Path) -> None:
    limits = HttpLimits(connections_per_client=1)
    async with listening(tmp_path, proxy_protocol=True, trusted_proxies=("127.0.0.1",), limits=limits) as listener:
        connections, statuses = [], []
        for source in ("203.0.113.7", "203.0.113.8", "203.0.113.7"):
            connections.append(await listener.connect())
            await connections[-1].send(v2(source, 1) + GET)
            statuses.append((await connections[-1].answer()).status)
        assert statuses == [200, 200, 503]
        for connection in connections:
            connection.close()


def test_addresses_share_what_a_customer_gets() -> None:
    assert client_group("203.0.113.7") == client_group("::ffff:203.0.113.7") != client_group("203.0.113.8")
    assert client_group("2001:db8:0:1::1") == client_group("2001:db8:0:1:ffff::") != client_group("2001:db8:0:2::1")


def test_trust_is_by_network_and_nothing_by_default() -> None:
    assert "127.0.0.1" not in TrustedProxies()
    trusted = TrustedProxies(("10.0.0.0/8", "2001:db8::/32", "192.0.2.1"))
    assert all(address in trusted for address in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "192.0.2.1"))
    assert not any(
        address in trusted for address in ("11.0.0.1", "192.0.2.2", "2001:db9::1", "", "x", "10.0.0.1%x", "fe80::1%eth0")
    )
    for wrong in ("10.0.0.1/8", "x", "10.0.0.0/33", ""):
        with pytest.raises(ValueError, match=r".+"):
            TrustedProxies((wrong,))
