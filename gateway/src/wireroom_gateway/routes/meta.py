"""What the installation says of itself: version, documentation, keys, metrics."""

from __future__ import annotations

import hmac
import ipaddress

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.access import Need, access
from wireroom_gateway.documentation import Documentation
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.request_state import request_state
from wireroom_gateway.routes.fields import Output


class InfoOutput(Output):
    """Name, version, and where to look."""

    name: str
    version: str
    api_versions: list[str]
    openai_base_path: str
    documentation: str
    openapi: str


def add_meta_routes(
    api: FastAPI,
    documentation: Documentation,
    keys: JwksCache,
    registry: CollectorRegistry,
    *,
    version: str,
    metrics_token: SecretStr | None,
) -> None:
    """`/info`, `/docs`, `/openapi.json`, `/.well-known/jwks.json`, `/metrics`."""

    @api.get("/info", tags=["meta"])
    @access(Need.NOTHING)
    async def info() -> InfoOutput:
        return InfoOutput(
            name="wireroom",
            version=version,
            api_versions=["v1"],
            openai_base_path="/v1",
            documentation="/docs",
            openapi="/openapi.json",
        )

    @api.get("/docs", tags=["meta"], response_class=Response)
    @access(Need.NOTHING)
    async def docs() -> Response:
        page, policy = documentation.page()
        return Response(page, media_type="text/html", headers={"content-security-policy": policy})

    @api.get("/openapi.json", tags=["meta"], response_class=Response)
    @access(Need.NOTHING)
    async def openapi() -> Response:
        return Response(orjson.dumps(documentation.openapi()), media_type="application/json")

    @api.get("/.well-known/jwks.json", tags=["meta"], response_class=Response)
    @access(Need.NOTHING)
    async def jwks() -> Response:
        return Response(keys.document, media_type="application/jwk-set+json", headers={"cache-control": "public, max-age=300"})

    @api.get("/metrics", tags=["meta"], response_class=Response)
    @access(Need.NOTHING, bucket=None, any_host=True)
    async def metrics(request: Request) -> Response:
        if metrics_token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            expected = metrics_token.get_secret_value()
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), expected.encode()):
                raise WireroomError(ErrorKind.UNAUTHENTICATED, "metrics_token_missing", "The metrics token is needed here.")
        elif not _is_local(request):
            raise WireroomError(
                ErrorKind.FORBIDDEN, "metrics_local_only", "Metrics are shown on this machine only, unless metrics_token is set."
            )
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _is_local(request: Request) -> bool:
    """Whether somebody on this machine asks, and not for somebody elsewhere: a proxy on this machine lets the world in.

    What decides is the other end of the connection, never what a header says. A proxy that adds no forwarding header and replaces
    the Host field leaves no trace; behind such a one, only the token protects.
    """
    state = request_state(request.scope)
    host = request.headers.get("host", "").rpartition("]")[0].lstrip("[") or request.headers.get("host", "").partition(":")[0]
    return _is_loopback(state.peer_ip) and not state.relayed and (host.lower() == "localhost" or _is_loopback(host))


def _is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
