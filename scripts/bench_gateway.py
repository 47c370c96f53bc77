"""The hot path beside its peers, in one run: requests per second of CPU time of the gateway process, and the ratios.

`GET /v1/models` through the six processes (TLS off): token, rate limits in Valkey, headers, one gRPC call. Peers: nginx (one worker) as a
proxy for an answer of the same size, `peers/naive_gateway.py`, and the same gateway with calls that share no stream. Needs nginx and
wrk (Debian packages of these names).
Each server is pinned to one core and the load to another; rounds alternate; a round with one wrong answer ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from api import Api
from conftest import EMAIL, PASSWORD
from harness import Deployment, Running, deploy, free_port

SERVER_CORE, LOAD_CORE = 0, 1
TICKS = os.sysconf("SC_CLK_TCK")
# High enough that nothing is refused; the rows are counted all the same.
PLENTY = 10_000_000
SCOPES = ("ip", "user", "key", "tenant", "global")


@dataclass
class Side:
    """A server under test."""

    name: str
    url: str
    pid: int
    headers: dict[str, str]


@dataclass(frozen=True)
class Round:
    """What one round of load gave."""

    requests: int
    seconds: float
    cpu_seconds: float

    @property
    def per_core(self) -> float:
        """Requests per CPU second."""
        return self.requests / self.cpu_seconds


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def pin(pid: int, core: int) -> None:
    """All threads of a process on one core."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread.name), {core})


