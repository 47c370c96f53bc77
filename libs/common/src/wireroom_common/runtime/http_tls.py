"""TLS of the listeners: versions and ciphers, certificates that are read again when they change, one made for localhost."""

from __future__ import annotations

import ipaddress
import ssl
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from wireroom_common.clock import Clock
from wireroom_common.errors import OperatorError
from wireroom_common.logging import get_logger

# Forward secrecy and authenticated encryption only; those of TLS 1.3 are all of that kind.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CERTIFICATE_LIFETIME = timedelta(days=825)
_log = get_logger(__name__)

_Signature = tuple[tuple[int, int, int], ...]


class TlsIdentity:
    """A certificate with its key, and the context for new connections that shows it."""

    def __init__(self, cert: str, key: str) -> None:
        """OperatorError when the files cannot be used."""
        self._cert, self._key = Path(cert), Path(key)
        self._complained: _Signature | None = None
        try:
            self._loaded = self._signature()
            self.context = self._new_context()
        except OSError as error:
            raise OperatorError(
                f"The certificate {cert} and the key {key} cannot be used: {error.strerror or type(error).__name__}."
            ) from error

    def reload_if_changed(self) -> bool:
        """Read the files again if they changed. A pair that does not fit is left alone until it does."""
        try:
            signature = self._signature()
            if signature == self._loaded:
                return False
            # A context of its own: the old pair stays in use until the new one is known to be whole.
            context = self._new_context()
        except OSError as error:
            self._complain(error)
            return False
        self.context, self._loaded, self._complained = context, signature, None
        _log.info("certificate_reloaded", path=str(self._cert))
        return True

    def _complain(self, error: OSError) -> None:
        try:
            signature: _Signature = self._signature()
        except OSError:
            signature = ()
        if signature != self._complained:
            self._complained = signature
            _log.error("certificate_unusable", path=str(self._cert), error=error.strerror or type(error).__name__)

    def _signature(self) -> _Signature:
        stats = [path.stat() for path in (self._cert, self._key)]
        return tuple((entry.st_mtime_ns, entry.st_size, entry.st_ino) for entry in stats)

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_ciphers(_CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        # Without a password of its own, OpenSSL would ask for one on the terminal.
        context.load_cert_chain(self._cert, self._key, password="")
        return context


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
