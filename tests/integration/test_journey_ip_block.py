"""A caller that does not stop is blocked on every gateway; the block outlives restarts, and an operator lifts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from api import Api, wait_for
from conftest import Installation
from harness import Deployment, Running

POLICY = "version: 1\nlimits: {api: {ip: 3}}\nblocks: {violations: 100, window: 600, ttl: 900}\n"
VIOLATIONS = 100
BLOCKS = "/api/v1/admin/ip-blocks"


@dataclass(frozen=True)
class Strict:
    """Processes that take requests and keep to the policy; the first can be killed."""

    gateways: list[Running]
    role: str
    extra: dict[str, str]

    def kill_and_start(self) -> None:
        self.gateways[0].kill(self.role)
        self.gateways[0].start(self.role, extra=self.extra)
        self.gateways[0].wait_ready()


@contextmanager
def strict(running: Running, policy: Path) -> Iterator[Strict]:
    """Two more gateways with the policy, or the one process started anew with it."""
    extra = {"WIREROOM_GATEWAY_LIMITS_ENABLED": "true", "WIREROOM_GATEWAY_LIMITS_FILE": str(policy)}
    if running.deployment is Deployment.DISTRIBUTED:
        with ExitStack() as stack:
            yield Strict([stack.enter_context(running.another_gateway(extra)) for _ in range(2)], "gateway", extra)
        return
    running.terminate("all")
    running.start("all", extra=extra)
    try:
        running.wait_ready()
        yield Strict([running], "all", extra)
    finally:
        running.terminate("all")
        running.start("all")
        running.wait_ready()


def code(api: Api) -> str:
    """What a request comes to: a problem's code, or nothing."""
    reply = api.call("GET", "/info")
    return "" if reply.status == 200 else str(reply.json["code"])


@pytest.mark.timeout(400)
def test_a_hundred_violations_block_until_lifted(served: Installation, tmp_path: Path) -> None:
    policy = tmp_path / "limits.yaml"
    policy.write_text(POLICY)
    with strict(served.running, policy) as kept:
        anonymous = [Api(gateway.base_url) for gateway in kept.gateways]
        admin = Api(kept.gateways[-1].base_url, served.admin.key)
        try:
            codes = [code(anonymous[number % len(anonymous)]) for number in range(VIOLATIONS + 5)]
            assert codes.count("") <= 3
            assert codes.count("rate_limit_exceeded") >= VIOLATIONS
            for caller in anonymous:
                wait_for(lambda caller=caller: code(caller) == "address_blocked", within=40)
            # Whoever is signed in works on, from the same address.
            blocks = wait_for(lambda: admin.get(BLOCKS)["blocks"], within=40)
            assert [(block["network"], block["principal"], block["violations"]) for block in blocks] == [
                ("127.0.0.1", "", VIOLATIONS)
            ]

            kept.kill_and_start()
            wait_for(lambda: code(anonymous[0]) == "address_blocked", within=40)
        finally:
            for block in admin.get(BLOCKS)["blocks"]:
                assert admin.call("DELETE", f"{BLOCKS}/{block['id']}").status == 204
        for caller in anonymous:
            wait_for(lambda caller=caller: code(caller) != "address_blocked", within=40)
        assert admin.get(BLOCKS)["blocks"] == []
