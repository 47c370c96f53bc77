"""Routes of providers and aliases: what is passed on, what is refused at the edge, and that keys do not come back."""

from __future__ import annotations

from typing import Any

import pytest
from gateway_rig import Rig

from wireroom_protos.chat.v1 import providers_pb2

BASE = "/api/v1/admin"
PROVIDER: dict[str, Any] = {
    "base_url": "http://10.0.0.5:8000/v1",
    "keys": [{"value": "sk-canary", "weight": 2}],
    "models": [{"name": "org/qwen", "input_micros": 0, "output_micros": 7}],
}
ALIAS: dict[str, Any] = {"candidates": [{"model": "house/org/qwen"}], "strategy": "cheapest"}
CASES = [
    ("GET", "/providers", None, 200, "ListProviders"),
    ("GET", "/providers/house", None, 200, "GetProvider"),
    ("PUT", "/providers/house", PROVIDER, 200, "PutProvider"),
    ("DELETE", "/providers/house", None, 204, "DeleteProvider"),
    ("POST", "/providers/house/test", None, 200, "TestProvider"),
    ("GET", "/provider-health", None, 200, "GetProviderHealth"),
    ("GET", "/models", None, 200, "ListOfferedModels"),
    ("PUT", "/models/fast", ALIAS, 200, "PutAlias"),
    ("DELETE", "/models/fast", None, 204, "DeleteAlias"),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "rpc"), CASES)
async def test_route_calls_its_rpc_and_needs_its_permission(  # noqa: PLR0917 - one row of the table
    rig: Rig, method: str, path: str, body: dict[str, Any] | None, status: int, rpc: str
) -> None:
    for headers, refusal in ((rig.bearer("providers:manage:own", "config:manage", "llm:invoke"), 403), ({}, 401)):
        async with rig.session.request(method, BASE + path, json=body, headers=headers) as reply:
            assert reply.status == refusal
    assert rig.neighbours.called(rpc) == []
    async with rig.session.request(method, BASE + path, json=body, headers=rig.bearer("providers:manage")) as reply:
        assert reply.status == status, await reply.text()
    assert len(rig.neighbours.called(rpc)) == 1


async def test_key_is_passed_on_and_not_shown(rig: Rig) -> None:
    shown = providers_pb2.Provider(name="house", keys=[providers_pb2.ProviderKey(name="default", weight=2, source="database")])

    async def put(_request: Any) -> providers_pb2.PutProviderResponse:
        return providers_pb2.PutProviderResponse(provider=shown)

    rig.neighbours.answers["PutProvider"] = put
    async with rig.session.put(f"{BASE}/providers/house", json=PROVIDER, headers=rig.bearer("providers:manage")) as reply:
        answer = await reply.json()
    assert answer["keys"] == [{"name": "default", "weight": 2, "source": "database"}]
    sent = rig.neighbours.called("PutProvider")[0].request.provider
    assert (sent.name, sent.keys[0].name, sent.keys[0].value, sent.keys[0].weight) == ("house", "default", "sk-canary", 2)
    model = sent.models[0]
    # A price of 0 is a price; one that is left out is none.
    assert (model.HasField("input_micros"), model.output_micros, model.HasField("cached_input_micros")) == (True, 7, False)
    assert sent.enabled


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/providers/house", {**PROVIDER, "source": "file"}),
        ("/providers/house", {**PROVIDER, "models": []}),
        ("/providers/house", {**PROVIDER, "wire": "smoke"}),
        ("/providers/house", {**PROVIDER, "keys": [{"env": "WIREROOM_MASTER_SECRET"}]}),
        ("/providers/house", {**PROVIDER, "keys": [{"file": "/etc/passwd"}]}),
        ("/providers/house", {**PROVIDER, "keys": [{"value": "a\nb"}]}),
        ("/providers/house", {**PROVIDER, "models": [{"name": "m", "input_micros": 0.5}]}),
        ("/providers/house", {**PROVIDER, "models": [{"name": "m", "input_micros": -1}]}),
        ("/models/fast", {**ALIAS, "candidates": []}),
        ("/models/fast", {**ALIAS, "strategy": "best"}),
        ("/models/fast", {**ALIAS, "candidates": [{"model": "bare"}]}),
        ("/models/fast", {**ALIAS, "tenant_ids": ["me"]}),
    ],
)
async def test_bodies_that_are_refused_at_the_edge(rig: Rig, path: str, body: dict[str, Any]) -> None:
    async with rig.session.put(BASE + path, json=body, headers=rig.bearer("providers:manage")) as reply:
        assert reply.status in (400, 422), await reply.text()
        assert "canary" not in await reply.text()
    assert rig.neighbours.called("PutProvider") == rig.neighbours.called("PutAlias") == []
