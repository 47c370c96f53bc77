"""Does any window ever hold more than the limit? Replicas in processes of their own, one Redis, real time, random load.

`bench_limits.py [--seconds 600] [--replicas 4] [--limit 100] [--window 60]`: several callers send bursts and
trickles to all replicas; the most that any window held is shown, and the exit status is 1 if that is more than the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "gateway" / "tests" / "wire"))

from gateway_replica import replica_processes

from wireroom_common.runtime.embedded import EmbeddedValkey

# Every address of 127.0.0.0/8 is this machine: each is a caller of its own.
CALLERS = tuple(f"127.0.1.{number}" for number in range(1, 5))
CONNECTIONS = 64


@dataclass
class Judge:
    """Counts what passed.

    A request is counted by the gateway somewhere between its start and its end. For the most that a window certainly held, both ends
    must lie in it; that number may never exceed the limit, whatever the machine's pauses were.
    """

    window: float
    passed: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    answers: Counter[tuple[int, str]] = field(default_factory=Counter)

    def most(self) -> int:
        """The most requests that certainly fell into one window."""
        most = 0
        for spans in self.passed.values():
            # Ordered by end; the window ends with that of the latest, and holds those that started within it.
            inside: deque[float] = deque()
            for start, end in sorted(spans, key=lambda span: span[1]):
                inside.append(start)
                inside = deque(begun for begun in inside if begun > end - self.window)
                most = max(most, len(inside))
        return most


async def call(session: aiohttp.ClientSession, url: str, caller: str, judge: Judge) -> None:
    """One request."""
    start = time.monotonic()
    async with session.get(f"{url}/info") as reply:
        await reply.read()
        judge.answers[reply.status, reply.headers.get("x-ratelimit-mode", "shared")] += 1
        if reply.ok:
            judge.passed[caller].append((start, time.monotonic()))


async def behave(caller: str, urls: Sequence[str], options: argparse.Namespace, judge: Judge) -> None:
    """Trickles, bursts above the limit and silences, at random, over all replicas."""
    chance = random.Random(f"{options.seed} {caller}")  # noqa: S311 - load, not secrets
    until = time.monotonic() + options.seconds
    connector = aiohttp.TCPConnector(local_addr=(caller, 0), limit=CONNECTIONS)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        while time.monotonic() < until:
            size = chance.choice((1, 1, 3, options.limit // 4, options.limit + options.limit // 2))
            await asyncio.gather(*(call(session, chance.choice(urls), caller, judge) for _ in range(size)))
            await asyncio.sleep(min(chance.expovariate(1.0), max(0.0, until - time.monotonic())))


async def measure(urls: Sequence[str], options: argparse.Namespace) -> Judge:
    """All callers at once."""
    judge = Judge(options.window)
    await asyncio.gather(*(behave(caller, urls, options, judge) for caller in CALLERS))
    return judge


def main() -> int:
    """Measure, tell, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--window", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wrl") as name:
        folder = Path(name)
        folder.chmod(0o755)
        policy = folder / "limits.yaml"
        row = f"{{requests: {options.limit}, window: {options.window}}}"
        policy.write_text(f"version: 1\nlimits: {{api: {{ip: {row}, global: unlimited}}}}\nblocks: {{enabled: false}}\n")
        server = EmbeddedValkey(folder)
        try:
            settings = {"limits_file": str(policy), "limit_store_timeout": 5.0}
            with replica_processes(folder, options.replicas, redis_url=server.start(), settings=settings) as urls:
                judge = asyncio.run(measure(urls, options))
        finally:
            server.stop()
    most = judge.most()
    windows = options.seconds / options.window
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{options.replicas} replicas, {len(CALLERS)} callers, {options.seconds:.0f} s, limit {options.limit} per {options.window} s"
    )
    print(f"answers: {dict(sorted(judge.answers.items()))}")
    print(f"most in any window: {most} (limit {options.limit})")
    for caller, spans in sorted(judge.passed.items()):
        print(f"{caller}: {len(spans)} passed in {windows:.1f} windows")
    good = most <= options.limit and set(judge.answers) <= {(200, "shared"), (429, "shared")} and most > 0
    print("ok" if good else "FAILED")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
