"""A stored answer, and its encrypted form."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE = 12


class NotKept(StrEnum):
    """Why an answer cannot be given again."""

    SECRET = "secret"  # noqa: S105 - the reason's name
    STREAM = "stream"
    LARGE = "large"
    UNREAD = "unread"
    SOURCES = "sources"


@dataclass(frozen=True)
class StoredAnswer:
    """What became of a request. `fingerprint` is empty if its body was not read to the end; with `not_kept` there is no answer.

    `sources`: the tenant's mark when the answer was asked for, if it may quote documents.
    """

    fingerprint: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""
    not_kept: NotKept | None = None
    sources: str = ""


def seal(answer: StoredAnswer, secret: bytes, name: str) -> bytes:
    """Encrypted with AES-256-GCM, bound to its `name`."""
    head = orjson.dumps(
        {
            "fingerprint": answer.fingerprint.hex(),
            "status": answer.status,
            "headers": [[key.decode("latin-1"), value.decode("latin-1")] for key, value in answer.headers],
            "not_kept": answer.not_kept,
            "sources": answer.sources,
        }
    )
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(secret).encrypt(nonce, len(head).to_bytes(4, "big") + head + answer.body, name.encode())


def unseal(sealed: bytes, secret: bytes, name: str) -> StoredAnswer | None:
    """The answer; None if it is not one of this key's."""
    try:
        plain = AESGCM(secret).decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode())
    except (InvalidTag, ValueError):
        return None
    size = int.from_bytes(plain[:4], "big")
    head = orjson.loads(plain[4 : 4 + size])
    return StoredAnswer(
        bytes.fromhex(head["fingerprint"]),
        head["status"],
        tuple((key.encode("latin-1"), value.encode("latin-1")) for key, value in head["headers"]),
        plain[4 + size :],
        NotKept(head["not_kept"]) if head["not_kept"] else None,
        head.get("sources", ""),
    )
