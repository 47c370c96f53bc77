"""Chat completions through gateway and chat service, per second of CPU time of both together, beside nginx and LiteLLM's proxy.

Whole answers (requests) and streams of 200 tokens (tokens), with every feature on: limits, budget, ledger, stream buffer, events; all
sides before the same upstream. Then the time to the first token that each adds to the upstream's own, of one stream and of 32 at once.
Needs nginx and wrk. The servers under test are pinned to one core, everything else to the other; rounds alternate; one wrong answer ends
the run. LiteLLM gets an environment of its own below `.build`, and what a proxy of it needs least: one worker, a master key, no database.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
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
from peers.litellm_proxy import KEY, VERSION, proxy

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


@contextlib.contextmanager
def litellm_before(folder: Path, upstream_port: int) -> Iterator[Side]:
    """One worker of LiteLLM's proxy before the upstream."""
    port = free_port()
    with proxy(ROOT / ".build", folder, model=MODEL, upstream=upstream_port, port=port) as process:
        headers = {"authorization": f"Bearer {KEY}"}
        answers(f"http://127.0.0.1:{port}/v1/models", headers, within=180)
        yield Side(f"LiteLLM {VERSION}", f"http://127.0.0.1:{port}/v1/chat/completions", process.pid, headers)


async def first_token(url: str, headers: dict[str, str], *, streams: int, count: int) -> float:
    """Median seconds from the request to the first text of a stream, of `count` streams, `streams` at a time."""
    taken: list[float] = []
    gate = asyncio.Semaphore(streams)

    async def one(session: aiohttp.ClientSession) -> None:
        async with gate:
            start = time.perf_counter()
            async with session.post(
                url, data=body(stream=True), headers={**headers, "content-type": "application/json"}
            ) as response:
                received = b""
                async for piece in response.content.iter_any():
                    received += piece
                    if b"word0" in received:
                        break
                taken.append(time.perf_counter() - start)
                await response.read()

    timeout = aiohttp.ClientTimeout(total=60)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=streams)) as session:
        for _ in range(3):
            await one(session)
        taken.clear()
        await asyncio.gather(*(one(session) for _ in range(count)))
    return statistics.median(taken)


def print_first_tokens(sides: tuple[Side, ...], upstream_port: int) -> None:
    """What each side adds."""
    direct = f"http://127.0.0.1:{upstream_port}/v1/chat/completions"
    for streams, count in ((1, 100), (32, 320)):
        alone = asyncio.run(first_token(direct, {}, streams=streams, count=count))
        for side in sides:
            found = asyncio.run(first_token(side.url, side.headers, streams=streams, count=count))
            print(f"first token, {streams} at once: {side.name:20} adds {(found - alone) * 1000:7.2f} ms (p50)")


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
        litellm = stack.enter_context(litellm_before(folder, port))
        sides = (ours, ordinary, peer, litellm)
        for process in psutil.Process().children(recursive=True):
            pin(process.pid, SERVER_CORE if process.pid in {*pids, ordinary_pid, peer.pid, litellm.pid} else LOAD_CORE)
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
        print_first_tokens(sides, port)
        print(f"resident: LiteLLM {resident_mb(litellm.pid):.0f} MB")
        print(f"resident: gateway {resident_mb(pids[0]):.0f} MB, chat {resident_mb(pids[1]):.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
