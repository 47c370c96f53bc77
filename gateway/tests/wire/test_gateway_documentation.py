"""What the gateway says of its routes: OpenAPI, the page made from it, and the headers of routes that will go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from fastapi import FastAPI
from starlette.types import Message, Scope

from wireroom_common.runtime.http_limits import TrustedProxies
from wireroom_gateway.access import Deprecation, Need, RouteTable, access
from wireroom_gateway.client_address import ClientAddresses
from wireroom_gateway.documentation import Documentation
from wireroom_gateway.pipeline.request_id import RequestId

if TYPE_CHECKING:
    from gateway_rig import Rig

GOING = Deprecation(datetime(2026, 11, 1, tzinfo=UTC), datetime(2027, 5, 1, tzinfo=UTC), "/api/v2/things")


@pytest.fixture
def going() -> FastAPI:
    """An application with one route that is deprecated and one that is not."""
    api = FastAPI()

    @api.get("/api/v1/things")
    @access(Need.NOTHING, deprecated=GOING)
    async def things() -> dict[str, str]:
        return {}

    @api.get("/api/v2/things")
    @access(Need.NOTHING)
    async def new_things() -> dict[str, str]:
        return {}

    return api


async def head_of(api: FastAPI, path: str) -> dict[bytes, bytes]:
    """The answer's headers behind the outermost stage."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await RequestId(api, table=RouteTable(api.router.routes[-2:]), addresses=ClientAddresses(TrustedProxies(())))(
        scope, receive, send
    )
    return dict(sent[0]["headers"])


async def test_deprecated_route_says_since_when_until_when_and_what_to_use(going: FastAPI) -> None:
    headers = await head_of(going, "/api/v1/things")
    assert headers[b"deprecation"] == b"@1793491200"
    assert headers[b"sunset"] == b"Sat, 01 May 2027 00:00:00 GMT"
    assert headers[b"link"] == b'</api/v2/things>; rel="successor-version"'
    assert b"deprecation" not in await head_of(going, "/api/v2/things")


def test_deprecated_route_is_marked_in_openapi_and_on_the_page(going: FastAPI) -> None:
    going.router.routes[:] = going.router.routes[-2:]
    documentation = Documentation(going, {})
    paths: dict[str, Any] = documentation.openapi()["paths"]
    assert paths["/api/v1/things"]["get"]["deprecated"] is True
    assert "deprecated" not in paths["/api/v2/things"]["get"]
    assert documentation.page()[0].count("(deprecated)") == 1


async def test_page_shows_parameters_bodies_and_answers_without_any_script(rig: Rig) -> None:
    async with rig.session.get("/docs") as answer:
        page = await answer.text()
        policy = answer.headers["content-security-policy"]
    assert "<script" not in page
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "/auth/login" in page
    assert "<code>email</code>" in page  # a member of a body
    assert "<code>page_size</code>" in page  # a query parameter
    assert "apikeys:manage:own" in page


async def test_every_operation_is_described_with_its_errors(rig: Rig) -> None:
    session: aiohttp.ClientSession = rig.session
    async with session.get("/openapi.json") as answer:
        document = await answer.json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            place = f"{method} {path}"
            assert operation["x-permission"], place
            assert any(status.startswith(("2", "3")) for status in operation["responses"]), place
            if operation["security"]:
                assert {"401", "403"} <= set(operation["responses"]), place
