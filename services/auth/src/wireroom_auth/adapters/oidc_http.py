"""A small HTTP client for identity providers: JSON only, bounded in time and size, no redirects, no proxies, no cookies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import aiohttp

_MAX_BODY = 512 * 1024
_OK = 200
_ERRORS = range(400, 500)


class ProviderAnswerError(Exception):
    """The provider cannot be reached or does not answer as it must. The text is for the log."""


class ProviderRefusedError(Exception):
    """The provider answered with an error of OAuth. `code` is its name for it, in letters and underscores, or empty."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def require_endpoint(url: Any, *, issuer: str) -> str:
    """The URL, if the issuer may name it: HTTPS, or, for an issuer on this machine over plain HTTP, the issuer's own origin."""
    if not isinstance(url, str) or len(url) > 2000 or not url.isascii() or not url.isprintable():  # noqa: PLR2004 - URLs are short
        raise ProviderAnswerError("an endpoint is missing or no URL")
    parts, own = urlsplit(url), urlsplit(issuer)
    same = (parts.scheme, parts.netloc) == (own.scheme, own.netloc)
    if parts.username is not None or parts.fragment or not parts.hostname or not (same or parts.scheme == "https"):
        raise ProviderAnswerError("an endpoint is neither HTTPS nor the issuer's own")
    return url


class ProviderHttp:
    """One connection per request: there are few."""

    def __init__(self, timeout: float) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout)

    async def get(self, url: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A JSON object; ProviderAnswerError for anything else."""
        try:
            return await self._request("GET", url, headers=headers)
        except ProviderRefusedError as error:
            raise ProviderAnswerError(f"refused: {error.code}") from None

    async def post_form(self, url: str, form: Mapping[str, str], headers: Mapping[str, str]) -> dict[str, Any]:
        """The answer to a form; ProviderRefusedError if the provider says no."""
        return await self._request("POST", url, data=dict(form), headers=headers)

    async def _request(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        headers = {"accept": "application/json", **(options.pop("headers", None) or {})}
        try:
            async with (
                aiohttp.ClientSession(
                    timeout=self._timeout,
                    trust_env=False,
                    cookie_jar=aiohttp.DummyCookieJar(),
                    connector=aiohttp.TCPConnector(force_close=True),
                ) as session,
                session.request(method, url, headers=headers, allow_redirects=False, **options) as response,
            ):
                body = await _bounded(response)
                status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            # Not the text: it may hold the URL's query.
            raise ProviderAnswerError(type(error).__name__) from None
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise ProviderAnswerError(f"status {status} without a JSON object")
        if status in _ERRORS:
            code = answer.get("error")
            raise ProviderRefusedError(code[:64] if isinstance(code, str) and code.replace("_", "").isalpha() else "")
        if status != _OK:
            raise ProviderAnswerError(f"status {status}")
        return answer


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_chunked(65_536):
        body += chunk
        if len(body) > _MAX_BODY:
            raise ValueError("too large")
    return bytes(body)
