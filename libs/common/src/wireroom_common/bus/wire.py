"""Envelopes as AMQP messages: CloudEvents binary mode, attributes in `cloudEvents:*` headers, the payload as body."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from aio_pika import DeliveryMode
from aiormq import spec

from wireroom_common.bus.envelope import Envelope

PREFIX = "cloudEvents:"
ATTEMPTS_HEADER = "x-wireroom-attempts"
ERROR_HEADER = "x-wireroom-error"
CONTENT_TYPE = "application/protobuf"


class MalformedMessageError(Exception):
    """A message that is no event of ours; the text says what is wrong with it."""


class EventProperties(spec.Basic.Properties):
    """The properties of an event's message, which is persistent.

    They encode themselves: the library finds out the type of each value anew, which was half of what it costs to publish an event. The
    `message_id` is left to the library, which matches returned messages by it: the event's id would not do, because the same event may be
    on its way twice.
    """

    def __init__(self, envelope: Envelope) -> None:
        super().__init__(content_type=CONTENT_TYPE, delivery_mode=DeliveryMode.PERSISTENT)
        self._table = b"".join(
            [
                _entry_head(name) + struct.pack(">I", len(data)) + data
                for name, value in _attributes(envelope)
                if (data := value.encode())
            ]
        )

    def marshal(self) -> bytes:
        message_id = (self.message_id or "").encode()
        return b"".join(
            (
                _PROPERTIES_BEFORE_HEADERS,
                struct.pack(">I", len(self._table)),
                self._table,
                struct.pack(">BB", DeliveryMode.PERSISTENT, len(message_id)),
                message_id,
            )
        )


def _attributes(envelope: Envelope) -> tuple[tuple[str, str], ...]:
    return (
        ("specversion", "1.0"),
        ("id", str(envelope.id)),
        ("source", envelope.source),
        ("type", envelope.type),
        ("time", envelope.time.astimezone(UTC).isoformat()),
        ("subject", envelope.subject),
        ("tenantid", str(envelope.tenant_id) if envelope.tenant_id else ""),
        ("actor", envelope.actor),
        ("traceparent", envelope.traceparent),
        ("causationid", envelope.causation_id),
        ("partitionkey", envelope.partition_key),
    )


@cache
def _entry_head(name: str) -> bytes:
    """The name of an attribute in a field table, and the type of what follows: a long string."""
    encoded = (PREFIX + name).encode()
    return bytes([len(encoded)]) + encoded + b"S"


_FLAGS = spec.Basic.Properties.flags
_PROPERTIES_BEFORE_HEADERS = (
    struct.pack(">H", _FLAGS["content_type"] | _FLAGS["headers"] | _FLAGS["delivery_mode"] | _FLAGS["message_id"])
    + bytes([len(CONTENT_TYPE)])
    + CONTENT_TYPE.encode()
)


def from_message(headers: Mapping[str, Any], body: bytes) -> Envelope:
    """The envelope; `MalformedMessageError` if a required attribute is missing or unreadable. The payload is not looked at."""
    if _text(headers, "specversion") != "1.0":
        raise MalformedMessageError("The attribute 'specversion' is missing or not 1.0.")
    tenant = _text(headers, "tenantid")
    return Envelope(
        id=_uuid(_required(headers, "id"), "id"),
        source=_required(headers, "source"),
        type=_required(headers, "type"),
        time=_time(_required(headers, "time")),
        subject=_text(headers, "subject"),
        data=body,
        tenant_id=_uuid(tenant, "tenantid") if tenant else None,
        actor=_text(headers, "actor"),
        traceparent=_text(headers, "traceparent"),
        causation_id=_text(headers, "causationid"),
        partition_key=_text(headers, "partitionkey"),
    )


def attempts_of(headers: Mapping[str, Any]) -> int:
    """Failed attempts so far, as our own header counts them."""
    value = headers.get(ATTEMPTS_HEADER, 0)
    return value if isinstance(value, int) and value >= 0 else 0


def unreadable(headers: Mapping[str, Any], body: bytes) -> Envelope:
    """A stand-in that shows a malformed dead letter to the operator, with the nil UUID as its id."""
    return Envelope(
        id=UUID(int=0),
        source="",
        type=str(headers.get(PREFIX + "type", ""))[:255] or "malformed",
        time=datetime.fromtimestamp(0, UTC),
        subject="",
        data=body,
    )


def _text(headers: Mapping[str, Any], name: str) -> str:
    value = headers.get(PREFIX + name, "")
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise MalformedMessageError(f"The attribute '{name}' is not UTF-8.") from None
    if not isinstance(value, str):
        raise MalformedMessageError(f"The attribute '{name}' is not a string.")
    return value


def _required(headers: Mapping[str, Any], name: str) -> str:
    value = _text(headers, name)
    if not value:
        raise MalformedMessageError(f"The attribute '{name}' is missing.")
    return value


def _uuid(value: str, name: str) -> UUID:
    try:
        return UUID(value)
    except ValueError:
        raise MalformedMessageError(f"The attribute '{name}' is not a UUID.") from None


def _time(value: str) -> datetime:
    try:
        parsed = datetime.fromisoformat(value)
    except ValueError:
        raise MalformedMessageError("The attribute 'time' is not an ISO 8601 time.") from None
    if parsed.tzinfo is None:
        raise MalformedMessageError("The attribute 'time' has no time zone.")
    return parsed
