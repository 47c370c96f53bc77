"""The header fields of every kind of answer, by the rules of the OWASP Secure Headers project and Mozilla's Observatory.

Rules that are about pages, cookies, scripts or subresources are checked on the one page there is (/docs), the others everywhere.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from gateway_rig import Rig, running

# https://owasp.org/www-project-secure-headers/ (headers_add.json), as far as an API is concerned.
EXPECTED = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-permitted-cross-domain-policies": "none",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-xss-protection": "0",
}
# headers_remove.json of the same, those that servers and frameworks of this kind could send, and what they begin with.
REMOVED = (
    "server", "x-powered-by", "x-aspnet-version", "x-aspnetmvc-version", "x-runtime", "x-version", "x-backend-server", "x-server",
    "x-generator", "x-process-time", "via", "x-varnish", "x-cache", "x-envoy-upstream-service-time", "x-kubernetes-pf-flowschema-ui",
    "x-python-version", "x-litespeed-tag", "product", "host-header", "pics-label", "public-key-pins", "expect-ct", "feature-policy",
    "set-cookie", "access-control-allow-credentials", "x-envoy-attempt-count", "liferay-portal", "x-b3-traceid", "x-php-version",
)  # fmt: skip
CALLS: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "answer": ("GET", "/info", {}, 200),
    "head": ("HEAD", "/info", {}, 405),
    "page": ("GET", "/docs", {}, 200),
    "OpenAPI": ("GET", "/openapi.json", {}, 200),
    "keys": ("GET", "/.well-known/jwks.json", {}, 200),
    "metrics": ("GET", "/metrics", {}, 200),
    "probe": ("GET", "/health/live", {}, 200),
    "nothing there": ("GET", "/nothing", {}, 404),
    "method": ("POST", "/info", {}, 405),
    "OPTIONS": ("OPTIONS", "/info", {}, 405),
    "preflight": ("OPTIONS", "/info", {"headers": {"origin": "https://x.example", "access-control-request-method": "GET"}}, 405),
    "anonymous": ("GET", "/api/v1/documents", {}, 401),
    "bad token": ("GET", "/api/v1/documents", {"headers": {"authorization": "Bearer x"}}, 401),
    "other host": ("GET", "/info", {"headers": {"host": "evil.com"}}, 400),
    "no host name": ("GET", "/info", {"headers": {"host": "a b"}}, 400),
    "content coding": ("POST", "/auth/login", {"data": b"x", "headers": {"content-encoding": "br"}}, 415),
    "too many fields": ("GET", "/info", {"headers": {f"x-{number}": "y" for number in range(120)}}, 431),
    "long address": ("GET", "/info?" + "x" * 9_000, {}, 414),
    "too large": ("POST", "/auth/login", {"data": 1_100_000, "headers": {"content-type": "application/json"}}, 413),
    "malformed": ("POST", "/auth/login", {"data": b"{", "headers": {"content-type": "application/json"}}, 400),
    "v1": ("POST", "/v1/chat/completions", {"json": {}}, 401),
}


def directives(policy: str) -> dict[str, list[str]]:
    parts = [part.split() for part in policy.split(";") if part.strip()]
    return {name: values for name, *values in parts}


def faults(headers: Mapping[str, str], *, secure: bool) -> list[str]:
    """What an answer's head does wrong."""
    found = [f"{name}: {headers.get(name)}" for name, value in EXPECTED.items() if headers.get(name) != value]
    found += [f"{name} is sent" for name in REMOVED if name in headers]
    policy = directives(headers.get("content-security-policy", ""))
    for name in ("default-src", "base-uri", "form-action", "frame-ancestors"):
        if policy.get(name) != ["'none'"]:
            found.append(f"content-security-policy: {name} {policy.get(name)}")
    sources = [value for values in policy.values() for value in values]
    if any(value in ("'unsafe-inline'", "'unsafe-eval'", "*", "data:", "http:", "https:") for value in sources):
        found.append("content-security-policy is open")
    if "camera=()" not in headers.get("permissions-policy", ""):
        found.append("permissions-policy")
    if "access-control-allow-origin" in headers:
        found.append("open to other origins")
    age = re.match(r"max-age=(\d+); includeSubDomains", headers.get("strict-transport-security", ""))
    # Observatory wants six months at least; over plain HTTP browsers must ignore the field, so it is not sent.
    if secure and (age is None or int(age[1]) < 15_768_000):
        found.append("strict-transport-security")
    if not secure and "strict-transport-security" in headers:
        found.append("strict-transport-security over plain HTTP")
    if "no-store" not in headers.get("cache-control", "") and headers.get("content-type") != "application/jwk-set+json":
        found.append("cache-control")
    if headers.get("content-type", "").startswith("text/") and "charset=utf-8" not in headers["content-type"]:
        found.append("content-type without charset")
    return found


@pytest.mark.parametrize("secure", [False, True])
async def test_every_answer_carries_the_security_headers(work_dir: Path, secure: bool) -> None:  # noqa: FBT001
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    wrong: dict[str, Any] = {}
    async with running(work_dir, tls_port=port) as rig:
        context = ssl.create_default_context(cafile=str(work_dir / "tls" / "tls.crt"))
        connector = aiohttp.TCPConnector(ssl=context, force_close=True)
        async with aiohttp.ClientSession(base_url=rig.urls[secure], connector=connector) as session:
            for name, (method, path, options, status) in CALLS.items():
                data = options.get("data")
                sent = {**options, "data": io.BytesIO(bytes(data))} if isinstance(data, int) else options
                async with session.request(method, path, **sent) as reply:
                    headers = {field.lower(): value for field, value in reply.headers.items()}
                    found = faults(headers, secure=secure)
                    if len(reply.headers) != len(headers):
                        found.append("a field is sent twice")
                    if reply.status != status or found:
                        wrong[name] = (reply.status, found)
                    if reply.status == 405 and not reply.headers.get("allow"):
                        wrong[name] = "405 without Allow"
    assert wrong == {}


async def test_header_fields_cannot_be_injected_through_the_request(rig: Rig) -> None:
    attempts = ["/info?x=%0d%0aset-cookie:%20a=b", "/nothing%0d%0aset-cookie:%20a=b", "/docs/%0d%0a%0d%0a<script>"]
    for path in attempts:
        reader, writer = await rig.connect()
        writer.write(
            rig.head("GET", path, connection="close", x_request_id="abcdefgh%0d%0aset-cookie:a", origin="https://x%0d%0aa:b")
        )
        head = (await reader.read()).partition(b"\r\n\r\n")[0].lower()
        assert b"set-cookie" not in head.replace(b"%20", b" ").split(b"\r\n", 1)[1]
        assert head.startswith((b"http/1.1 200", b"http/1.1 404"))
        writer.close()


async def test_the_legacy_filter_can_be_asked_for(work_dir: Path) -> None:
    async with running(work_dir, legacy_xss_protection=True) as rig, rig.session.get("/info") as reply:
        assert reply.headers["x-xss-protection"] == "1; mode=block"
