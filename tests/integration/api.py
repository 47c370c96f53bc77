"""A small HTTP client that shows what is on the wire: status, headers, body."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from types import MappingProxyType
from typing import Any

TIMEOUT = 60.0


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        """The body parsed as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Api:
    """Calls `base_url` as one caller; `key` is an API key or an access token, empty for nobody."""

    base_url: str
    key: str = ""

    def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """One request; HTTP errors are answers, not exceptions."""
        all_headers = dict(headers or {})
        if self.key:
            all_headers.setdefault("Authorization", f"Bearer {self.key}")
        data = raw
        if body is not None:
            data = json.dumps(body).encode()
            all_headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(f"{self.base_url}{path}", data=data, headers=all_headers, method=method)
        # The certificate is the self-signed one of a fresh installation.
        context = ssl._create_unverified_context() if self.base_url.startswith("https") else None  # noqa: S323, SLF001
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT, context=context) as response:
                return Reply(response.status, response.headers, response.read())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read())

    def get(self, path: str) -> Any:
        """The JSON of a successful GET."""
        reply = self.call("GET", path)
        assert reply.status == 200, (path, reply.status, reply.body[:500])
        return reply.json

    def post(self, path: str, body: Any) -> Any:
        """The JSON of a successful POST."""
        reply = self.call("POST", path, body)
        assert reply.status in (200, 201, 202), (path, reply.status, reply.body[:500])
        return reply.json

    def upload(
        self,
        name: str,
        content: bytes,
        media_type: str = "application/octet-stream",
        *,
        path: str = "/api/v1/documents",
        fields: Mapping[str, str] = MappingProxyType({}),
    ) -> Reply:
        """Upload one document; `fields` of the form come before it."""
        boundary = uuid.uuid4().hex
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'
            for field, value in fields.items()
        )
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            f"Content-Type: {media_type}\r\n\r\n"
        )
        raw = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        return self.call("POST", path, raw=raw, headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})

    def indexed(self, name: str, content: bytes) -> dict[str, Any]:
        """Upload a document and wait until it is searchable."""
        reply = self.upload(name, content)
        assert reply.status == 202, (reply.status, reply.body[:500])
        return self.settled(reply.json["id"], expect="indexed")

    def audit_records(self, *, installation: bool = False, **chosen: str) -> list[dict[str, Any]]:
        """The caller's whole audit chain (or the installation's), or what of it fits the filters."""
        filters = "".join(f"&{name}={value}" for name, value in chosen.items())
        found: list[dict[str, Any]] = []
        after = 0
        while True:
            page = self.get(f"/api/v1/audit?after={after}&page_size=500&installation={str(installation).lower()}{filters}")
            if not page["records"]:
                return found
            found += page["records"]
            after = page["next_after"]

    def settled(self, document_id: str, *, expect: str, within: float = 60) -> dict[str, Any]:
        """The document once its processing has ended, in the expected state."""

        def settled() -> dict[str, Any] | None:
            document: dict[str, Any] = self.get(f"/api/v1/documents/{document_id}")
            return document if document["state"] in {"indexed", "rejected", "failed"} else None

        document: dict[str, Any] = wait_for(settled, within=within)
        assert document["state"] == expect, document
        return document


def events_of(reply: Reply) -> list[tuple[str, Any]]:
    """Name and data of each event of a stream that was answered whole."""
    assert reply.status == 200, (reply.status, reply.body[:500])
    found: list[tuple[str, Any]] = []
    for block in reply.body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if "data" in fields:
            found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found


def wait_for(condition: Callable[[], Any], *, within: float = 30, every: float = 0.05) -> Any:
    """The first truthy value of `condition()`; AssertionErrors count as not yet."""
    deadline = time.monotonic() + within
    while True:
        try:
            value = condition()
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            value = None
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} s (last value: {value!r})"
        time.sleep(every)


def stable(read: Callable[[], Any], *, unchanged: float = 1.0, within: float = 30) -> Any:
    """The value of `read()` once all reads of `unchanged` seconds, two at least, have agreed."""
    value: Any = object()
    since = 0.0

    def agreed() -> Any:
        nonlocal value, since
        current = read()
        if current != value:
            value, since = current, time.monotonic()
        return (value,) if time.monotonic() - since >= unchanged else None

    return wait_for(agreed, within=within, every=0.2)[0]
