"""API keys, machine tokens, signed requests and signing keys, on real installations."""

from __future__ import annotations

import threading
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from api import Api
from conftest import EMAIL, PASSWORD, Installation
from harness import Running
from signing_guide import guide

# Two seconds where the machine has nothing else to do.
CHANGE_LIMIT = 10.0


def signed_in(running: Running) -> Api:
    nobody = Api(running.base_url)
    return Api(running.base_url, nobody.post("/auth/login", {"email": EMAIL, "password": PASSWORD})["access_token"])


def machine_token(running: Running, key: dict[str, Any], **form: str) -> Any:
    fields = {"grant_type": "client_credentials", "client_id": key["id"], "client_secret": key["secret"], **form}
    reply = Api(running.base_url).call(
        "POST",
        "/auth/token",
        raw=urllib.parse.urlencode(fields).encode(),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert reply.status == 200, reply.body
    return reply.json


def within(seconds: float, condition: Callable[[], bool]) -> float:
    """How long it took until the condition held; fails when it does not within the time."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.01)
    return time.monotonic() - start


def test_changes_of_a_key_reach_the_gateway(installation: Installation) -> None:
    running = installation.running
    owner = signed_in(running)
    key = owner.post("/auth/api-keys", {"name": "machine", "permissions": ["docs:read", "news:read"], "limits": {"api": 500}})
    bare, machine = Api(running.base_url, key["secret"]), Api(running.base_url, machine_token(running, key)["access_token"])
    for client in (bare, machine):
        assert client.get("/auth/permissions")["permissions"] == ["docs:read", "news:read"]
    assert owner.get(f"/auth/api-keys/{key['id']}")["limits"] == {"api": 500}

    assert owner.call("PATCH", f"/auth/api-keys/{key['id']}", {"permissions": ["news:read"]}).status == 200
    for client in (bare, machine):
        within(CHANGE_LIMIT, lambda client=client: client.get("/auth/permissions")["permissions"] == ["news:read"])  # type: ignore[misc]  # a default argument binds it

    rotated = owner.post(f"/auth/api-keys/{key['id']}/rotate", {"overlap_seconds": 0})
    within(CHANGE_LIMIT, lambda: bare.call("GET", "/auth/permissions").status == 401)
    renewed = Api(running.base_url, rotated["secret"])
    assert renewed.get("/auth/permissions")["permissions"] == ["news:read"]

    assert owner.call("DELETE", f"/auth/api-keys/{key['id']}").status == 204
    for client in (renewed, machine):
        within(CHANGE_LIMIT, lambda client=client: client.call("GET", "/auth/permissions").status == 401)  # type: ignore[misc]  # as above


def test_signed_requests_need_no_secret_on_the_wire(installation: Installation) -> None:
    running = installation.running
    owner = signed_in(running)
    key = owner.post("/auth/api-keys", {"name": "signed", "signature_required": True})
    assert key["secret"] is None
    sign = guide().signature_headers
    nobody = Api(running.base_url)

    def call(secret: str) -> int:
        headers = sign("GET", f"{running.base_url}/auth/me", b"", key["id"], secret)
        return nobody.call("GET", "/auth/me", headers=headers).status

    assert call(key["signing_secret"]) == 200
    assert call(key["signing_secret"] + "x") == 401
    used = sign("GET", f"{running.base_url}/auth/me", b"", key["id"], key["signing_secret"])
    assert [nobody.call("GET", "/auth/me", headers=used).status for _ in range(2)] == [200, 401]
    rotated = owner.post(f"/auth/api-keys/{key['id']}/rotate", {"overlap_seconds": 3600})
    within(CHANGE_LIMIT, lambda: call(rotated["signing_secret"]) == 200)
    assert call(key["signing_secret"]) == 200


@pytest.mark.timeout(240)
def test_signing_key_rotates_under_load_without_a_refusal(served: Installation) -> None:
    running = served.running
    database = running.administrators_database()
    operator = signed_in(running)
    nobody = Api(running.base_url)
    sessions = [nobody.post("/auth/login", {"email": EMAIL, "password": PASSWORD}) for _ in range(4)]
    refused: list[int] = []
    kids: list[set[str]] = [set() for _ in sessions]
    done = threading.Event()

    def caller(number: int) -> None:
        tokens = sessions[number]
        while not done.is_set():
            tokens = nobody.post("/auth/refresh", {"refresh_token": tokens["refresh_token"]})
            kids[number].add(tokens["access_token"].split(".")[0])
            for _ in range(3):
                status = Api(running.base_url, tokens["access_token"]).call("GET", "/auth/me").status
                if status != 200:
                    refused.append(status)

    def age_keys(minutes: int) -> None:
        """As if every key had been published that long ago."""
        with psycopg.connect(database) as connection:
            connection.execute("UPDATE auth.signing_keys SET created_at = now() - make_interval(mins => %s)", (minutes,))

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(len(sessions))]
    for thread in threads:
        thread.start()
    try:
        age_keys(0)
        assert operator.call("POST", "/api/v1/admin/signing-keys/rotate").status == 409
        for rotation in range(2):
            within(30, lambda count=rotation + 1: all(len(seen) >= count for seen in kids))  # type: ignore[misc]  # bound now
            age_keys(10)
            assert operator.call("POST", "/api/v1/admin/signing-keys/rotate").status == 200
        within(30, lambda: all(len(seen) == 3 for seen in kids))
        assert len(nobody.get("/.well-known/jwks.json")["keys"]) >= 3
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert refused == []
    assert operator.get("/auth/me")["email"] == EMAIL
