from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from gateway_rig import Rig
from starlette.routing import Mount, Route

from wireroom_gateway.access import WEBSOCKET, Need, RouteTable, access
from wireroom_gateway.app import application
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.readiness import Readiness
from wireroom_gateway.services import connect

HANDSHAKE = {
    "connection": "upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# What the services are asked for in the background, or to check a credential.
_BACKGROUND = {"GetJwks", "ListRevocations"}


def table_of(rig: Rig) -> RouteTable:
    services = connect(rig.infra.channel)
    readiness = Readiness({}, degraded=list, draining=lambda: False)
    api = application(rig.settings, rig.infra, services, JwksCache(services, rig.infra.clock), readiness)
    return RouteTable(api.router.routes)


def routes_of(rig: Rig) -> list[Any]:
    return [route for match in table_of(rig).matches for route in match.methods.values()]


def _path(template: str) -> str:
    """The route's path for some thing: ids of OpenAI's surface have their forms, all others are the services' business."""
    file, store, batch = f"file-{'0' * 32}", f"vs_{'0' * 32}", f"vsfb_{'0' * 32}"
    if template.startswith("/v1/files/"):
        return template.replace("{id}", file)
    if template.startswith("/v1/vector_stores/"):
        return template.replace("{id}", store).replace("{file_id}", file).replace("{batch_id}", batch)
    return template.replace("{", "").replace("}", "")


async def ask(rig: Rig, route: Any, headers: dict[str, str]) -> tuple[int, bool]:
    """The status, and whether a service was asked."""
    rig.neighbours.calls.clear()
    method, path = route.method, _path(route.template)
    if method == WEBSOCKET:
        method, headers = "GET", {**headers, **HANDSHAKE}
    json = {} if method in ("POST", "PUT", "PATCH") else None
    async with rig.session.request(method, path, headers=headers, json=json) as reply:
        if reply.content_type == "application/zip":
            # An archive asks for its parts while it is read.
            await reply.read()
        return reply.status, any(call.method not in _BACKGROUND for call in rig.neighbours.calls)


async def test_every_route_demands_what_it_declares(rig: Rig) -> None:
    routes = routes_of(rig)
    everything = {route.access.need for route in routes if isinstance(route.access.need, str)}
    assert len(routes) > 25
    assert len(everything) > 5
    wrong: list[str] = []

    for route in routes:
        need = route.access.need
        name = f"{route.method} {route.template}"
        others = rig.bearer(*sorted(everything - {need}))
        status, called = await ask(rig, route, {})
        if need is Need.NOTHING:
            if status in (401, 403) or status >= 500:
                wrong.append(f"{name} anonymous: {status}")
            continue
        if status != 401 or called:
            wrong.append(f"{name} anonymous: {status}, service asked: {called}")
        status, called = await ask(rig, route, others)
        if need is Need.SIGNED_IN:
            if status in (401, 403):
                wrong.append(f"{name} signed in: {status}")
            continue
        if status != 403 or called:
            wrong.append(f"{name} with every other permission: {status}, service asked: {called}")
        status, _ = await ask(rig, route, rig.bearer(need))
        if status in (401, 403, 404, 405) and not (status == 404 and "models" in route.template):
            wrong.append(f"{name} with {need}: {status}")
    assert wrong == []


async def test_openapi_lists_every_route_with_what_it_demands(rig: Rig) -> None:
    async with rig.session.get("/openapi.json") as reply:
        assert reply.status == 200
        paths = (await reply.json())["paths"]
    for route in routes_of(rig):
        if route.method == WEBSOCKET:
            # OpenAPI has no words for it.
            continue
        operation = paths[route.template.replace(":path", "")][route.method.lower()]
        need = route.access.need
        assert operation["x-permission"] == (need if isinstance(need, str) else need.value)
        assert operation["security"] == ([] if need is Need.NOTHING else [{"bearer": []}])
        assert operation["responses"]
    async with rig.session.get("/docs") as reply:
        assert reply.status == 200
        page = await reply.text()
    assert "/v1/chat/completions" in page
    assert "<script" not in page


def test_a_route_without_declaration_stops_the_start() -> None:
    api = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @api.get("/open")
    async def undeclared() -> None:
        """Anyone could call it."""

    with pytest.raises(TypeError, match=r"/open has no access declaration"):
        RouteTable(api.router.routes)


def test_what_cannot_be_checked_stops_the_start() -> None:
    with pytest.raises(TypeError, match="not a plain route"):
        RouteTable([Mount("/static", routes=[])])


def test_the_table_finds_templates_as_the_framework_does() -> None:
    @access(Need.NOTHING)
    async def endpoint(_request: Any) -> Any:
        """Never called."""

    paths = ("/a/{id}", "/a/{id}/b", "/a/fixed", "/m/{id:path}", "/x.json")
    table = RouteTable([Route(path, endpoint, methods=["GET"]) for path in paths])

    def template(path: str) -> str | None:
        match = table.match(path)
        return match.template if match else None

    assert template("/a/1") == "/a/{id}"
    assert template("/a/1/b") == "/a/{id}/b"
    assert template("/a/fixed") == "/a/fixed"
    assert template("/m/vendor/model") == "/m/{id}"
    assert template("/x.json") == "/x.json"
    for missing in ("/xajson", "/a/", "/a", "/a/1/", "/a/1/b/c", "", "//a/1"):
        assert template(missing) is None, missing
