"""HTTP and HTTPS for one ASGI application: uvicorn servers that leave signals to the process."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wireroom_common.clock import Clock
from wireroom_common.errors import OperatorError
from wireroom_common.runtime.service import HttpApp

_BACKLOG = 2048
_CERTIFICATE_LIFETIME = timedelta(days=825)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServers:
    """The listeners of one `HttpApp`. `start` returns once they accept connections."""

    def __init__(self, http: HttpApp, *, certificate_dir: Path, clock: Clock, drain_timeout: float) -> None:
        self._http = http
        self._certificate_dir = certificate_dir
        self._clock = clock
        self._drain_timeout = drain_timeout
        self._servers: list[_Server] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> list[str]:
        """Listen; returns the base URLs."""
        urls = [await self._listen("http", self._http.port, None, None)]
        if self._http.tls_port:
            cert, key = self._http.tls_cert, self._http.tls_key
            if not cert:
                cert, key = self_signed(self._certificate_dir, self._clock)
            urls.append(await self._listen("https", self._http.tls_port, cert, key))
        return urls

    async def _listen(self, scheme: str, port: int, cert: str | None, key: str | None) -> str:
        try:
            listener = socket.create_server(
                (self._http.host, port), family=socket.AF_INET6 if ":" in self._http.host else socket.AF_INET, backlog=_BACKLOG
            )
        except OSError as error:
            detail = error.strerror or type(error).__name__
            raise OperatorError(f"Cannot listen on {self._http.host}:{port} for {scheme}: {detail}.") from error
        config = uvicorn.Config(
            self._http.app,
            loop="none",
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            proxy_headers=False,
            ssl_certfile=cert,
            ssl_keyfile=key,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=int(self._drain_timeout),
            h11_max_incomplete_event_size=64 * 1024,
            backlog=_BACKLOG,
        )
        config.load()
        if config.ssl is not None:
            config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        server = _Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]), name=f"{scheme}-server")
        while not server.started and not task.done():  # noqa: ASYNC110 - the library offers no event to wait for
            await asyncio.sleep(0.005)
        self._servers.append(server)
        self.tasks.append(task)
        host = "127.0.0.1" if self._http.host in {"0.0.0.0", "::"} else self._http.host  # noqa: S104 - compared, not bound
        return f"{scheme}://{host}:{listener.getsockname()[1]}"

    async def stop(self) -> None:
        """Refuse new connections, let requests and streams finish within the drain time, close."""
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self.tasks, return_exceptions=True)


def self_signed(folder: Path, clock: Clock) -> tuple[str, str]:
    """Paths of a certificate for localhost and its key, made at first use. Clients must be told to trust it."""
    cert_path, key_path = folder / "tls.crt", folder / "tls.key"
    if cert_path.exists() and key_path.exists():
        current = x509.load_pem_x509_certificate(cert_path.read_bytes())
        if current.not_valid_after_utc > clock.now() + timedelta(days=7):
            return str(cert_path), str(key_path)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = clock.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _CERTIFICATE_LIFETIME)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName("localhost"),
                    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
                    x509.IPAddress(ipaddress.ip_address("::1")),
                ]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    key_path.touch(mode=0o600)
    key_path.chmod(0o600)
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    cert_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return str(cert_path), str(key_path)
