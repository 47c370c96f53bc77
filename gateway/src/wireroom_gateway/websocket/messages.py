"""What a client may send: one JSON object per message, with one of `message`, `resume`, `cancel`, `ping`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.exceptions import HTTPException

from wireroom_common.errors import WireroomError, invalid
from wireroom_gateway import strict_json

MAX_CHARACTERS = 32_000
_MAX_ID = 200
_MAX_ECHO = 100
# The newest sequence number that fits into the protocol.
_MAX_SEQ = 2**63 - 1
_KINDS: Mapping[str, frozenset[str]] = {
    "message": frozenset({"message", "model", "grounding"}),
    "resume": frozenset({"resume", "stream_id"}),
    "cancel": frozenset({"cancel"}),
    "ping": frozenset({"ping"}),
}


@dataclass(frozen=True)
class Say:
    """A question to the session's model, or to `model`; `grounding` as JSON, empty for the session's own."""

    text: str
    model: str = ""
    grounding: bytes = b""


@dataclass(frozen=True)
class Resume:
    """Go on with a stream behind `after_seq`; without `stream_id`, with the session's newest."""

    after_seq: int
    stream_id: str = ""


@dataclass(frozen=True)
class Cancel:
    """End the running turn."""


@dataclass(frozen=True)
class Ping:
    """To be answered with the same value."""

    value: str | int | float | bool | None


ClientMessage = Say | Resume | Cancel | Ping


def read_message(text: str | None) -> ClientMessage:
    """INVALID with what is wrong; `text` None: it was no text."""
    if text is None:
        raise invalid("message_not_text", "Messages are text with a JSON object, not bytes.")
    try:
        members = strict_json.parse_members(text.encode("utf-8", "surrogatepass"))
    except HTTPException as error:
        raise invalid("json_malformed", error.detail.replace("The body", "The message")) from None
    if not isinstance(members, dict):
        raise invalid("message_invalid", "A message is a JSON object.")
    kinds = [kind for kind in _KINDS if kind in members]
    if len(kinds) != 1:
        raise invalid("message_invalid", "A message has exactly one of the members 'message', 'resume', 'cancel' and 'ping'.")
    unknown = sorted(members.keys() - _KINDS[kinds[0]])
    if unknown:
        raise invalid(
            "member_unknown", f"'{unknown[0][:50]}' is not a member of a message with '{kinds[0]}'.", field=unknown[0][:50]
        )
    return _READERS[kinds[0]](members)


def _say(members: Mapping[str, Any]) -> Say:
    text, model, grounding = members["message"], members.get("model", ""), members.get("grounding")
    if not isinstance(text, str) or not text.strip() or "\x00" in text:
        raise invalid("message_invalid", "'message' is a text that is not empty and holds no NUL.", field="message")
    if len(text) > MAX_CHARACTERS:
        raise invalid("message_too_long", f"'message' has at most {MAX_CHARACTERS} characters.", field="message")
    if not isinstance(model, str) or len(model) > _MAX_ID:
        raise invalid("message_invalid", f"'model' is a text of at most {_MAX_ID} characters.", field="model")
    if grounding is not None and not isinstance(grounding, dict):
        raise invalid("message_invalid", "'grounding' is an object.", field="grounding")
    return Say(text, model, orjson.dumps(grounding) if grounding is not None else b"")


def _resume(members: Mapping[str, Any]) -> Resume:
    seq, stream_id = members["resume"], members.get("stream_id", "")
    if seq is None:
        seq = 0
    if not isinstance(seq, int) or isinstance(seq, bool) or not 0 <= seq <= _MAX_SEQ:
        raise invalid("message_invalid", "'resume' is the 'seq' of the last frame that you have, or 0.", field="resume")
    if not isinstance(stream_id, str) or len(stream_id) > _MAX_ID:
        raise invalid("message_invalid", f"'stream_id' is a text of at most {_MAX_ID} characters.", field="stream_id")
    return Resume(seq, stream_id)


def _cancel(members: Mapping[str, Any]) -> Cancel:
    if members["cancel"] is not True:
        raise invalid("message_invalid", "'cancel' is true.", field="cancel")
    return Cancel()


def _ping(members: Mapping[str, Any]) -> Ping:
    value = members["ping"]
    if isinstance(value, (dict, list)) or (isinstance(value, str) and len(value) > _MAX_ECHO):
        raise invalid(
            "message_invalid", f"'ping' is a number, a text of at most {_MAX_ECHO} characters, a boolean or null.", field="ping"
        )
    return Ping(value)


_READERS: Mapping[str, Callable[[Mapping[str, Any]], ClientMessage]] = {
    "message": _say,
    "resume": _resume,
    "cancel": _cancel,
    "ping": _ping,
}


def is_protocol_error(error: WireroomError) -> bool:
    """Whether the sender does not know the protocol, in contrast to a request that is refused."""
    return error.code in {"message_not_text", "json_malformed", "message_invalid", "member_unknown"}
