"""Entries as they stand in Redis: a readable head, and a body that may be compressed and sealed."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Protocol

import msgspec

_COMPRESSED = 1
_SEALED = 2
_LEVEL = 1


class Sealing(Protocol):
    """Authenticated encryption of what leaves the process."""

    def close(self, plaintext: bytes, bound_to: bytes) -> bytes:
        """The sealed value; it opens only where the same `bound_to` is given."""

    def open(self, sealed: bytes, bound_to: bytes) -> bytes:
        """The plaintext; raises for another key, place or a changed value."""


class Head(msgspec.Struct, array_like=True, frozen=True):
    """Until when an entry is given (Unix milliseconds), and the tags with the versions it was made under."""

    until: int
    tags: list[str]
    versions: list[str]
    form: int = 0


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    head: Head
    body: bytes


@dataclass(frozen=True)
class Packing:
    """How a namespace's entries are packed."""

    seal: Sealing | None
    compress_above: int
    max_bytes: int

    def pack(self, name: str, head: Head, payload: bytes) -> bytes:
        """The entry for Redis."""
        body, form = payload, 0
        if len(payload) > self.compress_above:
            smaller = zlib.compress(payload, _LEVEL)
            if len(smaller) < len(payload):
                body, form = smaller, _COMPRESSED
        head = Head(head.until, head.tags, head.versions, form | (_SEALED if self.seal else 0))
        if self.seal is not None:
            # The head is bound too: nobody without the key can give an entry another end or other versions.
            body = self.seal.close(body, _bound(name, head))
        return msgspec.msgpack.encode(_Packed(head, body))

    def unpack(self, name: str, entry: bytes) -> tuple[Head, bytes] | None:
        """Head and payload; None for what was not packed like this, under this name, with this key."""
        try:
            packed = msgspec.msgpack.decode(entry, type=_Packed)
            head, body = packed.head, packed.body
            if bool(head.form & _SEALED) != (self.seal is not None) or len(head.tags) != len(head.versions):
                return None
            if self.seal is not None:
                body = self.seal.open(body, _bound(name, head))
            return head, self._inflated(body) if head.form & _COMPRESSED else body
        except Exception:  # noqa: BLE001 - of another version, another secret, or changed: whatever is wrong with it, it is no entry
            return None

    def _inflated(self, body: bytes) -> bytes:
        machine = zlib.decompressobj()
        payload = machine.decompress(body, self.max_bytes)
        if not machine.eof:
            msg = "An entry is larger than its namespace allows."
            raise ValueError(msg)
        return payload


def _bound(name: str, head: Head) -> bytes:
    return name.encode() + b"\x00" + msgspec.msgpack.encode(head)
