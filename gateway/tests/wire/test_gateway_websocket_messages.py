from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl

from hypothesis import given
from hypothesis import strategies as st

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.runtime.http_limits import REFUSAL_KEY
from wireroom_gateway.websocket.handshake import handshake_request
from wireroom_gateway.websocket.messages import MAX_CHARACTERS, Cancel, ClientMessage, Ping, Resume, Say, read_message

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(["message", "resume", "cancel", "ping", "stream_id", "model", "grounding"]) | st.text(max_size=5)


def read(text: str) -> ClientMessage | WireroomError:
    try:
        return read_message(text)
    except WireroomError as error:
        return error


@given(st.text() | st.dictionaries(NAMES, VALUES, max_size=4).map(json.dumps))
def test_every_text_is_a_message_or_refused_as_invalid(text: str) -> None:
    said = read(text)
    match said:
        case WireroomError():
            assert said.kind is ErrorKind.INVALID
            assert said.detail
        case Say():
            assert said.text == json.loads(text)["message"]
            assert 0 < len(said.text) <= MAX_CHARACTERS
        case Resume():
            assert said.after_seq == (json.loads(text)["resume"] or 0)
        case Cancel():
            assert json.loads(text) == {"cancel": True}
        case Ping():
            assert json.loads(text) == {"ping": said.value}


def _scope(query: bytes, protocols: list[str]) -> dict[str, Any]:
    return {
        "type": "websocket",
        "scheme": "ws",
        "path": "/",
        "query_string": query,
        "subprotocols": protocols,
        "headers": [(b"sec-websocket-protocol", ", ".join(protocols).encode("utf-8", "replace"))],
    }


@given(st.binary(max_size=60), st.lists(st.text(max_size=20), max_size=3))
def test_no_handshake_breaks_its_reading_and_no_credential_stays_where_it_was(query: bytes, protocols: list[str]) -> None:
    request = handshake_request(_scope(query, protocols))
    assert request["type"] == "http"
    assert "ticket" not in dict(parse_qsl(request["query_string"].decode("latin-1"), keep_blank_values=True))
    assert not [name for name, _ in request["headers"] if name == b"sec-websocket-protocol"]
    assert len([name for name, _ in request["headers"] if name == b"authorization"]) <= 1


@given(st.from_regex(r"wr_wt_[A-Za-z0-9_-]{43}", fullmatch=True), st.sampled_from([b"", b"a=1&", b"b&", b"%74icket=x&"]))
def test_a_ticket_leaves_the_address(ticket: str, before: bytes) -> None:
    request = handshake_request(_scope(before + b"ticket=" + ticket.encode(), []))
    assert b"ticket" not in request["query_string"]
    if b"icket" not in before:
        assert (b"authorization", f"Ticket {ticket}".encode()) in request["headers"]
    else:
        assert REFUSAL_KEY in request
