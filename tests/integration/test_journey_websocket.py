"""A chat over WebSockets: tokens as they come, another gateway when one dies, the end with the session."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from api import Api
from conftest import EMAIL, PASSWORD, Installation
from harness import Deployment
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

TOKENS = [f"word{number} " for number in range(120)]


def opened(base_url: str, token: str, session: str, query: str = "") -> ClientConnection:
    protocols: Any = {"subprotocols": ["wireroom.v1", f"bearer.{token}"]} if token else {}
    url = f"{base_url.replace('http', 'ws', 1)}/api/v1/ws/{session}{query}"
    return connect(url, proxy=None, open_timeout=30, **protocols)


def frames(socket: ClientConnection) -> Iterator[dict[str, Any]]:
    """Up to the end of an answer."""
    while True:
        frame = json.loads(socket.recv(timeout=30))
        yield frame
        if frame["type"] in {"done", "error"}:
            return


@pytest.mark.timeout(240)
def test_a_conversation_over_websockets(served: Installation, provider: Api) -> None:
    running = served.running
    provider.post("/reset", {})
    provider.post("/script", {"tokens": TOKENS, "token_delay": 0.02})
    with ExitStack() as stack:
        login = Api(running.base_url).post("/auth/login", {"email": EMAIL, "password": PASSWORD})
        api = Api(running.base_url, login["access_token"])
        session = api.post("/api/v1/sessions", {"model": "scripted/writer"})["id"]
        question = json.dumps({"message": "Tell me everything."})

        # A whole turn.
        with opened(running.base_url, api.key, session) as socket:
            assert json.loads(socket.recv(timeout=30))["type"] == "ready"
            socket.send(question)
            answer = list(frames(socket))
        assert answer[-1]["type"] == "done", answer[-1]
        assert "".join(frame["text"] for frame in answer if frame["type"] == "token") == "".join(TOKENS)

        # The gateway dies in the middle; another one goes on, opened with a ticket.
        other = stack.enter_context(running.another_gateway()) if running.deployment is Deployment.DISTRIBUTED else None
        first = other.base_url if other else running.base_url
        text, last = "", {"seq": 0, "stream_id": ""}
        with opened(first, api.key, session) as socket:
            socket.recv(timeout=30)
            socket.send(question)
            for frame in frames(socket):
                if "seq" in frame and not frame.get("partial"):
                    last = {"seq": frame["seq"], "stream_id": frame.get("stream_id", last["stream_id"])}
                text += frame.get("text", "") if frame["type"] == "token" else ""
                if text.count(" ") == 40:
                    break
            if other:
                other.kill("gateway")
        ticket = api.post("/api/v1/ws-tickets", {})["ticket"]
        with opened(running.base_url, "", session, f"?ticket={ticket}") as socket:
            socket.recv(timeout=30)
            socket.send(json.dumps({"resume": last["seq"], "stream_id": last["stream_id"]}))
            rest = list(frames(socket))
        assert rest[-1]["type"] == "done", rest[-1]
        assert text + "".join(frame["text"] for frame in rest if frame["type"] == "token") == "".join(TOKENS)

        # Signing out ends the connection.
        with opened(running.base_url, api.key, session) as socket:
            socket.recv(timeout=30)
            assert api.call("POST", "/auth/logout").status == 204
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=30)
            assert socket.close_code == 4401
