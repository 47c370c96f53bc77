"""API keys, machine tokens, signed requests, signing keys and the master secret, on real installations."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from api import Api
from conftest import EMAIL, PASSWORD, Installation, sign_up
from harness import Deployment, Running, deploy

GUIDE = Path(__file__).parents[2] / "docs/how-to/sign-requests.md"
CHANGE_LIMIT = 2.0


def guide() -> ModuleType:
    """The client code of the documentation."""
    found = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    spec = importlib.util.spec_from_loader("guide", loader=None)
    assert spec
    module = importlib.util.module_from_spec(spec)
    exec(found[1], module.__dict__)  # noqa: S102 - the documentation's own code
    return module


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
def test_new_master_secret_keeps_tokens_and_keys() -> None:
    with deploy(Deployment.EMBEDDED) as running:
        key = sign_up(running)
        owner = signed_in(running)
        signed = owner.post("/auth/api-keys", {"name": "signed", "signature_required": True})
        kept = Path(running.environment["WIREROOM_DATA_DIR"]) / "secrets/master"
        before = kept.read_bytes()
        assert running.terminate("all") == 0
        command = [sys.executable, "-m", "wireroom", "rotate-master-secret"]
        done = subprocess.run(
            command, env=running.environment, cwd=running.folder, capture_output=True, text=True, timeout=90, check=False
        )
        assert done.returncode == 0, done.stderr
        assert kept.read_bytes() != before
        assert kept.stat().st_mode & 0o777 == 0o600
        running.start("all")
        running.wait_ready()
        for client in (key, owner):
            assert client.get("/auth/me")["email"] == EMAIL
        headers = guide().signature_headers("GET", f"{running.base_url}/auth/me", b"", signed["id"], signed["signing_secret"])
        assert Api(running.base_url).call("GET", "/auth/me", headers=headers).status == 200
        assert running.terminate("all") == 0
        kept.write_bytes(before)
        running.start("all")
        assert running.processes["all"].wait(60) == 1
        assert "WIREROOM_MASTER_SECRET" in running.log("all")


@pytest.mark.timeout(240)
def test_signing_key_rotates_under_load_without_a_refusal() -> None:
    with deploy(Deployment.DISTRIBUTED, {"WIREROOM_GATEWAY_LIMITS_ENABLED": "false"}) as running:
        sign_up(running)
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

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(len(sessions))]
        for thread in threads:
            thread.start()
        try:
            assert operator.call("POST", "/api/v1/admin/signing-keys/rotate").status == 409
            for rotation in range(2):
                within(30, lambda count=rotation + 1: all(len(seen) >= count for seen in kids))  # type: ignore[misc]  # bound now
                # As if the next key had been published for a while.
                with psycopg.connect(running.environment["WIREROOM_DATABASE_ADMIN_URL"]) as connection:
                    connection.execute("UPDATE auth.signing_keys SET created_at = created_at - interval '10 minutes'")
                assert operator.call("POST", "/api/v1/admin/signing-keys/rotate").status == 200
            within(30, lambda: all(len(seen) == 3 for seen in kids))
            assert len(nobody.get("/.well-known/jwks.json")["keys"]) >= 3
        finally:
            done.set()
            for thread in threads:
                thread.join(30)
        assert refused == []
        assert operator.get("/auth/me")["email"] == EMAIL
