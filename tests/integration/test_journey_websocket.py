"""A chat over WebSockets: tokens as they come, another gateway when one dies, the end with the session."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from api import Api, wait_for
from conftest import EMAIL, PASSWORD, sign_up
from harness import Deployment, Running, deploy, free_port
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

TOKENS = [f"word{number} " for number in range(120)]
LIMIT_SECONDS = 2.0


@contextmanager
def scripted_provider() -> Iterator[Api]:
    """A language model in a process of its own."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "wireroom_common.testing.scripted_provider", "--port", str(port)])
    api = Api(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: api.call("GET", "/state").status == 200)
        yield api
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def second_gateway(running: Running) -> Iterator[Running]:
    """Another replica of the gateway."""
    port, tls_port = free_port(), free_port()
    environment = running.environment | {"WIREROOM_GATEWAY_PORT": str(port), "WIREROOM_GATEWAY_TLS_PORT": str(tls_port)}
    other = Running(running.deployment, running.folder, environment, f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}")
    other.start("gateway")
    try:
        other.wait_ready()
        yield other
    finally:
        other.stop()


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
@pytest.mark.parametrize("deployment", Deployment, ids=lambda deployment: deployment.value)
def test_a_conversation_over_websockets(deployment: Deployment) -> None:
    with ExitStack() as stack:
        provider = stack.enter_context(scripted_provider())
        provider.post("/script", {"tokens": TOKENS, "token_delay": 0.02})
        providers = [{"name": "scripted", "base_url": f"{provider.base_url}/v1", "models": ["writer"], "api_key": "sk-canary-77"}]
        extra = {"WIREROOM_CHAT_PROVIDERS": json.dumps(providers), "WIREROOM_GATEWAY_LIMITS_ENABLED": "false"}
        running = stack.enter_context(deploy(deployment, extra))
        sign_up(running)
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
        other = stack.enter_context(second_gateway(running)) if deployment is Deployment.DISTRIBUTED else None
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
            ended = time.monotonic()
            with pytest.raises(ConnectionClosed):
                socket.recv(timeout=30)
            assert socket.close_code == 4401
            assert time.monotonic() - ended < LIMIT_SECONDS
