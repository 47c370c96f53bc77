"""A caller that does not stop is blocked on every gateway; the block outlives restarts, and an operator lifts it."""

from __future__ import annotations

from pathlib import Path

import pytest
from api import Api, wait_for
from conftest import sign_up
from harness import Deployment, Running, deploy, free_port

POLICY = "version: 1\nlimits: {api: {ip: 3}}\nblocks: {violations: 100, window: 600, ttl: 900}\n"
VIOLATIONS = 100


def another_gateway(running: Running) -> Running:
    """A second gateway process of the same installation, ready."""
    port = free_port()
    environment = running.environment | {
        "WIREROOM_GATEWAY_PORT": str(port),
        "WIREROOM_GATEWAY_TLS_PORT": "0",
    }
    other = Running(running.deployment, running.folder, environment, f"http://127.0.0.1:{port}", "")
    other.start("gateway")
    other.wait_ready()
    return other


def code(api: Api) -> str:
    """What a request comes to: a problem's code, or nothing."""
    reply = api.call("GET", "/info")
    return "" if reply.status == 200 else str(reply.json["code"])


@pytest.mark.timeout(400)
@pytest.mark.parametrize("deployment", list(Deployment), ids=lambda deployment: deployment.value)
def test_a_hundred_violations_block_until_lifted(deployment: Deployment, tmp_path: Path) -> None:
    policy = tmp_path / "limits.yaml"
    policy.write_text(POLICY)
    with deploy(deployment, {"WIREROOM_GATEWAY_LIMITS_FILE": str(policy)}) as running:
        admin = sign_up(running)
        gateways = [running]
        if deployment is Deployment.DISTRIBUTED:
            gateways.append(another_gateway(running))
        try:
            anonymous = [Api(gateway.base_url) for gateway in gateways]
            codes = [code(anonymous[number % len(anonymous)]) for number in range(VIOLATIONS + 5)]
            assert codes.count("") <= 3
            assert codes.count("rate_limit_exceeded") >= VIOLATIONS
            for caller in anonymous:
                wait_for(lambda caller=caller: code(caller) == "address_blocked", within=40)
            # Whoever is signed in works on, from the same address.
            blocks = wait_for(lambda: admin.get("/api/v1/admin/ip-blocks")["blocks"], within=40)
            assert [(block["network"], block["principal"], block["violations"]) for block in blocks] == [
                ("127.0.0.1", "", VIOLATIONS)
            ]

            role = "all" if deployment is Deployment.EMBEDDED else "gateway"
            running.kill(role)
            running.start(role)
            running.wait_ready()
            wait_for(lambda: code(anonymous[0]) == "address_blocked", within=40)

            assert admin.call("DELETE", f"/api/v1/admin/ip-blocks/{blocks[0]['id']}").status == 204
            for caller in anonymous:
                wait_for(lambda caller=caller: code(caller) != "address_blocked", within=40)
            assert admin.get("/api/v1/admin/ip-blocks")["blocks"] == []
        finally:
            for gateway in gateways[1:]:
                gateway.stop()
