"""The CloudEvents 1.0 envelope around a protobuf payload."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Envelope:
    """One event as it travels. `data` is the serialised payload; `tenant_id` is None for events of the installation."""

    id: UUID
    source: str
    type: str
    time: datetime
    subject: str
    data: bytes
    tenant_id: UUID | None = None
    actor: str = ""
    traceparent: str = ""
    causation_id: str = ""
    partition_key: str = ""

    def payload(self, message: builtins.type[M]) -> M:
        """The payload parsed as `message`; raises `google.protobuf.message.DecodeError` on rubbish."""
        parsed = message()
        parsed.ParseFromString(self.data)
        return parsed
