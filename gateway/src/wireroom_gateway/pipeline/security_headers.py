"""Security headers on every answer (OWASP Secure Headers)."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
HSTS = "max-age=31536000; includeSubDomains"
_HEADERS: dict[str, str] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "permissions-policy": (
        "accelerometer=(), autoplay=(), camera=(), display-capture=(), encrypted-media=(), fullscreen=(), geolocation=(), "
        "gyroscope=(), magnetometer=(), microphone=(), midi=(), payment=(), picture-in-picture=(), publickey-credentials-get=(), "
        "screen-wake-lock=(), usb=(), web-share=(), xr-spatial-tracking=()"
    ),
    "x-permitted-cross-domain-policies": "none",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cache-control": "no-store",
}


class SecurityHeaders:
    """A header that the answer already has stays as it is. HSTS is only said over HTTPS."""

    def __init__(self, app: ASGIApp, *, legacy_xss_protection: bool = False) -> None:
        self._app = app
        headers = {**_HEADERS, "x-xss-protection": "1; mode=block" if legacy_xss_protection else "0"}
        self._plain = [(name.encode(), value.encode()) for name, value in headers.items()]
        self._secure = [*self._plain, (b"strict-transport-security", HSTS.encode())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self._secure if scope.get("scheme") == "https" else self._plain

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(entry for entry in headers if entry[0] not in present)]
            await send(message)

        await self._app(scope, receive, send_with_headers)
