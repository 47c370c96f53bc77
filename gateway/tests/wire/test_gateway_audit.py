"""Audit trail, blocked addresses, security score and request counts over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_rig import Rig
from google.protobuf.timestamp_pb2 import Timestamp

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.monitoring.v1 import monitoring_pb2

MOMENT = Timestamp(seconds=1_767_225_600)
SHOWN = "2026-01-01T00:00:00Z"
BLOCKS = "/api/v1/admin/ip-blocks"
SECURITY = "/api/v1/monitoring/security/monitoring"
ROUTES = [
    ("GET", "/api/v1/audit", None, "audit:read"),
    ("GET", "/api/v1/audit/verify", None, "audit:read"),
    ("GET", BLOCKS, None, "ip:manage"),
    ("POST", BLOCKS, {"network": "192.0.2.1"}, "ip:manage"),
    ("DELETE", f"{BLOCKS}/b1", None, "ip:manage"),
    ("GET", SECURITY, None, "security:read"),
    ("GET", "/api/stats", None, "monitoring:read"),
]


@pytest.mark.parametrize(("method", "path", "body", "permission"), ROUTES)
async def test_each_route_needs_its_permission(rig: Rig, method: str, path: str, body: Any, permission: str) -> None:
    others = {"audit:read", "ip:manage", "security:read", "monitoring:read", "docs:read"} - {permission}
    for headers, status in ((None, 401), (rig.bearer(*others), 403)):
        async with rig.session.request(method, path, json=body, headers=headers) as reply:
            assert reply.status == status
    assert not [call for call in rig.neighbours.calls if call.method not in ("GetJwks", "ListRevocations", "ListBlocks")]
    async with rig.session.request(method, path, json=body, headers=rig.bearer(permission)) as reply:
        assert reply.status in (200, 201, 204)


async def test_audit_records_are_asked_for_and_shown(rig: Rig) -> None:
    async def answer(_request: Any) -> auth_pb2.QueryAuditResponse:
        record = auth_pb2.AuditRecord(
            sequence=8,
            id="i",
            time=MOMENT,
            actor="a",
            action="user.deleted",
            subject="s",
            outcome="success",
            client_ip="192.0.2.1",
            request_id="r",
            details_json='{"roles":["Viewer"]}',
            hash="bb",
            previous_hash="aa",
        )
        return auth_pb2.QueryAuditResponse(records=[record], next_after=8)

    rig.neighbours.answers["QueryAudit"] = answer
    query = f"after=7&page_size=3&action=user.deleted&actor=a&since={SHOWN}&until=2026-01-02T00:00:00Z&installation=true"
    async with rig.session.get(f"/api/v1/audit?{query}", headers=rig.bearer("audit:read")) as reply:
        assert reply.status == 200
        assert await reply.json() == {
            "records": [
                {
                    "sequence": 8,
                    "id": "i",
                    "time": SHOWN,
                    "actor": "a",
                    "action": "user.deleted",
                    "subject": "s",
                    "outcome": "success",
                    "client_ip": "192.0.2.1",
                    "request_id": "r",
                    "details": {"roles": ["Viewer"]},
                    "hash": "bb",
                    "previous_hash": "aa",
                }
            ],
            "next_after": 8,
        }
    (call,) = rig.neighbours.called("QueryAudit")
    assert call.request == auth_pb2.QueryAuditRequest(
        after=7,
        page_size=3,
        action="user.deleted",
        actor="a",
        since=MOMENT,
        until=Timestamp(seconds=MOMENT.seconds + 86_400),
        installation=True,
    )


@pytest.mark.parametrize(
    "query", ["after=-1", "after=x", "page_size=0", "page_size=501", "since=yesterday", "action=%00", "installation=2"]
)
async def test_queries_that_do_not_fit_are_refused_at_the_edge(rig: Rig, query: str) -> None:
    async with rig.session.get(f"/api/v1/audit?{query}", headers=rig.bearer("audit:read")) as reply:
        assert reply.status == 422
    assert not rig.neighbours.called("QueryAudit")


async def test_a_verification_names_the_first_bad_record(rig: Rig) -> None:
    async def answer(_request: Any) -> auth_pb2.VerifyChainResponse:
        return auth_pb2.VerifyChainResponse(records=41, first_bad_sequence=42, problem="missing", head_hash="ff")

    rig.neighbours.answers["VerifyChain"] = answer
    async with rig.session.get("/api/v1/audit/verify", headers=rig.bearer("audit:read")) as reply:
        assert reply.status == 200
        assert await reply.json() == {
            "intact": False,
            "records": 41,
            "first_bad_sequence": 42,
            "problem": "missing",
            "head_hash": "ff",
        }
    (call,) = rig.neighbours.called("VerifyChain")
    assert not call.request.installation


async def test_blocks_are_made_listed_and_lifted(rig: Rig) -> None:
    block = auth_pb2.AddressBlock(
        id="b1", network="2001:db8::/64", principal="u", violations=100, reason="r", blocked_at=MOMENT, until=MOMENT
    )
    shown = {
        "id": "b1",
        "network": "2001:db8::/64",
        "principal": "u",
        "violations": 100,
        "reason": "r",
        "blocked_at": SHOWN,
        "until": SHOWN,
    }

    async def made(_request: Any) -> auth_pb2.BlockAddressResponse:
        return auth_pb2.BlockAddressResponse(block=block)

    async def listed(_request: Any) -> auth_pb2.ListBlocksResponse:
        return auth_pb2.ListBlocksResponse(blocks=[block], next_page_token="next")

    async def lifted(request: Any) -> auth_pb2.LiftBlockResponse:
        if request.id == "b1":
            return auth_pb2.LiftBlockResponse()
        raise WireroomError(ErrorKind.NOT_FOUND, "block_not_found", "There is no such block.")

    rig.neighbours.answers |= {"BlockAddress": made, "ListBlocks": listed, "LiftBlock": lifted}
    headers = rig.bearer("ip:manage")
    body = {"network": "2001:db8::1", "principal": "u", "reason": "r", "ttl_seconds": 60}
    async with rig.session.post(BLOCKS, json=body, headers=headers) as reply:
        assert (reply.status, await reply.json()) == (201, shown)
    assert rig.neighbours.called("BlockAddress")[0].request == auth_pb2.BlockAddressRequest(
        network="2001:db8::1", principal="u", reason="r", ttl_seconds=60
    )
    async with rig.session.get(f"{BLOCKS}?page_size=500&page_token=t", headers=headers) as reply:
        assert (reply.status, await reply.json()) == (200, {"blocks": [shown], "next_page_token": "next"})
    assert auth_pb2.ListBlocksRequest(page_size=500, page_token="t") in [
        call.request for call in rig.neighbours.called("ListBlocks")
    ]
    for name, status in (("b1", 204), ("b2", 404)):
        async with rig.session.delete(f"{BLOCKS}/{name}", headers=headers) as reply:
            assert reply.status == status


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"network": ""},
        {"network": 5},
        {"network": "192.0.2.1", "ttl_seconds": -1},
        {"network": "192.0.2.1", "ttl_seconds": 30 * 86_400 + 1},
        {"network": "192.0.2.1", "reason": "x" * 201},
        {"network": "192.0.2.1", "reason": "a\r\nb"},
        {"network": "192.0.2.1", "violations": 5},
    ],
)
async def test_blocks_that_do_not_fit_are_refused_at_the_edge(rig: Rig, body: dict[str, Any]) -> None:
    async with rig.session.post(BLOCKS, json=body, headers=rig.bearer("ip:manage")) as reply:
        assert reply.status == 422
    assert not rig.neighbours.called("BlockAddress")


async def test_the_security_score_says_what_it_is_made_of(rig: Rig) -> None:
    async def answer(_request: Any) -> monitoring_pb2.GetSecurityResponse:
        return monitoring_pb2.GetSecurityResponse(
            score=60,
            threshold=70,
            parts=[monitoring_pb2.ScorePart(name="audit_chain_broken", points=40, count=1)],
            logins_failed=3,
            logins_succeeded=4,
            addresses_blocked=1,
            threats=2,
            failed_by_reason=[monitoring_pb2.ReasonCount(reason="wrong_password", count=3)],
            by_hour=[monitoring_pb2.HourLogins(hour=MOMENT, failed=3, succeeded=4)],
            failed_accounts=2,
            failed_addresses=1,
            failures_expected=20,
        )

    rig.neighbours.answers["GetSecurity"] = answer
    async with rig.session.get(SECURITY, headers=rig.bearer("security:read")) as reply:
        assert reply.status == 200
        assert await reply.json() == {
            "score": 60,
            "threshold": 70,
            "low": True,
            "parts": [{"name": "audit_chain_broken", "points": 40, "count": 1}],
            "addresses_blocked": 1,
            "threats": 2,
            "logins": {
                "failed": 3,
                "succeeded": 4,
                "failures_expected": 20,
                "failed_accounts": 2,
                "failed_addresses": 1,
                "failed_by_reason": {"wrong_password": 3},
                "by_hour": [{"hour": SHOWN, "failed": 3, "succeeded": 4}],
            },
        }


async def test_stats_show_routes(rig: Rig) -> None:
    async def answer(_request: Any) -> monitoring_pb2.GetStatsResponse:
        routes = [
            monitoring_pb2.RouteStats(
                route="/v1/models", method="GET", requests=9, client_errors=2, server_errors=1, milliseconds_sum=12.5
            )
        ]
        return monitoring_pb2.GetStatsResponse(routes=routes)

    rig.neighbours.answers["GetStats"] = answer
    async with rig.session.get("/api/stats", headers=rig.bearer("monitoring:read")) as reply:
        assert (await reply.json())["routes"] == [
            {
                "route": "/v1/models",
                "method": "GET",
                "requests": 9,
                "client_errors": 2,
                "server_errors": 1,
                "milliseconds_sum": 12.5,
            }
        ]
