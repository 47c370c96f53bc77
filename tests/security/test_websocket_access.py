"""The chat's WebSocket for everybody who may try: who gets a connection, and in whose sessions they may talk."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from access_world import MARKER, Actor, World
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

ACTORS = ("anonymous", "viewer", "analyst", "api_user", "colleague", "stranger", "operator", "owner")


def opened(world: World, actor: Actor, session: str, **options: Any) -> ClientConnection:
    protocols: Any = {"subprotocols": ["wireroom.v1", f"bearer.{actor.api.key}"]} if actor.api.key else {}
    url = f"{world.running.base_url.replace('http', 'ws', 1)}/api/v1/ws/{session}"
    return connect(url, proxy=None, open_timeout=30, **{**protocols, **options})


def refused(world: World, actor: Actor, session: str, **options: Any) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as caught, opened(world, actor, session, **options):
        pass
    response = caught.value.response
    assert MARKER not in str(response.headers) + bytes(response.body or b"").decode()
    return response.status_code, json.loads(response.body or b"")["code"]


def end_of(socket: ClientConnection) -> int | None:
    """Reads to the end; nothing of tenant A may come."""
    with contextlib.suppress(ConnectionClosedError):
        for message in socket:
            assert MARKER not in str(message).lower()
    return socket.close_code


@pytest.mark.parametrize("name", ACTORS)
def test_only_the_owner_talks_in_a_session(world: World, name: str) -> None:
    actor, session = world.actor(name), world.things["chat_session"]
    if not actor.signed_in:
        assert refused(world, actor, session) == (401, "credential_missing")
        return
    if "chat:use" not in actor.permissions:
        assert refused(world, actor, session) == (403, "permission_missing")
        return
    with opened(world, actor, session) as socket:
        first = json.loads(socket.recv(timeout=30))
        if name != "owner":
            assert first["code"] == "session_not_found"
            assert end_of(socket) == 4404
            return
        assert first["type"] == "ready"
        socket.send(json.dumps({"message": f"What does the {world.marker} agreement say?", "model": "extractive"}))
        kinds = []
        while not kinds or kinds[-1] not in {"done", "error"}:
            kinds.append(json.loads(socket.recv(timeout=30))["type"])
        assert kinds[-1] == "done"
        assert "token" in kinds


def test_what_is_not_there_is_not_told_from_what_is_anothers(world: World) -> None:
    stranger = world.actor("stranger")
    told = []
    for session in (world.things["chat_session"], world.missing("chat_session")):
        with opened(world, stranger, session) as socket:
            told.append((json.loads(socket.recv(timeout=30))["code"], end_of(socket)))
    assert told == [("session_not_found", 4404)] * 2


def test_streams_of_others_cannot_be_resumed_or_cancelled(world: World) -> None:
    stranger = world.actor("stranger")
    stream = world.make("chat_stream")
    own = stranger.api.post("/api/v1/sessions", {})["id"]
    with opened(world, stranger, own) as socket:
        assert json.loads(socket.recv(timeout=30))["type"] == "ready"
        socket.send(json.dumps({"resume": 0, "stream_id": stream}))
        answer = json.loads(socket.recv(timeout=30))
        assert (answer["type"], "text" in answer) == ("error", False)
        assert MARKER not in str(answer).lower()


def test_a_page_of_somebody_else_gets_no_connection(world: World) -> None:
    session = world.things["chat_session"]
    assert refused(world, world.owner, session, origin="https://evil.example") == (403, "origin_refused")


def test_an_expired_token_opens_no_websocket(world: World) -> None:
    world.wait_until_expired()
    assert refused(world, world.actors["expired"], world.things["chat_session"]) == (401, "credential_invalid")


def test_a_ticket_is_the_tickets_owner_and_good_once(world: World) -> None:
    session = world.things["chat_session"]
    url = f"{world.running.base_url.replace('http', 'ws', 1)}/api/v1/ws/{session}?ticket="
    with connect(url + world.actor("stranger").api.post("/api/v1/ws-tickets", {})["ticket"], proxy=None) as socket:
        assert end_of(socket) == 4404
    ticket = world.owner.api.post("/api/v1/ws-tickets", {})["ticket"]
    with connect(url + ticket, proxy=None) as socket:
        assert json.loads(socket.recv(timeout=30))["type"] == "ready"
    with pytest.raises(InvalidStatus, match="401"), connect(url + ticket, proxy=None):
        pass
