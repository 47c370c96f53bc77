"""Measure what `docs/benchmarks.md` reports: each figure with its command, on this machine, in one run.

`bench.py freshness`: seconds from a feed's fetch to an answer that cites the new item, over 100 items, in both deployments.
`bench.py memory`: idle memory of the one process.  `bench.py start`: seconds from `wireroom run` to ready, first and later.
`bench.py login`: milliseconds of a failed login, with and without an account of that address, in turns.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from api import Api, wait_for
from conftest import EMAIL, PASSWORD, sign_up
from harness import Deployment, Running, deploy
from site_server import serving

ITEMS = 100
LOGINS, WARM_UP = 90, 5
UNAUTHORIZED = 401


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def freshness() -> None:
    """Publish → refresh → poll until a completion cites the item."""
    for deployment in Deployment:
        with (
            serving() as site,
            deploy(
                deployment,
                {
                    "WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": site.address,
                    "WIREROOM_GATEWAY_LIMITS_ENABLED": "false",
                },
            ) as running,
        ):
            api = sign_up(running)
            site.publish("wire", "first", "The wire opens", "The Vik wire opens its service today.")
            feed = api.post("/api/v1/feeds", {"url": site.feed_url("wire")})
            seconds = []
            for number in range(ITEMS):
                url = site.publish(
                    "wire",
                    f"n{number}",
                    f"Ship {number} arrives",
                    f"The ship Aurora {number} reached Vik with {number + 3} cars.",
                )
                start = time.monotonic()
                api.post(f"/api/v1/feeds/{feed['id']}/refresh", {})
                question = {
                    "model": "news",
                    "messages": [{"role": "user", "content": f"What did the ship Aurora {number} reach Vik with?"}],
                }
                wait_for(
                    lambda api=api, url=url, question=question: (
                        url in api.call("POST", "/v1/chat/completions", question).body.decode()
                    ),
                    every=0.01,
                )
                seconds.append(time.monotonic() - start)
            print(
                f"freshness/{deployment.value}: {ITEMS} items, fetch to cited answer"
                f" p50 {statistics.median(seconds):.2f} s, p95 {percentile(seconds, 0.95):.2f} s, max {max(seconds):.2f} s"
            )


def login() -> None:
    """A wrong password for an account that exists, and for one that does not: the time must not tell them apart."""
    extra = {
        "WIREROOM_GATEWAY_LIMITS_ENABLED": "false",
        "WIREROOM_AUTH_LOGIN_FAILURES_ACCOUNT": "100",
        "WIREROOM_AUTH_LOGIN_FAILURES_NETWORK": "10000",
    }
    with deploy(Deployment.EMBEDDED, extra) as running:
        nobody = Api(running.base_url)
        nobody.post("/auth/register", {"email": EMAIL, "password": PASSWORD, "admin_token": running.admin_token()})
        taken: dict[str, list[float]] = {"known": [], "unknown": []}
        for number in range(LOGINS + WARM_UP):
            for kind, email in (("known", EMAIL), ("unknown", "nobody@example.org")):
                start = time.monotonic()
                reply = nobody.call("POST", "/auth/login", {"email": email, "password": "not the pass phrase"})
                seconds = time.monotonic() - start
                if reply.status != UNAUTHORIZED:
                    raise RuntimeError(f"{kind}: {reply.status}")
                if number >= WARM_UP:
                    taken[kind].append(seconds * 1000)
    for kind, values in taken.items():
        print(f"login/{kind}: p50 {statistics.median(values):.1f} ms, p95 {percentile(values, 0.95):.1f} ms of {len(values)}")
    print(f"login/difference of p50: {statistics.median(taken['known']) - statistics.median(taken['unknown']):+.1f} ms")


def memory() -> None:
    """Resident memory of the one process, without its database children, 10 s after the first cited answer."""
    with serving() as site, deploy(Deployment.EMBEDDED, {"WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": site.address}) as running:
        print(f"memory/started: {_rss_mb(running):.0f} MB")
        api = sign_up(running)
        site.publish("wire", "first", "The wire opens", "The Vik wire opens its service at pier 12 today.")
        api.post("/api/v1/feeds", {"url": site.feed_url("wire")})
        question = {"model": "news", "messages": [{"role": "user", "content": "Where does the Vik wire open its service?"}]}
        wait_for(lambda: "pier 12" in api.call("POST", "/v1/chat/completions", question).body.decode())
        time.sleep(10)
        print(f"memory/idle after work: {_rss_mb(running):.0f} MB")


def start() -> None:
    """From the command to ready, on an empty and on a present data directory."""
    began = time.monotonic()
    with deploy(Deployment.EMBEDDED) as running:
        print(f"start/first: {time.monotonic() - began:.1f} s")
        running.terminate("all")
        began = time.monotonic()
        running.start("all")
        running.wait_ready()
        print(f"start/later: {time.monotonic() - began:.1f} s")


def _rss_mb(running: Running) -> float:
    status = Path(f"/proc/{running.processes['all'].pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


BENCHMARKS = {"start": start, "memory": memory, "freshness": freshness, "login": login}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    print(f"machine: {platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    for name in parser.parse_args().names or BENCHMARKS:
        BENCHMARKS[name]()
