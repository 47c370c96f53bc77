"""Chat completions through gateway and chat service, per second of CPU time of both together, beside nginx before the same upstream.

Whole answers (requests) and streams of 200 tokens (tokens), with every feature on: limits, budget, ledger, stream buffer, events. Needs
nginx and wrk. The two processes are pinned to one core, everything else to the other; rounds alternate; one wrong answer ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from bench_gateway import (
    LOAD_CORE,
    PLENTY,
    SCOPES,
    SERVER_CORE,
    Round,
    Side,
    answers,
    cpu_seconds,
    load,
    ordinary_gateway,
    pin,
    resident_mb,
    sign_in,
)
from harness import Deployment, deploy, free_port
from peers.fast_upstream import TOKENS

MODEL = "fast/fast"


@dataclass
class Chain(Side):
    """Several processes that are one server."""

    pids: tuple[int, ...] = ()


def body(*, stream: bool) -> str:
    """The request, compact: the upstream looks for one member in it."""
    message = {"role": "user", "content": "What is the capital of France?"}
    return json.dumps({"model": MODEL, "messages": [message], "stream": stream, "temperature": 1}, separators=(",", ":"))


def script(folder: Path, *, stream: bool) -> Path:
    """What wrk sends."""
    path = folder / f"post-{'stream' if stream else 'whole'}.lua"
    path.write_text(
        f"wrk.method = 'POST'\nwrk.body = '{body(stream=stream)}'\nwrk.headers['Content-Type'] = 'application/json'\n"
    )
    return path


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    """The port of the fast upstream."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "peers" / "fast_upstream.py")], env={**os.environ, "FAST_PORT": str(port)}
    )
    pin(process.pid, LOAD_CORE)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def nginx_before(folder: Path, port: int) -> Iterator[Side]:
    """One worker of nginx as the proxy of the upstream."""
    listen = free_port()
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;\nevents {{ worker_connections 1024; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;"
        f" fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; proxy_buffering off;\n"
        f"upstream origin {{ server 127.0.0.1:{port}; keepalive 64; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{listen}; location / {{ proxy_pass http://origin; proxy_http_version 1.1;"
        " proxy_set_header Connection ''; } } }\n"
    )
    process = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)])
    try:
        worker = _worker(process.pid)
        yield Side("nginx, one worker", f"http://127.0.0.1:{listen}/v1/chat/completions", worker, {})
    finally:
        process.terminate()
        process.wait(10)


def _worker(master: int) -> int:
    for _ in range(500):
        children = psutil.Process(master).children()
        if children:
            return int(children[0].pid)
        with contextlib.suppress(psutil.TimeoutExpired):
            psutil.Process(master).wait(0.01)
    raise RuntimeError("nginx has no worker")


def round_of(side: Side, connections: int, seconds: int, lua: Path) -> Round:
    """One round; for a chain the CPU time of all its processes."""
    if not isinstance(side, Chain):
        return load(side, connections, seconds, lua)
    others = [pid for pid in side.pids if pid != side.pid]
    before = sum(cpu_seconds(pid) for pid in others)
    found = load(side, connections, seconds, lua)
    return Round(found.requests, found.seconds, found.cpu_seconds + sum(cpu_seconds(pid) for pid in others) - before)


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    missing = [name for name in ("nginx", "wrk", "taskset") if shutil.which(name) is None]
    if missing:
        print(f"bench_chat: needs {', '.join(missing)}; on Debian: apt-get install nginx-light wrk util-linux", file=sys.stderr)
        return 2
    overrides = {f"{bucket}.{scope}": PLENTY for bucket in ("api", "auth", "chat") for scope in SCOPES}
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(upstream())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        provider = {"name": "fast", "base_url": f"http://127.0.0.1:{port}/v1", "models": ["fast"]}
        extra = {
            "WIREROOM_GATEWAY_LIMIT_OVERRIDES": json.dumps(overrides),
            "WIREROOM_GATEWAY_TLS_PORT": "0",
            "WIREROOM_CHAT_PROVIDERS": json.dumps([provider]),
        }
        running = stack.enter_context(deploy(Deployment.DISTRIBUTED, extra))
        headers = {"authorization": f"Bearer {sign_in(running)}"}
        pids = (running.processes["gateway"].pid, running.processes["chat"].pid)
        ours = Chain("gateway and chat", f"{running.base_url}/v1/chat/completions", pids[0], headers, pids)
        ordinary_url, ordinary_pid = ordinary_gateway(running)
        answers(f"{ordinary_url}/v1/models", headers)
        ordinary_pids = (ordinary_pid, pids[1])
        ordinary = Chain("the same, plain gRPC", f"{ordinary_url}/v1/chat/completions", ordinary_pid, headers, ordinary_pids)
        peer = stack.enter_context(nginx_before(folder, port))
        sides = (ours, ordinary, peer)
        for process in psutil.Process().children(recursive=True):
            pin(process.pid, SERVER_CORE if process.pid in {*pids, ordinary_pid, peer.pid} else LOAD_CORE)
        for stream in (False, True):
            lua = script(folder, stream=stream)
            results: dict[str, list[Round]] = {side.name: [] for side in sides}
            for side in sides:
                round_of(side, options.connections, 1, lua)
            for _ in range(options.rounds):
                for side in sides:
                    results[side.name].append(round_of(side, options.connections, options.seconds, lua))
            unit, factor = ("tokens", TOKENS) if stream else ("requests", 1)
            print(f"{'streams of 200 tokens' if stream else 'whole answers'}, {options.connections} connections")
            reference = statistics.median(entry.per_core for entry in results[ours.name])
            for side in sides:
                per_core = statistics.median(entry.per_core for entry in results[side.name])
                print(
                    f"{side.name:20} {per_core * factor:9.0f} {unit} per CPU second ({1e6 / per_core / factor:8.1f} µs each),"
                    f" ours is {reference / per_core:.4f} x"
                )
        print(f"resident: gateway {resident_mb(pids[0]):.0f} MB, chat {resident_mb(pids[1]):.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
