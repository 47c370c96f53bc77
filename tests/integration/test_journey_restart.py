"""What was acknowledged is there after a restart, after kill -9 of the one process, and under a new master secret."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from api import Api
from conftest import EMAIL, PASSWORD, sign_up
from harness import Deployment, Running, deploy
from signing_guide import guide

ACCOUNT = {"email": EMAIL, "password": PASSWORD}


def tokens(running: Running) -> list[str]:
    """Every admin token in the log, each as often as it was printed."""
    return re.findall(r"wr_admin_[A-Za-z0-9_-]+", running.log("all"))


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with deploy(Deployment.EMBEDDED) as started:
        yield started


@pytest.mark.timeout(180)
def test_data_survives_restart_and_kill(running: Running, make_pdf: Callable[[Sequence[str]], bytes]) -> None:
    token = running.admin_token()
    printed = tokens(running)
    assert set(printed) == {token}
    api = sign_up(running)
    document = api.indexed("note.pdf", make_pdf(["The blue folder lies in room 451 of the archive."]))
    for stop in (lambda: running.terminate("all"), lambda: running.kill("all")):
        stop()
        running.start("all")
        running.wait_ready()
        assert api.get(f"/api/v1/documents/{document['id']}")["state"] == "indexed"
        found = api.post("/api/v1/rag/query", {"query": "Where does the blue folder lie?"})
        assert "room 451" in found["passages"][0]["text"]
    assert tokens(running) == printed
    again = {"email": "eve@example.com", "password": "correct horse battery staple", "admin_token": token}
    assert Api(running.base_url).call("POST", "/auth/register", again).status == 403


@pytest.mark.timeout(240)
def test_new_master_secret_keeps_tokens_and_keys(running: Running) -> None:
    nobody = Api(running.base_url)
    if nobody.call("POST", "/auth/login", ACCOUNT).status != 200:
        sign_up(running)
    owner = Api(running.base_url, nobody.post("/auth/login", ACCOUNT)["access_token"])
    key = Api(running.base_url, owner.post("/auth/api-keys", {"name": "kept"})["secret"])
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
