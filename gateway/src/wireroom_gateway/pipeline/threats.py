"""Looks for marks of attacks in requests and tells monitoring. Refusing is opt-in, and never for what is said to a model.

Requests are looked at after they were answered, unless refusing is switched on and the route takes no prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wireroom_gateway.access import Body, Bucket
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.problems import http_problem
from wireroom_gateway.reports import Reporter
from wireroom_gateway.request_state import RequestState, request_state
from wireroom_gateway.threat_rules import MAX_SCORE, MAX_TEXT, ThreatKind, address_text, is_plain, json_text, path_points, score

_HEADERS = frozenset({b"user-agent", b"referer", b"x-forwarded-host", b"x-original-url", b"x-rewrite-url"})
_IN_ADDRESS = (ThreatKind.XSS, ThreatKind.SQL, ThreatKind.TRAVERSAL)
_IN_PROMPT = (ThreatKind.PROMPT_INJECTION,)
_MAX_REMEMBERED = 512


class ThreatNotes:
    """Tells of what scored `report_score` points and more."""

    def __init__(self, reports: Reporter, metrics: GatewayMetrics, report_score: int) -> None:
        self._reports = reports
        self._metrics = metrics
        self._report_score = report_score

    def prompt(self, state: RequestState, text: str) -> None:
        """Look at what is said to a model."""
        self.tell(state, text, score(text, _IN_PROMPT), blocked=False)

    def tell(self, state: RequestState, text: str, found: Mapping[ThreatKind, int], *, blocked: bool) -> None:
        """Report and count what was found in `text`."""
        for kind, points in found.items():
            if points >= self._report_score:
                self._metrics.threats.labels(kind.value, "yes" if blocked else "no").inc()
                digest = hashlib.sha256(text[:MAX_TEXT].encode("utf-8", "replace")).hexdigest()
                self._reports.threat(state, kind.value, points, sample_sha256=digest, blocked=blocked)


class Threats:
    """`report_score`: points from which a kind is reported. `block_score`: from which a request is refused, 0 for never."""

    def __init__(self, app: ASGIApp, *, reports: Reporter, metrics: GatewayMetrics, report_score: int, block_score: int) -> None:
        self._app = app
        self._notes = ThreatNotes(reports, metrics, report_score)
        self._block_score = block_score

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = request_state(scope)
        access = state.route.access if state.route else None
        prompt = access is not None and (access.prompt or access.bucket is Bucket.CHAT)
        blocks = self._block_score > 0 and not prompt and access is not None
        if blocks:
            self._refuse_if_bad(state, *_of_head(scope, prompt=prompt))
        body = bytearray()
        looks = access is not None and access.body is not Body.UPLOAD and _is_text(scope)
        judged = False

        async def receive_watched() -> Message:
            nonlocal judged
            message = await receive()
            if message["type"] == "http.request":
                if len(body) <= MAX_TEXT:
                    body.extend(message.get("body", b"")[: MAX_TEXT + 1])
                if blocks and not judged and not message.get("more_body", False):
                    judged = True
                    self._refuse_if_bad(state, *_of_body(body, prompt=prompt))
            return message

        try:
            await self._app(scope, receive_watched if looks else receive, send)
        finally:
            if not blocks:
                self._notes.tell(state, *_of_head(scope, prompt=prompt), blocked=False)
            if body and not judged:
                self._notes.tell(state, *_of_body(body, prompt=prompt), blocked=False)

    def _refuse_if_bad(self, state: RequestState, text: str, found: Mapping[ThreatKind, int]) -> None:
        # What is said to a model is never a reason.
        blocked = any(points >= self._block_score for kind, points in found.items() if kind is not ThreatKind.PROMPT_INJECTION)
        self._notes.tell(state, text, found, blocked=blocked)
        if blocked:
            raise http_problem(
                403,
                "The request looks like an attack and was refused. If it is not one, tell the operator its id"
                " (setting threat_block_score).",
                code="request_blocked",
            )


def _of_head(scope: Scope, *, prompt: bool) -> tuple[str, dict[ThreatKind, int]]:
    raw_path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    found: dict[ThreatKind, int] = {}
    plain = is_plain(raw_path) and (not query or is_plain(query))
    if not plain:
        text = address_text(raw_path, query)
        if prompt:
            # The query of a search is what somebody looks for.
            found = score(address_text(raw_path, b""), _IN_ADDRESS)
            found |= score(text, _IN_PROMPT)
        else:
            found = score(text, _IN_ADDRESS)
    for name, value in scope["headers"]:
        if name in _HEADERS:
            for kind, points in _of_header(value).items():
                found[kind] = max(found.get(kind, 0), points)
    hidden = 0 if plain else path_points(raw_path)
    if hidden:
        found[ThreatKind.TRAVERSAL] = min(MAX_SCORE, found.get(ThreatKind.TRAVERSAL, 0) + hidden)
    return address_text(raw_path, query) if found else "", found


def _of_header(value: bytes) -> Mapping[ThreatKind, int]:
    # Clients send the same few again and again.
    return _remembered(value) if len(value) <= _MAX_REMEMBERED else score(value[:MAX_TEXT].decode("latin-1"), _IN_ADDRESS)


@lru_cache(maxsize=1_024)
def _remembered(value: bytes) -> Mapping[ThreatKind, int]:
    return score(value.decode("latin-1"), _IN_ADDRESS)


def _of_body(body: bytearray, *, prompt: bool) -> tuple[str, dict[ThreatKind, int]]:
    text = json_text(bytes(body))
    return text, score(text, _IN_PROMPT if prompt else tuple(ThreatKind))


def _is_text(scope: Scope) -> bool:
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return content_type.lower().startswith((b"application/json", b"text/"))