def load(side: Side, connections: int, seconds: int, script: Path | None = None) -> Round:
    """One round; RuntimeError if an answer was not a 200. `script`: what wrk sends instead of a GET."""
    command = ["taskset", "-c", str(LOAD_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    for name, value in side.headers.items():
        command += ["-H", f"{name}: {value}"]
    if script is not None:
        command += ["-s", str(script)]
    before, start = cpu_seconds(side.pid), time.monotonic()
    output = subprocess.run([*command, side.url], capture_output=True, text=True, check=True, timeout=seconds + 60).stdout
    elapsed, used = time.monotonic() - start, cpu_seconds(side.pid) - before
    if "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"{side.name}: {output}")
    found = re.search(r"(\d+) requests in", output)
    if found is None or used <= 0:
        raise RuntimeError(f"{side.name}: {output}")
    return Round(int(found.group(1)), elapsed, used)


@contextlib.contextmanager
def nginx(folder: Path, body: str) -> Iterator[Side]:
    """One worker that proxies for another nginx, which answers `body`."""
    origin, port = free_port(), free_port()
    processes = []
    for name, listen, location in (
        ("origin", origin, f"default_type application/json; return 200 '{body}';"),
        ("proxy", port, "proxy_pass http://origin; proxy_http_version 1.1; proxy_set_header Connection '';"),
    ):
        home = folder / name
        home.mkdir()
        (home / "nginx.conf").write_text(
            f"daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {home}/b; proxy_temp_path {home}/p;"
            f" fastcgi_temp_path {home}/f; uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\n"
            f"upstream origin {{ server 127.0.0.1:{origin}; keepalive 64; keepalive_requests 1000000000; }}\n"
            f"server {{ listen 127.0.0.1:{listen}; location / {{ {location} }} }} }}\n"
        )
        processes.append(subprocess.Popen(["nginx", "-c", str(home / "nginx.conf"), "-p", str(home)]))
    try:
        answers(f"http://127.0.0.1:{port}/", {})
        children = Path(f"/proc/{processes[1].pid}/task/{processes[1].pid}/children").read_text().split()
        yield Side("nginx, one worker", f"http://127.0.0.1:{port}/", int(children[0]), {})
    finally:
        for process in processes:
            process.send_signal(signal.SIGQUIT)
        for process in processes:
            process.wait(10)


@contextlib.contextmanager
def naive(running: Running, token: str) -> Iterator[Side]:
    """The naive gateway, on the same Valkey and the same auth service."""
    port = free_port()
    with urllib.request.urlopen(f"{running.base_url}/.well-known/jwks.json", timeout=10) as response:  # noqa: S310 - servers of this run
        jwks = json.dumps(json.load(response))
    environment = {
        **running.environment,
        "NAIVE_PORT": str(port),
        "NAIVE_JWKS": jwks,
        "NAIVE_REDIS": running.environment["WIREROOM_REDIS_URL"],
        "NAIVE_TARGET": running.environment["WIREROOM_RPC_AUTH_URL"].removeprefix("grpc:").removeprefix("//"),
    }
    process = subprocess.Popen([sys.executable, str(ROOT / "scripts" / "peers" / "naive_gateway.py")], env=environment)
    try:
        side = Side("naive FastAPI", f"http://127.0.0.1:{port}/v1/models", process.pid, {"authorization": f"Bearer {token}"})
        answers(side.url, side.headers)
        yield side
    finally:
        process.terminate()
        process.wait(20)


def ordinary_gateway(running: Running) -> tuple[str, int]:
    """Another gateway of the installation, whose calls are gRPC calls of their own: its address and process."""
    port = free_port()
    extra = {"WIREROOM_GATEWAY_PORT": str(port), "WIREROOM_GATEWAY_TLS_PORT": "0", "WIREROOM_RPC_MULTIPLEXED": "false"}
    running.start("gateway", name="ordinary-gateway", extra=extra)
    return f"http://127.0.0.1:{port}", running.processes["ordinary-gateway"].pid


def answers(url: str, headers: dict[str, str], within: float = 30) -> str:
    """The body, once the server answers 200, `within` seconds at the latest."""
    deadline = time.monotonic() + within
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5) as response:  # noqa: S310 - servers of this run
                return str(response.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def sign_in(running: Running) -> str:
    """An access token of the first user."""
    nobody = Api(running.base_url)
    account = {"email": EMAIL, "password": PASSWORD}
    nobody.post("/auth/register", account | {"admin_token": running.admin_token()})
    return str(nobody.post("/auth/login", account)["access_token"])


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=32)
    options = parser.parse_args()
    missing = [name for name in ("nginx", "wrk", "taskset") if shutil.which(name) is None]
    if missing:
        print(
            f"bench_gateway: needs {', '.join(missing)}; on Debian: apt-get install nginx-light wrk util-linux", file=sys.stderr
        )
        return 2
    overrides = {f"{bucket}.{scope}": PLENTY for bucket in ("api", "auth", "chat") for scope in SCOPES}
    extra = {"WIREROOM_GATEWAY_LIMIT_OVERRIDES": json.dumps(overrides), "WIREROOM_GATEWAY_TLS_PORT": "0"}
    with deploy(Deployment.DISTRIBUTED, extra) as running, contextlib.ExitStack() as stack:
        token = sign_in(running)
        headers = {"authorization": f"Bearer {token}"}
        ours = Side("Wireroom gateway", f"{running.base_url}/v1/models", running.processes["gateway"].pid, headers)
        body = answers(ours.url, headers)
        ordinary_url, ordinary_pid = ordinary_gateway(running)
        ordinary = Side("the same, plain gRPC", f"{ordinary_url}/v1/models", ordinary_pid, headers)
        answers(ordinary.url, headers)
        sides = [ours, ordinary, stack.enter_context(nginx(running.folder, body)), stack.enter_context(naive(running, token))]
        for side in sides:
            pin(side.pid, SERVER_CORE)
        tested = {side.pid for side in sides}
        for process in psutil.Process().children(recursive=True):
            if process.pid not in tested:
                pin(process.pid, LOAD_CORE)
        results: dict[str, list[Round]] = {side.name: [] for side in sides}
        for side in sides:
            load(side, options.connections, 1)
        for _ in range(options.rounds):
            for side in sides:
                results[side.name].append(load(side, options.connections, options.seconds))
        reference = statistics.median(entry.per_core for entry in results[ours.name])
        print(f"GET /v1/models ({len(body)} bytes), {options.connections} connections, median of {options.rounds} rounds")
        for side in sides:
            rounds = results[side.name]
            per_core = statistics.median(entry.per_core for entry in rounds)
            rate = statistics.median(entry.requests / entry.seconds for entry in rounds)
            print(
                f"{side.name:20} {per_core:8.0f} requests per CPU second ({1e6 / per_core:6.0f} µs), {rate:7.0f}/s on the wire,"
                f" {resident_mb(side.pid):4.0f} MB; gateway is {reference / per_core:.2f} x"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
