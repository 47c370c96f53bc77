"""One harness, the deployment as a parameter: EMBEDDED is `wireroom run`; DISTRIBUTED is six processes with gRPC and real servers.

Everything is started as a user would start it (the command line, environment variables) and watched from outside (HTTP).
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import psycopg
import redis
from psycopg import sql

from wireroom.roles import SCHEMAS
from wireroom_common.db import DatabaseUrl
from wireroom_common.runtime.embedded import EmbeddedPostgres, EmbeddedValkey
from wireroom_common.testing.folders import server_folder
from wireroom_common.testing.rabbitmq import RabbitMqNode

ROLES = ("auth", "monitoring", "news", "rag", "chat", "gateway")
CALLED = ("auth", "monitoring", "news", "rag", "chat")
START_LIMIT = 90.0
STOP_LIMIT = 40.0
# Below the ports that Linux and macOS give to outgoing connections and to whoever asks for any port.
PORTS = range(20_000, 32_000)
ROOT = Path(__file__).resolve().parents[2]


class Deployment(Enum):
    """The two ways to run."""

    EMBEDDED = "embedded"
    DISTRIBUTED = "distributed"


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on and that the system gives to nobody by itself."""
    # Not drawn from the tests' seeded generator: two runs at the same time would choose the same ports.
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Running:
    """A started Wireroom."""

    deployment: Deployment
    folder: Path
    environment: dict[str, str]
    base_url: str
    tls_url: str
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, role: str, *, name: str = "", extra: dict[str, str] | None = None) -> None:
        """Start (again) the process of `role` ("all" for EMBEDDED), or one more of them under `name`, with `extra` variables."""
        environment = dict(self.environment)
        if self.deployment is Deployment.DISTRIBUTED and role in CALLED:
            environment["WIREROOM_RPC_LISTEN"] = self.environment[f"WIREROOM_RPC_{role.upper()}_URL"]
        environment |= extra or {}
        name = name or role
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
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

    @contextlib.contextmanager
    def another_gateway(self, extra: dict[str, str] | None = None) -> Iterator[Running]:
        """One more gateway process of the same installation, ready; `extra` are its variables."""
        port, tls_port = free_port(), free_port()
        ports = {"WIREROOM_GATEWAY_PORT": str(port), "WIREROOM_GATEWAY_TLS_PORT": str(tls_port)}
        addresses = (f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}")
        other = Running(self.deployment, self.folder, self.environment | ports | (extra or {}), *addresses)
        other.start("gateway")
        try:
            other.wait_ready()
            yield other
        finally:
            other.stop()

    def administrators_database(self) -> str:
        """URL of the database as its administrator."""
        if self.deployment is Deployment.DISTRIBUTED:
            return self.environment["WIREROOM_DATABASE_ADMIN_URL"]
        postgres = EmbeddedPostgres(Path(self.environment["WIREROOM_DATA_DIR"]).resolve())
        return postgres.admin_url(postgres.start())

    def unsettled(self) -> int:
        """Events that wait in the services' outboxes or for another delivery (DISTRIBUTED)."""
        counts = sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT count(*) FROM {outbox} UNION ALL SELECT count(*) FROM {deliveries} WHERE state = 'retry'").format(
                outbox=sql.Identifier(schema, "outbox"), deliveries=sql.Identifier(schema, "deliveries")
            )
            for schema in SCHEMAS
        )
        return self._count(counts)

    def events_logged(self) -> int:
        """How many events monitoring has stored (DISTRIBUTED): to be seen while it is down."""
        return self._count(sql.SQL("SELECT count(*) FROM monitoring.event_log"))

    def _count(self, query: sql.Composable) -> int:
        with psycopg.connect(self.environment["WIREROOM_DATABASE_ADMIN_URL"], connect_timeout=10) as connection:
            return sum(count for (count,) in connection.execute(query))

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


def base_environment(folder: Path) -> dict[str, str]:
    """The variables of an installation in `folder`: nothing of the caller's own Wireroom; the gateway's ports are still missing."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("WIREROOM_", "OPENAI_"))} | {
        "WIREROOM_DATA_DIR": str(folder / "data"),
        "WIREROOM_GATEWAY_HOST": "127.0.0.1",
        "WIREROOM_RAG_MODEL_DIR": str(ROOT / ".build" / "models"),
        "WIREROOM_LOG_FORMAT": "json",
        # The least that the auth service takes: journeys sign in often, and what hashing costs is tested there.
        "WIREROOM_AUTH_ARGON2_MEMORY_KIB": "19456",
        "WIREROOM_AUTH_ARGON2_TIME_COST": "2",
        "PYTHONFAULTHANDLER": "1",
    }


@contextlib.contextmanager
def installation_folder() -> Iterator[Path]:
    """A short-named folder that the servers' system user may enter; removed at the end."""
    with server_folder("wrj") as folder:
        yield folder


