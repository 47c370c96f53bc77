"""One harness, the deployment as a parameter: EMBEDDED is `wireroom run`; DISTRIBUTED is six processes with gRPC and real servers.

Everything is started as a user would start it (the command line, environment variables) and watched from outside (HTTP).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from wireroom_common.runtime.embedded import EmbeddedPostgres, EmbeddedValkey
from wireroom_common.testing.rabbitmq import RabbitMqNode

ROLES = ("auth", "monitoring", "news", "rag", "chat", "gateway")
CALLED = ("auth", "monitoring", "news", "rag", "chat")
START_LIMIT = 90.0
STOP_LIMIT = 40.0
ROOT = Path(__file__).resolve().parents[2]


class Deployment(Enum):
    """The two ways to run."""

    EMBEDDED = "embedded"
    DISTRIBUTED = "distributed"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Running:
    """A started Wireroom."""

    deployment: Deployment
    folder: Path
    environment: dict[str, str]
    base_url: str
    tls_url: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, role: str) -> None:
        """Start (again) the process of `role` ("all" for EMBEDDED)."""
        environment = dict(self.environment)
        if self.deployment is Deployment.DISTRIBUTED and role in CALLED:
            environment["WIREROOM_RPC_LISTEN"] = self.environment[f"WIREROOM_RPC_{role.upper()}_URL"]
        with (self.folder / f"{role}.log").open("ab") as log:
            self.processes[role] = subprocess.Popen(
                [sys.executable, "-m", "wireroom", "run", role],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )

    def kill(self, role: str) -> None:
        """kill -9."""
        self.processes[role].kill()
        self.processes[role].wait(10)

    def terminate(self, role: str) -> int:
        """SIGTERM; the exit status."""
        self.processes[role].send_signal(signal.SIGTERM)
        return self.processes[role].wait(STOP_LIMIT)

    def log(self, role: str) -> str:
        """What the process has printed so far."""
        path = self.folder / f"{role}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_ready(self) -> None:
        """Return when the gateway says that it is ready; fail with the logs' ends when a process died or the time is up."""
        deadline = time.monotonic() + START_LIMIT
        while True:
            dead = [role for role, process in self.processes.items() if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                tails = "\n".join(f"--- {role}\n{self.log(role)[-3000:]}" for role in self.processes)
                raise AssertionError(f"Not ready (dead: {dead}). Logs end:\n{tails}")
            with (
                contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError),
                urllib.request.urlopen(f"{self.base_url}/health/ready", timeout=3) as response,
            ):
                if response.status == 200:
                    return
            time.sleep(0.05)

    def admin_token(self) -> str:
        """The newest one-time admin token that was printed."""
        tokens = re.findall(r"wr_admin_[A-Za-z0-9_-]{20,}", "".join(self.log(role) for role in self.processes))
        assert tokens, "no admin token was printed"
        return str(tokens[-1])

    def stop(self) -> None:
        """Stop what still runs; kill what does not stop."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


@contextlib.contextmanager
def deploy(deployment: Deployment, extra: dict[str, str] | None = None) -> Iterator[Running]:
    """A fresh, ready installation; everything is stopped and removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="wrj"))
    folder.chmod(0o755)
    port, tls_port = free_port(), free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WIREROOM_", "OPENAI_"))} | {
        "WIREROOM_DATA_DIR": str(folder / "data"),
        "WIREROOM_GATEWAY_PORT": str(port),
        "WIREROOM_GATEWAY_TLS_PORT": str(tls_port),
        "WIREROOM_GATEWAY_HOST": "127.0.0.1",
        "WIREROOM_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "WIREROOM_RAG_MODEL_DIR": str(ROOT / ".build" / "models"),
        "WIREROOM_LOG_FORMAT": "json",
        "PYTHONFAULTHANDLER": "1",
        **(extra or {}),
    }
    running = Running(deployment, folder, environment, f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}")
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if deployment is Deployment.DISTRIBUTED:
            stack.enter_context(_servers(folder, environment))
            subprocess.run(
                [sys.executable, "-m", "wireroom", "keys", str(folder / "keys")], env=environment, check=True, timeout=60
            )
            subprocess.run([sys.executable, "-m", "wireroom", "migrate"], env=environment, check=True, timeout=120)
        stack.callback(running.stop)
        for role in ROLES if deployment is Deployment.DISTRIBUTED else ("all",):
            running.start(role)
        running.wait_ready()
        yield running


@contextlib.contextmanager
def _servers(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """PostgreSQL, Valkey and RabbitMQ for the six processes: the environment's test URLs, else private ones."""
    with contextlib.ExitStack() as stack:
        if url := os.environ.get("WIREROOM_TEST_DATABASE_URL"):
            admin = url
        else:
            postgres = EmbeddedPostgres(folder / "servers")
            stack.callback(postgres.stop)
            url = postgres.start()
            admin = postgres.admin_url(url)
        if not (redis_url := os.environ.get("WIREROOM_TEST_REDIS_URL")):
            valkey = EmbeddedValkey(folder / "servers")
            stack.callback(valkey.stop)
            redis_url = valkey.start()
        if not (bus_url := os.environ.get("WIREROOM_TEST_AMQP_URL")):
            node = RabbitMqNode()
            stack.callback(node.close)
            node.start()
            bus_url = node.url
        environment |= {
            "WIREROOM_DATABASE_URL": url,
            "WIREROOM_DATABASE_ADMIN_URL": admin,
            "WIREROOM_REDIS_URL": redis_url,
            "WIREROOM_BUS_URL": bus_url,
            "WIREROOM_PRINCIPAL_KEYS_DIR": str(folder / "keys"),
            "WIREROOM_MASTER_SECRET": secrets.token_urlsafe(48),
            **{f"WIREROOM_RPC_{role.upper()}_URL": f"grpc://127.0.0.1:{free_port()}" for role in CALLED},
        }
        yield
