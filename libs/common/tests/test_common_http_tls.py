"""HTTPS of the listener: versions, ciphers, certificates that change, and callers that do not speak TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import warnings
from pathlib import Path

import pytest
from http_listener_rig import Listener, listening
from structlog.testing import capture_logs

from wireroom_common.clock import SystemClock
from wireroom_common.errors import OperatorError
from wireroom_common.runtime.http_limits import HttpLimits
from wireroom_common.runtime.http_tls import TlsIdentity, self_signed
from wireroom_common.testing import eventually

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def trusting(certificate: str | Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def pair(folder: Path) -> tuple[str, str]:
    return self_signed(folder, SystemClock())


async def test_requests_over_tls_are_served_and_the_scheme_is_told(tmp_path: Path) -> None:
    cert, key = pair(tmp_path / "one")
    async with listening(tmp_path, tls_port=free_port(), tls_cert=cert, tls_key=key) as listener:
        connection = await listener.connect(tls=trusting(cert))
        await connection.send(GET)
        assert (await connection.answer()).json()["scheme"] == "https"
        channel = connection.writer.get_extra_info("ssl_object")
        assert channel.version() == "TLSv1.3"
        connection.close()


async def test_old_versions_and_weak_ciphers_are_refused(tmp_path: Path) -> None:
    cert, key = pair(tmp_path / "one")
    async with listening(tmp_path, tls_port=free_port(), tls_cert=cert, tls_key=key) as listener:
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            old = trusting(cert)
            old.set_ciphers("ALL:@SECLEVEL=0")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                old.minimum_version = version
                old.maximum_version = version
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await listener.connect(tls=old)
        for ciphers, accepted in (("AES256-SHA", False), ("ECDHE+AES+SHA256:!AESGCM", False), ("ECDHE+AESGCM", True)):
            context = trusting(cert)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)
            if accepted:
                (await listener.connect(tls=context)).close()
            else:
                with pytest.raises((ssl.SSLError, ConnectionError)):
                    await listener.connect(tls=context)


async def test_a_new_certificate_is_shown_without_a_restart_and_a_broken_one_never(tmp_path: Path) -> None:
    first, second = pair(tmp_path / "first"), pair(tmp_path / "second")
    live = tmp_path / "live.crt", tmp_path / "live.key"
    for source, target in zip(first, live, strict=True):
        shutil.copy(source, target)

    async def shows(listener: Listener, certificate: str) -> bool:
        try:
            (await listener.connect(tls=trusting(certificate))).close()
        except ssl.SSLCertVerificationError:
            return False
        return True

    async with listening(tmp_path, tls_port=free_port(), tls_cert=str(live[0]), tls_key=str(live[1])) as listener:
        kept = await listener.connect(tls=trusting(first[0]))
        with capture_logs() as logs:
            live[0].write_text("half a certificate")
            await eventually(lambda: any(entry["event"] == "certificate_unusable" for entry in logs))
            shutil.copy(second[0], live[0])
            await asyncio.sleep(0)
            assert await shows(listener, first[0])
            shutil.copy(second[1], live[1])
            async with asyncio.timeout(10):
                while not await shows(listener, second[0]):  # noqa: ASYNC110 - only a handshake can tell
                    await asyncio.sleep(0.1)
        assert not await shows(listener, first[0])
        # Connections that were there go on.
        await kept.send(GET)
        assert (await kept.answer()).status == 200
        kept.close()


def test_a_pair_that_does_not_fit_stops_the_start(tmp_path: Path) -> None:
    first, second = pair(tmp_path / "first"), pair(tmp_path / "second")
    for cert, key in ((first[0], second[1]), (first[0], str(tmp_path / "none")), (first[1], first[1])):
        with pytest.raises(OperatorError, match="cannot be used"):
            TlsIdentity(cert, key)


async def test_plain_http_on_the_tls_port_ends_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path, tls_port=free_port()) as listener:
        connection = await listener.connect(plain_to_tls=True)
        await connection.send(GET)
        assert await connection.ended()
        assert listener.cut("handshake_failed") == 1
        assert listener.app.served == []
        await eventually(lambda: listener.open == 0)


async def test_a_handshake_that_stands_still_is_ended(tmp_path: Path) -> None:
    limits = HttpLimits(tls_handshake_seconds=0.4)
    async with listening(tmp_path, tls_port=free_port(), limits=limits) as listener:
        silent = await listener.connect(plain_to_tls=True)
        half = await listener.connect(plain_to_tls=True)
        await half.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc")
        assert await silent.ended()
        assert await half.ended()
        await eventually(lambda: listener.open == 0)


async def test_refusals_over_tls_are_answers_too(tmp_path: Path) -> None:
    cert, key = pair(tmp_path / "one")
    async with listening(tmp_path, tls_port=free_port(), tls_cert=cert, tls_key=key) as listener:
        connection = await listener.connect(tls=trusting(cert))
        await connection.send(b"GET / HTTP/1.1\r\n\r\n")
        assert (await connection.answer()).json()["code"] == "host_invalid"
        assert await connection.ended()
        connection.close()
