"""What keeps the one process from starting is told in a sentence, and nothing that it had started stays behind."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
from api import wait_for
from harness import base_environment, free_port, installation_folder

NAMES = ("WIREROOM_GATEWAY_PORT", "WIREROOM_GATEWAY_TLS_PORT")


@pytest.mark.parametrize("name", NAMES, ids=["http", "https"])
def test_taken_port_is_refused_in_a_sentence(name: str) -> None:
    with installation_folder() as folder, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, "-m", "wireroom", "run"],
            env=base_environment(folder) | {other: str(free_port()) for other in NAMES} | {name: str(port)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert result.returncode == 1, result.stdout + result.stderr
        assert f"127.0.0.1:{port}" in result.stderr
        assert "in use" in result.stderr
        assert result.stderr.count("\n") == 1
        assert "Traceback" not in result.stdout + result.stderr

        # Both servers had been started: they are gone, in good order.
        data = folder / "data"
        assert "database system is shut down" in (data / "postgresql" / "server.log").read_text()
        assert not (data / "postgresql" / "postmaster.pid").exists()
        assert "Ready to accept connections" in (data / "valkey" / "server.log").read_text()

        def answers() -> bool:
            with socket.socket(socket.AF_UNIX) as client:
                return client.connect_ex(str(data / "run" / "valkey.sock")) == 0

        # Valkey closes its connections before it ends.
        wait_for(lambda: not answers(), within=10)
