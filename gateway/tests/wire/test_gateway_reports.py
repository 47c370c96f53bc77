"""What monitoring is told: counts, samples, threats and exceeded limits; bounded, repeated under one id, and never in the way."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from gateway_rig import Rig, running
from gateway_tokens import SESSION, TENANT
from prometheus_client import CollectorRegistry

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal, PrincipalKind, current_principal
from wireroom_common.testing import eventually
from wireroom_gateway import reports as module
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.reports import Reporter
from wireroom_gateway.request_state import RequestState
from wireroom_protos.monitoring.v1 import monitoring_pb2


class Monitoring:
    """A stub that keeps what it is told, or is away."""

    def __init__(self) -> None:
        self.away = self.refuses = False
        self.taken: list[monitoring_pb2.ReportRequest] = []
        self.ids: list[str] = []

    async def Report(self, request: monitoring_pb2.ReportRequest, *, timeout: float) -> monitoring_pb2.ReportResponse:  # noqa: ASYNC109, N802 - a stub's signature
        assert timeout > 0
        assert current_principal().kind is PrincipalKind.SERVICE
        self.ids.append(request.report_id)
        if self.refuses:
            raise WireroomError(ErrorKind.INVALID, "report_malformed", "no")
        if self.away:
            raise WireroomError(ErrorKind.UNAVAILABLE, "rpc_unavailable", "away")
        self.taken.append(request)
        return monitoring_pb2.ReportResponse()


class Bench:
    """A reporter and what it writes to."""

    def __init__(self, *, sample_rate: float = 0.0, chance: float = 0.5) -> None:
        self.monitoring = Monitoring()
        self.registry = CollectorRegistry()
        self.reporter = Reporter(
            self.monitoring,  # type: ignore[arg-type] - as much of a stub as is used
            ManualClock(),
            GatewayMetrics(self.registry),
            sample_rate=sample_rate,
            interval=5,
            timeout=1,
            chance=lambda: chance,
        )

    def see(self, status: int = 200, *, tenant: UUID | None = TENANT, method: str = "GET", milliseconds: float = 2.0) -> None:
        kind = PrincipalKind.USER if tenant else PrincipalKind.ANONYMOUS
        state = RequestState("r" * 32, "192.0.2.1", principal=Principal(kind, "u", tenant, credential_id="c" if tenant else ""))
        state.status = status
        self.reporter.request(state, method, milliseconds=milliseconds)

    def dropped(self, kind: str) -> float:
        return self.registry.get_sample_value("wireroom_gateway_report_entries_dropped_total", {"kind": kind}) or 0.0


async def test_requests_are_summed_by_tenant_route_method_and_status_class() -> None:
    bench = Bench()
    for status in (200, 204, 404):
        bench.see(status)
    bench.see(200, method="POST")
    bench.see(200, tenant=None)
    assert await bench.reporter.flush()
    (report,) = bench.monitoring.taken
    counted = {
        (entry.tenant_id, entry.method, entry.status_class): (entry.requests, entry.milliseconds_sum) for entry in report.routes
    }
    assert counted == {
        (str(TENANT), "GET", 2): (2, 4.0),
        (str(TENANT), "GET", 4): (1, 2.0),
        (str(TENANT), "POST", 2): (1, 2.0),
        ("", "GET", 2): (1, 2.0),
    }
    assert {entry.route for entry in report.routes} == {"unmatched"}


async def test_a_share_of_the_requests_and_all_that_failed_here_are_told_singly() -> None:
    bench = Bench(sample_rate=0.4, chance=0.5)
    for status in (200, 404, 500, 503):
        bench.see(status)
    await bench.reporter.flush()
    assert [sample.status for sample in bench.monitoring.taken[0].samples] == [500, 503]
    sampled = Bench(sample_rate=0.6, chance=0.5)
    sampled.see(200)
    await sampled.reporter.flush()
    (sample,) = sampled.monitoring.taken[0].samples
    assert sample.principal_sha256 == hashlib.sha256(b"user:c").hexdigest()
    assert sample.request_id == "r" * 32


async def test_refusals_by_one_limit_are_one_entry() -> None:
    bench = Bench()
    for _ in range(3):
        bench.reporter.limit_exceeded(TENANT, "chat", "user", "ab" * 32, 60, "192.0.2.1")
    bench.reporter.limit_exceeded(None, "chat", "ip", "cd" * 32, 10, "192.0.2.1")
    await bench.reporter.flush()
    assert [(entry.scope, entry.count, entry.limit) for entry in bench.monitoring.taken[0].exceeded] == [
        ("user", 3, 60),
        ("ip", 1, 10),
    ]


async def test_a_report_that_was_not_taken_is_repeated_under_its_id_and_nothing_is_counted_twice() -> None:
    bench = Bench()
    bench.see()
    bench.monitoring.away = True
    assert not await bench.reporter.flush()
    bench.see()
    assert not await bench.reporter.flush()
    bench.monitoring.away = False
    assert await bench.reporter.flush()
    assert await bench.reporter.flush()
    assert len(set(bench.monitoring.ids[:3])) == 1
    assert [entry.requests for report in bench.monitoring.taken for entry in report.routes] == [1, 1]
    # Nothing to tell, nothing is sent.
    assert await bench.reporter.flush()
    assert len(bench.monitoring.taken) == 2


async def test_a_report_that_is_refused_as_invalid_does_not_hold_up_the_next() -> None:
    bench = Bench()
    bench.reporter.limit_exceeded(None, "chat", "ip", "0" * 64, 10, "192.0.2.1")
    bench.monitoring.refuses = True
    assert not await bench.reporter.flush()
    bench.monitoring.refuses = False
    bench.reporter.limit_exceeded(None, "chat", "ip", "1" * 64, 10, "192.0.2.2")
    assert await bench.reporter.flush()
    (report,) = bench.monitoring.taken
    assert [entry.client_ip for entry in report.exceeded] == ["192.0.2.2"]


async def test_what_is_kept_while_monitoring_is_away_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_ROUTES", "MAX_SAMPLES", "MAX_THREATS", "MAX_EXCEEDED"):
        monkeypatch.setattr(module, name, 5)
    bench = Bench()
    bench.monitoring.away = True
    for number in range(20):
        bench.see(500, tenant=UUID(int=number + 1))
        state = RequestState("r", "192.0.2.1")
        bench.reporter.threat(state, "xss", number, sample_sha256="", blocked=False)
        bench.reporter.limit_exceeded(None, "api", "ip", str(number), 1, "192.0.2.1")
        if number == 9:
            await bench.reporter.flush()
    bench.monitoring.away = False
    for _ in range(2):
        await bench.reporter.flush()
    first, second = bench.monitoring.taken
    assert [threat.score for threat in first.threats] == [5, 6, 7, 8, 9]
    assert [threat.score for threat in second.threats] == [15, 16, 17, 18, 19]
    assert [entry.subject_sha256 for entry in second.exceeded] == ["15", "16", "17", "18", "19"]
    assert len(second.routes) == len(second.samples) == 5
    assert {kind: bench.dropped(kind) for kind in ("route", "threat", "exceeded")} == {"route": 10, "threat": 10, "exceeded": 10}


async def test_the_last_report_is_sent_when_the_process_stops() -> None:
    bench = Bench()
    running_reporter = asyncio.create_task(bench.reporter.run())
    await asyncio.sleep(0)
    bench.see()
    running_reporter.cancel()
    await asyncio.gather(running_reporter, return_exceptions=True)
    assert [entry.requests for entry in bench.monitoring.taken[0].routes] == [1]


async def test_a_gateway_reports_what_it_served_as_itself(work_dir: Path) -> None:
    async with running(work_dir, report_seconds=0.1, request_sample_rate=1.0) as rig:
        work = asyncio.create_task(next(item for item in rig.service.periodic if item.name == "gateway.reports").run())
        for _ in range(3):
            async with rig.session.get("/auth/me?email=canary@example.com", headers=rig.bearer()) as reply:
                assert reply.status == 200
        async with rig.session.get("/nowhere/canary") as reply:
            assert reply.status == 404

        def told() -> dict[tuple[str, str, int], int]:
            counts: dict[tuple[str, str, int], int] = {}
            for call in rig.neighbours.called("Report"):
                for entry in call.request.routes:
                    key = (entry.tenant_id, entry.route, entry.status_class)
                    counts[key] = counts.get(key, 0) + entry.requests
            return counts

        await eventually(lambda: told() == {(str(TENANT), "/auth/me", 2): 3, ("", "unmatched", 4): 1})
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        calls = rig.neighbours.called("Report")
        assert {call.principal.kind for call in calls} == {PrincipalKind.SERVICE}
        samples = [sample for call in calls for sample in call.request.samples]
        assert len(samples) == 4
        assert "canary" not in str([call.request for call in calls])
        assert str(SESSION) not in str([call.request for call in calls])


async def test_requests_are_served_while_monitoring_is_away(work_dir: Path) -> None:
    async def away(_request: Any) -> Any:
        raise WireroomError(ErrorKind.UNAVAILABLE, "away", "away")

    async with running(work_dir, answers={"Report": away}, report_seconds=0.1) as rig:
        work = asyncio.create_task(next(item for item in rig.service.periodic if item.name == "gateway.reports").run())
        for _ in range(3):
            async with rig.session.get("/auth/me", headers=rig.bearer()) as reply:
                assert reply.status == 200
        await eventually(lambda: len(rig.neighbours.called("Report")) >= 2)
        async with rig.session.get("/metrics") as reply:
            assert 'wireroom_gateway_reports_total{outcome="failed"}' in await reply.text()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


_SECRET_MEMBERS = {
    "access_token", "refresh_token", "secret", "client_secret", "recovery_codes", "provisioning_uri", "otpauth_uri", "token", "id_token",
}  # fmt: skip


async def test_every_post_takes_a_key_and_every_answer_with_a_credential_is_declared(rig: Rig) -> None:
    async with rig.session.get("/openapi.json") as reply:
        document = await reply.json()
    undeclared = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            named = {parameter["name"] for parameter in operation.get("parameters", [])}
            assert ("Idempotency-Key" in named) == (method == "post"), path
            if method != "post":
                continue
            assert {"409", "415", "422", "503"} <= operation["responses"].keys(), path
            good = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            members = {name for answer in good for name in _members(document, answer)}
            key = next(entry for entry in operation["parameters"] if entry["name"] == "Idempotency-Key")
            if members & _SECRET_MEMBERS and "not kept" not in key["description"]:
                undeclared.append((path, sorted(members & _SECRET_MEMBERS)))
    assert undeclared == []


def _members(document: dict[str, Any], value: Any, seen: frozenset[str] = frozenset()) -> set[str]:
    found: set[str] = set()
    if isinstance(value, dict):
        reference = value.get("$ref")
        if reference and reference not in seen:
            target: Any = document
            for part in reference.removeprefix("#/").split("/"):
                target = target[part]
            found |= _members(document, target, seen | {reference})
        if isinstance(value.get("properties"), dict):
            found |= set(value["properties"])
        for item in value.values():
            found |= _members(document, item, seen)
    elif isinstance(value, list):
        for item in value:
            found |= _members(document, item, seen)
    return found
