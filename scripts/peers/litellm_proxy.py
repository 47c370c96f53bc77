"""LiteLLM's proxy as a peer of measurements: its own environment, a pinned version, one worker, a master key, no database."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

VERSION = "1.106.2"
KEY = "sk-bench-litellm"
_INSTALL_SECONDS = 900


def environment(build: Path) -> Path:
    """The Python of the peer's environment below `build`, made when it is missing."""
    folder = build / f"bench-litellm-{VERSION}"
    python = folder / "bin" / "python"
    stamp = folder / "installed"
    if not stamp.exists():
        print(f"installing litellm[proxy] {VERSION} into {folder}", flush=True)
        venv.EnvBuilder(clear=True, symlinks=True).create(folder)
        uv = Path(sys.executable).parent / "uv"
        command = [str(uv), "pip", "install", "-q", "--python", str(python), f"litellm[proxy]=={VERSION}"]
        subprocess.run(command, check=True, timeout=_INSTALL_SECONDS, env={**os.environ, "UV_SYSTEM_CERTS": "1"})
        stamp.touch()
    return python


@contextlib.contextmanager
def proxy(build: Path, folder: Path, *, model: str, upstream: int, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """The started proxy on `port`: offers `model`, which the server on the loopback port `upstream` answers."""
    python = environment(build)
    # JSON is YAML, too.
    config = {
        "model_list": [
            {
                "model_name": model,
                "litellm_params": {"model": "openai/fast", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"},
            }
        ],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))
    command = [
        str(python.parent / "litellm"),
        "--config",
        str(path),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    settings = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "LITELLM_LOG": "ERROR", "NO_DOCS": "True"}
    with (folder / "litellm.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log, cwd=folder)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