@contextlib.contextmanager
def deploy(deployment: Deployment, extra: dict[str, str] | None = None) -> Iterator[Running]:
    """A fresh, ready installation; everything is stopped and removed at the end."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(installation_folder())
        environment = base_environment(folder) | (extra or {})
        if deployment is Deployment.DISTRIBUTED:
            stack.enter_context(_servers(folder, environment))
            subprocess.run(
                [sys.executable, "-m", "wireroom", "keys", str(folder / "keys")], env=environment, check=True, timeout=60
            )
            subprocess.run([sys.executable, "-m", "wireroom", "migrate"], env=environment, check=True, timeout=120)
        # Chosen at the last moment: the links that chat writes need them too, so not later than this.
        port, tls_port = free_port(), free_port()
        environment |= {
            "WIREROOM_GATEWAY_PORT": str(port),
            "WIREROOM_GATEWAY_TLS_PORT": str(tls_port),
            "WIREROOM_PUBLIC_URL": f"http://127.0.0.1:{port}",
        }
        running = Running(deployment, folder, environment, f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}")
        stack.callback(running.stop)
        for role in ROLES if deployment is Deployment.DISTRIBUTED else ("all",):
            running.start(role)
        running.wait_ready()
        yield running


@contextlib.contextmanager
def _servers(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    """PostgreSQL, Valkey and RabbitMQ for the six processes, shared with no other deployment.

    On the servers of WIREROOM_TEST_DATABASE_URL (an administrator's) and WIREROOM_TEST_REDIS_URL where they are set: a database each.
    The broker is always a private node: queues have the same names in every deployment.
    """
    with contextlib.ExitStack() as stack:
        if given := os.environ.get("WIREROOM_TEST_DATABASE_URL"):
            url = admin = stack.enter_context(_database_of_its_own(given))
            if password := DatabaseUrl.parse(given).password:
                # Roles belong to the server: every deployment must give them the same password.
                environment["WIREROOM_DATABASE_PASSWORD"] = password
        else:
            postgres = EmbeddedPostgres(folder / "servers")
            stack.callback(postgres.stop)
            url = postgres.start()
            admin = postgres.admin_url(url)
        if given := os.environ.get("WIREROOM_TEST_REDIS_URL"):
            redis_url = stack.enter_context(_redis_of_its_own(given))
        else:
            valkey = EmbeddedValkey(folder / "servers")
            stack.callback(valkey.stop)
            redis_url = valkey.start()
        node = RabbitMqNode()
        stack.callback(node.close)
        node.start()
        environment |= {
            "WIREROOM_DATABASE_URL": url,
            "WIREROOM_DATABASE_ADMIN_URL": admin,
            "WIREROOM_REDIS_URL": redis_url,
            "WIREROOM_BUS_URL": node.url,
            "WIREROOM_PRINCIPAL_KEYS_DIR": str(folder / "keys"),
            "WIREROOM_MASTER_SECRET": secrets.token_urlsafe(48),
            **{f"WIREROOM_RPC_{role.upper()}_URL": f"grpc:unix:{folder}/{role}.sock" for role in CALLED},
        }
        yield


@contextlib.contextmanager
def _database_of_its_own(server: str) -> Iterator[str]:
    """An administrator's URL of a new database on `server`, dropped at the end."""
    name = f"wrj_{secrets.token_hex(6)}"
    parsed = DatabaseUrl.parse(server).url.set(drivername="postgresql")
    admin = parsed.render_as_string(hide_password=False)
    with psycopg.connect(admin, autocommit=True, connect_timeout=10) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    try:
        yield parsed.set(database=name).render_as_string(hide_password=False)
    finally:
        with psycopg.connect(admin, autocommit=True, connect_timeout=10) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextlib.contextmanager
def _redis_of_its_own(server: str) -> Iterator[str]:
    """The URL of an empty database number (1 to 15) of `server` that no other deployment has claimed; emptied at the end."""
    address, _, options = server.partition("?")
    for number in range(1, 16):
        # Stands before, and so above, a number that the path or the options name.
        own = f"{address}?db={number}" + (f"&{options}" if options else "")
        with redis.Redis.from_url(own, socket_timeout=10) as client:
            # Whoever crashed gives the number back after an hour.
            if client.dbsize() == 0 and client.set("wireroom-test-deployment", "1", nx=True, ex=3600):
                try:
                    yield own
                finally:
                    client.flushdb()
                return
    raise AssertionError("WIREROOM_TEST_REDIS_URL: the databases 1 to 15 are all in use; empty one or unset the variable.")
