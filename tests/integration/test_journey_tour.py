"""The README's tour, executed as it stands: only the token and the ports are put in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import ROOT, Deployment, Running, deploy, free_port

README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The one fenced block of that language with that text in it."""
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in text]
    assert len(found) == 1
    return str(found[0])


@pytest.fixture(scope="module")
def demo_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def toured(demo_port: int) -> Iterator[Running]:
    with deploy(Deployment.EMBEDDED, {"WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": f"127.0.0.1:{demo_port}"}) as running:
        yield running


@pytest.mark.timeout(180)
def test_tour_of_the_readme_ends_in_an_answer_with_both_sources(toured: Running, demo_port: int, tmp_path: Path) -> None:
    shell = block("sh", "wireroom ask")
    assert "export WIREROOM_ADMIN_TOKEN=..." in shell
    shell = (
        shell.replace("export WIREROOM_ADMIN_TOKEN=...", f"export WIREROOM_ADMIN_TOKEN={toured.admin_token()}")
        .replace(". .venv/bin/activate\n", "")
        .replace("wireroom demo &", f"wireroom demo --address 127.0.0.1:{demo_port} & demo=$!; trap 'kill $demo' EXIT;")
        .replace("127.0.0.1:8765", f"127.0.0.1:{demo_port}")
    )
    # The feed command may come before the demo server listens: a person is slower than a script.
    wait = f"until python -c \"import socket; socket.create_connection(('127.0.0.1', {demo_port}), 1)\" 2>/dev/null; do :; done\n"
    shell = shell.replace("wireroom upload", f"{wait}wireroom upload", 1)
    script = tmp_path / "tour.py"
    script.write_text(block("python", "from openai import OpenAI").replace("http://127.0.0.1:8000", toured.base_url))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "WIREROOM_URL": toured.base_url,
    }
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{shell}\necho ===\npython {script}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    command_line, package = result.stdout.split("===")
    for answer in (command_line, package):
        assert "0.5 percent of the outstanding balance" in answer
        assert "4.25 percent" in answer
        assert f"{toured.base_url}/api/v1/citations/" in answer
        assert f"http://127.0.0.1:{demo_port}/articles/rate-decision" in answer
