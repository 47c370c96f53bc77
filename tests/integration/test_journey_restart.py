"""What was acknowledged is there after a restart, and after kill -9, of the one process."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from api import Api
from conftest import sign_up
from harness import Deployment, Running, deploy


def tokens(running: Running) -> list[str]:
    """Every admin token in the log, each as often as it was printed."""
    return re.findall(r"wr_admin_[A-Za-z0-9_-]+", running.log("all"))


@pytest.mark.timeout(180)
def test_data_survives_restart_and_kill(make_pdf: Callable[[Sequence[str]], bytes]) -> None:
    with deploy(Deployment.EMBEDDED) as running:
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
        assert running.terminate("all") == 0
