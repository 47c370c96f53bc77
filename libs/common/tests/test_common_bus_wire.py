from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands as spec
from pamqp.header import ContentHeader
from sqlalchemy.exc import ProgrammingError

from wireroom_common.bus import Envelope
from wireroom_common.bus.parking import from_bytes, to_bytes
from wireroom_common.bus.wire import EventProperties, MalformedMessageError, attempts_of, from_message
from wireroom_common.error_text import describe_error
from wireroom_common.errors import invalid

words = st.text(st.characters(blacklist_categories=["Cs"]), max_size=40)
envelopes = st.builds(
    Envelope,
    id=st.uuids(),
    source=words.filter(bool),
    type=words.filter(bool),
    time=st.datetimes(timezones=st.just(UTC)),
    subject=words,
    data=st.binary(max_size=200),
    tenant_id=st.none() | st.uuids(),
    actor=words,
    traceparent=words,
    causation_id=words,
    partition_key=words,
)
junk = st.none() | st.booleans() | st.integers() | st.binary(max_size=9) | words | st.lists(st.integers(), max_size=2)


def properties_on_arrival(envelope: Envelope) -> spec.Basic.Properties:
    """What the library reads from what was sent."""
    sent = EventProperties(envelope)
    sent.message_id = "0123456789abcdef"
    arrived = ContentHeader()
    arrived.unmarshal(ContentHeader(properties=sent).marshal())
    return arrived.properties


@given(envelopes)
def test_envelope_survives_the_wire_and_the_table(envelope: Envelope) -> None:
    arrived = properties_on_arrival(envelope)
    assert from_message(arrived.headers or {}, envelope.data) == envelope
    assert (arrived.content_type, arrived.delivery_mode, arrived.message_id) == ("application/protobuf", 2, "0123456789abcdef")
    assert from_bytes(to_bytes(envelope)) == envelope


@given(
    envelopes,
    st.dictionaries(st.sampled_from(["specversion", "id", "source", "type", "time", "subject", "tenantid"]), junk, min_size=1),
)
def test_damaged_headers_are_malformed_or_readable_never_a_crash(envelope: Envelope, damage: dict[str, Any]) -> None:
    headers = {
        **(properties_on_arrival(envelope).headers or {}),
        **{f"cloudEvents:{name}": value for name, value in damage.items()},
    }
    try:
        read = from_message(headers, b"")
    except MalformedMessageError as error:
        assert str(error)  # noqa: PT017 - both ways out are right; what is wrong must be said
    else:
        assert read.time.tzinfo is not None
        assert isinstance(read.id, UUID)


@pytest.mark.parametrize(("value", "expected"), [(3, 3), (0, 0), (-1, 0), ("3", 0), (None, 0)])
def test_attempts_are_read_from_our_header_only_if_they_are_a_count(value: object, expected: int) -> None:
    assert attempts_of({"x-wireroom-attempts": value}) == expected


def test_time_keeps_its_instant_on_the_wire() -> None:
    moment = datetime.fromisoformat("2026-01-01T12:00:00+05:30")
    arrived = properties_on_arrival(Envelope(UUID(int=1), "s", "t", moment, "", b""))
    assert from_message(arrived.headers or {}, b"").time == moment


def test_error_description_holds_no_secrets_and_is_short() -> None:
    statement = ProgrammingError("SELECT :p", {"p": "hunter2"}, Exception("bad input\nDETAIL: Key (email)=(a@b.c)"))
    assert describe_error(statement) == "Exception: bad input"
    assert "hunter2" not in describe_error(ConnectionError("cannot reach amqp://user:hunter2@host/"))
    assert describe_error(invalid("x_bad", "Bad x.")) == "x_bad: Bad x."
    assert len(describe_error(ValueError("x" * 10_000))) <= 500
