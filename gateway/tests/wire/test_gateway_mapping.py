"""What goes to the services and what comes back, route by route."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from gateway_rig import Rig, new_redis
from prometheus_client import CollectorRegistry

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import ANONYMOUS
from wireroom_gateway.access import Bucket
from wireroom_gateway.limits.limiter import Limiter
from wireroom_gateway.limits.memory import MemoryCounterStore
from wireroom_gateway.limits.policy import Limit, LimitScope, Policy, policy_table
from wireroom_gateway.limits.redis import RedisCounterStore
from wireroom_gateway.limits.store import Counter
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.common.v1 import status_pb2
from wireroom_protos.monitoring.v1 import monitoring_pb2
from wireroom_protos.news.v1 import news_pb2
from wireroom_protos.rag.v1 import rag_pb2

PERMISSIONS = ("docs:read", "docs:write", "news:read", "feeds:manage", "apikeys:manage:own", "monitoring:read", "llm:invoke")
CASES = [
    ("POST", "/auth/logout", None, 204, "Logout", {}),
    ("GET", "/auth/me", None, 200, "GetMe", {}),
    ("POST", "/auth/refresh", {"refresh_token": "r"}, 200, "Refresh", {"refresh_token": "r"}),
    ("POST", "/auth/register", {"email": "a@b.example", "password": "p"}, 201, "Register", {"email": "a@b.example"}),
    ("POST", "/auth/api-keys", {"name": "ci", "ttl_seconds": 60}, 201, "CreateKey", {"name": "ci", "ttl_seconds": 60}),
    ("GET", "/auth/api-keys?page_size=7", None, 200, "ListKeys", {"page_size": 7}),
    ("DELETE", "/auth/api-keys/k1", None, 204, "RevokeKey", {"id": "k1"}),
    ("GET", "/api/v1/documents?page_token=next", None, 200, "ListDocuments", {"page_token": "next", "page_size": 50}),
    ("GET", "/api/v1/documents/d1", None, 200, "GetDocument", {"id": "d1"}),
    ("GET", "/api/v1/documents/d1/status", None, 200, "GetDocument", {"id": "d1"}),
    ("DELETE", "/api/v1/documents/d1", None, 204, "DeleteDocument", {"id": "d1"}),
    ("GET", "/api/v1/citations/c1", None, 200, "ResolveCitation", {"citation_id": "c1"}),
    (
        "POST",
        "/api/v1/rag/query",
        {"query": "q", "kinds": ["article"]},
        200,
        "Retrieve",
        {"query": "q", "top_k": 8, "kinds": [2]},
    ),
    ("POST", "/api/v1/feeds", {"url": "http://f.example"}, 201, "AddFeed", {"url": "http://f.example"}),
    ("GET", "/api/v1/feeds", None, 200, "ListFeeds", {}),
    ("GET", "/api/v1/feeds/f1", None, 200, "GetFeed", {"id": "f1"}),
    ("DELETE", "/api/v1/feeds/f1", None, 204, "RemoveFeed", {"id": "f1"}),
    ("POST", "/api/v1/feeds/f1/refresh", None, 200, "RefreshFeed", {"id": "f1"}),
    ("GET", "/api/v1/news?q=a%20b&feed_id=f1", None, 200, "ListArticles", {"query": "a b", "feed_id": "f1", "page_size": 20}),
    ("GET", "/api/v1/news/a1?version=2", None, 200, "GetArticle", {"id": "a1", "version": 2}),
    ("GET", "/api/v1/events?after=5&type=a.b", None, 200, "ReadEvents", {"after_offset": 5, "type": "a.b", "page_size": 100}),
    ("GET", "/api/stats", None, 200, "GetStats", {}),
    ("GET", "/v1/models", None, 200, "ListModels", {}),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "rpc", "fields"), CASES)
async def test_requests_reach_their_rpc(  # noqa: PLR0917 - one row of the table
    rig: Rig, method: str, path: str, body: Any, status: int, rpc: str, fields: dict[str, Any]
) -> None:
    headers = {**rig.bearer(*PERMISSIONS), "x-request-id": "mapping-test-1"}
    async with rig.session.request(method, path, json=body, headers=headers) as reply:
        assert reply.status == status, await reply.text()
        assert (await reply.read() == b"") == (status == 204)
    (call,) = rig.neighbours.called(rpc)
    found = {name: getattr(call.request, name) for name in fields}
    assert {name: list(value) if isinstance(fields[name], list) else value for name, value in found.items()} == fields
    assert call.request_id == "mapping-test-1"


async def test_times_have_a_zone_both_ways(rig: Rig) -> None:
    async def articles(request: Any) -> Any:
        return news_pb2.ListArticlesResponse(articles=[news_pb2.Article(id="a", published_at=request.since)])

    rig.neighbours.answers["ListArticles"] = articles
    for since in ("2026-01-01T12:00:00%2B02:00", "2026-01-01T10:00:00Z", "2026-01-01T10:00:00"):
        async with rig.session.get(f"/api/v1/news?since={since}", headers=rig.bearer("news:read")) as reply:
            article = (await reply.json())["articles"][0]
        assert article["published_at"] == "2026-01-01T10:00:00Z"
        assert article["fetched_at"] is None


async def test_states_and_kinds_have_names(rig: Rig) -> None:
    async def document(_request: Any) -> Any:
        return rag_pb2.GetDocumentResponse(document=rag_pb2.Document(id="d", state=rag_pb2.DOCUMENT_STATE_REJECTED, reason="r"))

    async def passages(_request: Any) -> Any:
        return rag_pb2.RetrieveResponse(passages=[rag_pb2.Passage(id="p", kind=rag_pb2.SOURCE_KIND_ARTICLE)])

    async def event(_request: Any) -> Any:
        return monitoring_pb2.ReadEventsResponse(
            events=[monitoring_pb2.LoggedEvent(offset=6, data_json='{"x":1}')], next_offset=6
        )

    rig.neighbours.answers |= {"GetDocument": document, "Retrieve": passages, "ReadEvents": event}
    headers = rig.bearer(*PERMISSIONS)
    async with rig.session.get("/api/v1/documents/d/status", headers=headers) as reply:
        assert (await reply.json())["state"] == "rejected"
    async with rig.session.post("/api/v1/rag/query", json={"query": "q"}, headers=headers) as reply:
        assert (await reply.json())["passages"][0]["kind"] == "article"
    async with rig.session.get("/api/v1/events", headers=headers) as reply:
        assert (await reply.json())["events"][0]["data"] == {"x": 1}


async def test_login_passes_the_address_and_keeps_the_refusal(rig: Rig) -> None:
    async def login(request: Any) -> Any:
        if request.password != "right":
            raise WireroomError(ErrorKind.UNAUTHENTICATED, "login_failed", "The e-mail address or the password is wrong.")
        return auth_pb2.LoginResponse(tokens=auth_pb2.Tokens(access_token="a", expires_in=1800), user=auth_pb2.User(id="u"))

    rig.neighbours.answers["Login"] = login
    agent = {"user-agent": "x" * 1000, "x-forwarded-for": "203.0.113.9"}
    async with rig.session.post("/auth/login", json={"email": "a@b.example", "password": "right"}, headers=agent) as reply:
        body = await reply.json()
    assert (body["token_type"], body["expires_in"], body["user"]["id"]) == ("Bearer", 1800, "u")
    request = rig.neighbours.called("Login")[0].request
    assert request.client_ip == "127.0.0.1"
    assert len(request.user_agent) == 300
    async with rig.session.post("/auth/login", json={"email": "a@b.example", "password": "wrong"}) as reply:
        problem = await reply.json()
        assert (reply.status, problem["code"], problem["request_id"]) == (401, "login_failed", reply.headers["x-request-id"])


async def test_what_the_caller_may_do(rig: Rig) -> None:
    async with rig.session.get("/auth/permissions", headers=rig.bearer("news:read", "docs:read")) as reply:
        body = await reply.json()
    assert (body["kind"], body["permissions"], body["roles"]) == ("user", ["docs:read", "news:read"], ["Analyst"])


async def test_detailed_health_tells_of_each_service_what_it_says_or_that_it_does_not(rig: Rig) -> None:
    asked = 0

    async def status(_request: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise WireroomError(ErrorKind.UNAVAILABLE, "away", "It does not answer.")
        check = status_pb2.CheckResult(name="database", ok=True)
        return status_pb2.GetStatusResponse(ready=True, version="1", checks=[check])

    rig.neighbours.answers["GetStatus"] = status
    async with rig.session.get("/health/detailed", headers=rig.bearer("monitoring:read")) as reply:
        report = await reply.json()
    assert report["status"] == "degraded"
    assert report["gateway"]["status"] == "ready"
    assert sorted(entry["service"] for entry in report["services"]) == ["auth", "chat", "monitoring", "news", "rag"]
    assert sorted(entry["reachable"] for entry in report["services"]) == [False, True, True, True, True]
    async with rig.session.get("/health/detailed", headers=rig.bearer("monitoring:read")) as reply:
        assert (await reply.json())["status"] == "ok"


async def test_the_log_line_holds_no_token_query_or_forged_line(
    rig: Rig, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    headers = rig.bearer("news:read")
    token = headers["authorization"].removeprefix("Bearer ")
    async with rig.session.get("/api/v1/news?q=veryprivatequery", headers=headers) as reply:
        assert reply.status == 200
    async with rig.session.get("/api/v1/news/%0Aforged%1B[31m", headers=headers) as reply:
        assert reply.status == 200
    output = capsys.readouterr().out + caplog.text
    assert output.count("http_request") >= 2
    assert token not in output
    assert "veryprivatequery" not in output
    assert "\nforged" not in output
    assert "\x1b[31m" not in output.split("forged")[1][:12]


async def test_a_boundary_may_fall_anywhere_in_the_pieces_of_an_upload(rig: Rig) -> None:
    received: list[bytes] = []

    async def upload(requests: Any) -> Any:
        received.append(b"".join([message.data async for message in requests]))
        return rag_pb2.UploadDocumentResponse(document=rag_pb2.Document(id="d"))

    rig.neighbours.answers["UploadDocument"] = upload
    content = b"line\r\n--fron\r\n--frontie"
    head = b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    whole = head + content + b"\r\n--frontier--\r\n"

    async def bytewise() -> AsyncIterator[bytes]:
        for position in range(len(whole)):
            yield whole[position : position + 1]

    headers = {**rig.bearer("docs:write"), "content-type": "multipart/form-data; boundary=frontier"}
    async with rig.session.post("/api/v1/documents", data=bytewise(), headers=headers) as reply:
        assert (reply.status, reply.headers["location"]) == (202, "/api/v1/documents/d")
    assert received == [content]


@pytest.mark.parametrize("seed", range(5))
async def test_the_shared_store_agrees_with_the_pure_window(clean_valkey_url: str, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - sequences that can be repeated
    counters = {name: Counter(name, Limit(chance.choice([1, 2, 5, 9, 1_500]))) for name in "abc"}
    client = new_redis(clean_valkey_url)
    pure, shared = MemoryCounterStore(ManualClock()), RedisCounterStore(client)
    for _ in range(60):
        asked = [counters[name] for name in chance.sample("abc", chance.randint(1, 3))]
        one, two = await pure.take(asked), await shared.take(asked)
        assert one.allowed == two.allowed
        assert [(state.passed, state.remaining) for state in one.states] == [
            (state.passed, state.remaining) for state in two.states
        ]
    await shared.close()
    await client.aclose()


def test_the_defaults_are_those_decided() -> None:
    table = policy_table({})
    buckets = (Bucket.CHAT, Bucket.API, Bucket.NEWS)
    assert [table[bucket, LimitScope.IP].quota for bucket in buckets] == [10, 100, 200]
    for scope in (LimitScope.USER, LimitScope.KEY):
        assert [table[bucket, scope].quota for bucket in buckets] == [60, 600, 1_200]
    assert all(table[bucket, LimitScope.TENANT] == Limit(1_000, 60) for bucket in Bucket)
    assert table[Bucket.AUTH, LimitScope.IP].quota == 5


async def test_ipv6_callers_are_counted_by_their_network() -> None:
    shared, local = MemoryCounterStore(ManualClock()), MemoryCounterStore(ManualClock())
    policy = Policy(policy_table({}))
    limiter = Limiter(lambda: policy, shared, local, ManualClock(), GatewayMetrics(CollectorRegistry()))

    async def remaining(address: str) -> int:
        decision = await limiter.charge(Bucket.CHAT, ANONYMOUS, address)
        assert decision is not None
        return decision.verdict.states[0].remaining

    assert [await remaining(address) for address in ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "2001:db8:1:3::1")] == [9, 8, 9]
    assert [await remaining(address) for address in ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2")] == [9, 8, 9]
