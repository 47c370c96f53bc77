"""Types that several routes use."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Query
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wireroom_common.errors import invalid

# NUL cannot be stored as text by PostgreSQL.
_NO_NUL = r"^[^\x00]*$"

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def _written_out(value: Any) -> Any:
    """Not a count of seconds or milliseconds, which pydantic would take for a time."""
    if isinstance(value, str) and _DATE.match(value):
        return value
    if value is None or isinstance(value, datetime):
        return value
    raise ValueError("write the time as RFC 3339 has it, for example 2026-01-31T08:00:00Z")


# RFC 3339; where the zone is missing, UTC. In a body (strict models would take no text for a time) and as a filter.
Moment = Annotated[datetime | None, Field(strict=False), BeforeValidator(_written_out)]
TimeFilter = Annotated[datetime | None, BeforeValidator(_written_out), Query(description="RFC 3339")]
Line = Annotated[str, Field(min_length=1, max_length=500, pattern=_NO_NUL)]
PageSize = Annotated[int, Query(ge=1, le=100, description="Entries per page")]
PageToken = Annotated[str, Query(max_length=1_000, pattern=_NO_NUL, description="`next_page_token` of the page before")]
SearchText = Annotated[str, Query(max_length=200, pattern=_NO_NUL)]
IdFilter = Annotated[str, Query(max_length=64, pattern=_NO_NUL)]
Name = Annotated[str, Query(max_length=100, pattern=_NO_NUL)]


class Input(BaseModel):
    """A request body: unknown members and other types than those named are refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Output(BaseModel):
    """A response body."""

    model_config = ConfigDict(frozen=True)


def moment(message: Message, field: str) -> datetime | None:
    """A timestamp field; None if it is not set."""
    if not message.HasField(field):
        return None
    timestamp: Timestamp = getattr(message, field)
    return timestamp.ToDatetime(tzinfo=UTC)


def timestamp(value: datetime | None) -> Timestamp | None:
    """A time as protobuf has it; one without a zone is UTC. INVALID for one that UTC's years 1 to 9999 do not have."""
    if value is None:
        return None
    result = Timestamp()
    try:
        result.FromDatetime(value if value.tzinfo is None else value.astimezone(UTC))
    except (OverflowError, ValueError):
        raise invalid("time_out_of_range", "The time lies outside the years 1 to 9999 (UTC).") from None
    return result
