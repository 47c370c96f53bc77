"""Key files of the process roles: `<dir>/<issuer>.key` (PEM, 0600) and `<dir>/trusted.json` (issuer → public keys).

Any number of processes may call these functions at the same time on the same folder.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from wireroom_common.errors import ErrorKind, WireroomError

_ISSUER = re.compile(r"[a-z][a-z0-9_-]{0,31}")
# Old keys stay trusted through a rotation; more than a few would never be cleaned up.
_MAX_KEYS_PER_ISSUER = 4


def ensure_key(directory: Path, issuer: str) -> Ed25519PrivateKey:
    """The private key of `issuer`, made if there is none, with its public half entered in `trusted.json`."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _key_path(directory, issuer)
    if not path.exists():
        content = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        # Unlike a rename, a link fails if another process was first; both then use that one's key.
        with _temporary(directory, content) as temporary, contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    key = load_key(directory, issuer)
    trust(directory, issuer, key.public_key())
    return key


def load_key(directory: Path, issuer: str) -> Ed25519PrivateKey:
    """The private key of `issuer`; INTERNAL with the reason if there is none that can be used."""
    path = _key_path(directory, issuer)
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise WireroomError(ErrorKind.INTERNAL, "signing_key_missing", f"The key file {path} is missing.") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise WireroomError(ErrorKind.INTERNAL, "signing_key_unusable", f"{path} holds no unencrypted PEM key.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise WireroomError(ErrorKind.INTERNAL, "signing_key_unusable", f"The key in {path} is not an Ed25519 key.")
    return key


def trust(directory: Path, issuer: str, key: Ed25519PublicKey) -> None:
    """Enter a public key of `issuer` in `trusted.json`; the oldest goes when there are more than four."""
    _key_path(directory, issuer)
    encoded = base64.b64encode(key.public_bytes_raw()).decode()
    with (directory / "trusted.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = _read(directory)
        if encoded in entries.get(issuer, []):
            return
        entries[issuer] = [*entries.get(issuer, []), encoded][-_MAX_KEYS_PER_ISSUER:]
        with _temporary(directory, orjson.dumps(entries, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS)) as temporary:
            temporary.replace(directory / "trusted.json")


def load_trusted(directory: Path) -> dict[str, list[Ed25519PublicKey]]:
    """The trusted public keys by issuer; empty if the file is not there yet, INTERNAL if it cannot be used."""
    try:
        return {
            issuer: [Ed25519PublicKey.from_public_bytes(base64.b64decode(key, validate=True)) for key in keys]
            for issuer, keys in _read(directory).items()
        }
    except (ValueError, binascii.Error):
        raise _unusable(directory) from None


def _read(directory: Path) -> dict[str, list[str]]:
    try:
        entries = orjson.loads((directory / "trusted.json").read_bytes())
    except FileNotFoundError:
        return {}
    except orjson.JSONDecodeError:
        raise _unusable(directory) from None
    if not isinstance(entries, dict) or not all(
        isinstance(keys, list) and all(isinstance(key, str) for key in keys) for keys in entries.values()
    ):
        raise _unusable(directory)
    return entries


def _unusable(directory: Path) -> WireroomError:
    return WireroomError(
        ErrorKind.INTERNAL,
        "trusted_keys_unusable",
        f"{directory / 'trusted.json'} is not an object of issuer → list of base64 Ed25519 public keys.",
    )


def _key_path(directory: Path, issuer: str) -> Path:
    if not _ISSUER.fullmatch(issuer):
        raise ValueError(f"{issuer!r} is not the name of a process role")
    return directory / f"{issuer}.key"


@contextmanager
def _temporary(directory: Path, content: bytes) -> Iterator[Path]:
    """A file with `content` and mode 0600 in `directory`, on disk, removed at the end unless it was moved."""
    handle, name = tempfile.mkstemp(dir=directory, prefix=".new-")
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield path
    finally:
        path.unlink(missing_ok=True)
