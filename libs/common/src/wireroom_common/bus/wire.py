"""Envelopes as AMQP messages: CloudEvents binary mode, attributes in `cloudEvents:*` headers, the payload as body."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aio_pika import DeliveryMode, Message

from wireroom_common.bus.envelope import Envelope

PREFIX = "cloudEvents:"
ATTEMPTS_HEADER = "x-wireroom-attempts"
ERROR_HEADER = "x-wireroom-error"
CONTENT_TYPE = "application/protobuf"


class MalformedMessageError(Exception):
    """A message that is no event of ours; the text says what is wrong with it."""


def to_message(envelope: Envelope) -> Message:
    """A persistent message.

    Its `message_id` is left to the client library, which matches returned messages by it: the event's id would not do, because
    the same event may be on its way twice.
    """
    headers = {
        "specversion": "1.0",
        "id": str(envelope.id),
        "source": envelope.source,
        "type": envelope.type,
        "time": envelope.time.astimezone(UTC).isoformat(),
        "subject": envelope.subject,
        "tenantid": str(envelope.tenant_id) if envelope.tenant_id else "",
        "actor": envelope.actor,
        "traceparent": envelope.traceparent,
        "causationid": envelope.causation_id,
        "partitionkey": envelope.partition_key,
    }
    return Message(
        envelope.data,
        headers={PREFIX + name: value for name, value in headers.items() if value},
        content_type=CONTENT_TYPE,
        delivery_mode=DeliveryMode.PERSISTENT,
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
