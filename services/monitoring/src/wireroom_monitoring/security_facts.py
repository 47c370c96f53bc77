"""What an event adds to the security projection. Pure: the same function serves the live projection and its rebuild."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.message import Message

from wireroom_protos.events.v1 import events_pb2

LOGIN_FAILED = "login_failed:"
LOGIN_SUCCEEDED = "login_succeeded"
REFRESH_REUSE = "refresh_reuse"
ADDRESS_BLOCKED = "address_blocked"
THREAT = "threat:"
LIMIT_EXCEEDED = "limit_exceeded"
AUDIT_CHAIN_BROKEN = "audit_chain_broken"
ACCOUNT = "account"
ADDRESS = "address"

_WORD = re.compile(r"[a-z][a-z0-9_]{0,39}")
_DIGEST_BYTES = 16
# A producer's nonsense must not make a sum overflow.
_MOST = 1_000_000_000


@dataclass(frozen=True)
class SecurityFacts:
    """Count by name, and digests of whom a failed login concerned by kind."""

    counts: Mapping[str, int] = field(default_factory=dict)
    subjects: Mapping[str, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counts)


NOTHING = SecurityFacts()


def security_facts(payload: Message | None) -> SecurityFacts:
    """What the event adds; nothing for those that have no say in security."""
    match payload:
        case events_pb2.AuthUserLoginFailed():
            subjects = {
                kind: _digest(kind, value) for kind, value in ((ACCOUNT, payload.user_id), (ADDRESS, payload.ip)) if value
            }
            return SecurityFacts({LOGIN_FAILED + _word(payload.reason): 1}, subjects)
        case events_pb2.AuthUserLoginSucceeded():
            counts = {LOGIN_SUCCEEDED: 1}
        case events_pb2.AuthRefreshReuseDetected():
            counts = {REFRESH_REUSE: 1}
        case events_pb2.GatewayIpBlocked():
            counts = {ADDRESS_BLOCKED: 1}
        case events_pb2.GatewayThreatDetected():
            counts = {THREAT + _word(payload.kind): 1}
        case events_pb2.GatewayRatelimitExceeded():
            counts = {LIMIT_EXCEEDED: min(_MOST, max(1, payload.count))}
        case events_pb2.AuditRecorded(action="audit.verified", outcome="failure"):
            counts = {AUDIT_CHAIN_BROKEN: 1}
        case _:
            return NOTHING
    return SecurityFacts(counts)


def _word(text: str) -> str:
    # Names become rows and parts of an answer: whatever is no plain word counts as one kind.
    return text if _WORD.fullmatch(text) else "other"


def _digest(kind: str, value: str) -> bytes:
    return hashlib.sha256(json.dumps([kind, value]).encode()).digest()[:_DIGEST_BYTES]
