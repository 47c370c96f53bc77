"""What people did is in the audit trail, once, in a chain that verifies; requests and logins are counted."""

from __future__ import annotations

from typing import Any

from api import wait_for
from conftest import EMAIL, Installation

BLOCKS = "/api/v1/admin/ip-blocks"


def test_actions_are_chained_once_and_the_chain_verifies(installation: Installation) -> None:
    admin = installation.admin
    user = admin.get("/auth/me")
    document = admin.indexed("note.txt", b"The lighthouse was painted white in the spring.")["id"]
    assert admin.call("DELETE", f"/api/v1/documents/{document}").status == 204
    block = admin.post(BLOCKS, {"network": "2001:db8:7::1", "reason": "journey", "ttl_seconds": 600})
    assert block["network"] == "2001:db8:7::/64"
    assert block["id"] in [entry["id"] for entry in admin.get(BLOCKS)["blocks"]]
    assert admin.call("DELETE", f"{BLOCKS}/{block['id']}").status == 204
    assert block["id"] not in [entry["id"] for entry in admin.get(BLOCKS)["blocks"]]

    def told(action: str, subject: str, *, of_installation: bool) -> list[dict[str, Any]]:
        chain = admin.audit_records(installation=of_installation, action=action)
        return [record for record in chain if record["subject"] == subject]

    wait_for(lambda: told("document.deleted", document, of_installation=False), within=30)
    (deleted,) = told("document.deleted", document, of_installation=False)
    assert (deleted["actor"], deleted["outcome"]) == (user["id"], "success")
    assert deleted["request_id"]
    wait_for(lambda: told("address.unblocked", block["network"], of_installation=True), within=30)
    for action in ("address.blocked", "address.unblocked"):
        assert [record["details"]["block_id"] for record in told(action, block["network"], of_installation=True)].count(
            block["id"]
        ) == 1

    for of_installation in (False, True):
        chain = admin.audit_records(installation=of_installation)
        assert [record["sequence"] for record in chain] == list(range(1, len(chain) + 1))
        verdict = admin.get(f"/api/v1/audit/verify?installation={str(of_installation).lower()}")
        assert (verdict["intact"], verdict["problem"]) == (True, "")
        assert verdict["records"] >= len(chain)

    def as_many_facts_as_records() -> bool:
        chained = sum(len(admin.audit_records(installation=which)) for which in (False, True))
        return bool(admin.get("/api/stats")["events"]["audit.recorded"] == chained)

    wait_for(as_many_facts_as_records, within=30)


def test_requests_and_failed_logins_are_counted(installation: Installation) -> None:
    admin = installation.admin
    before = admin.get("/api/v1/monitoring/security/monitoring")["logins"]["failed"]
    refused = installation.anonymous.call("POST", "/auth/login", {"email": EMAIL, "password": "not the password at all"})
    assert refused.status == 401

    def failed() -> int:
        return int(admin.get("/api/v1/monitoring/security/monitoring")["logins"]["failed"])

    wait_for(lambda: failed() == before + 1, within=30)
    shown = admin.get("/api/v1/monitoring/security/monitoring")
    assert shown["score"] == 100 - sum(part["points"] for part in shown["parts"])

    def refusals() -> int:
        routes = admin.get("/api/stats")["routes"]
        return sum(route["client_errors"] for route in routes if (route["route"], route["method"]) == ("/auth/login", "POST"))

    wait_for(lambda: refusals() >= 1, within=60)
