"""`Idempotency-Key` on every POST: a repeated request gets the first one's answer, and has no second effect.

First request: claimed in the shared store, carried out, its answer stored before it is sent. In progress: 409. Another request with the
key: 422. The key goes along with the calls to services, which claim it in the effect's transaction: that holds if this process dies
between the effect and the storing, or the store loses the claim.

Whether two requests are the same is known once their bodies were read; neither is ever kept: both are hashed while they pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from dataclasses import replace
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.logging import get_logger
from wireroom_common.rpc.context import set_idempotency_key
from wireroom_gateway.access import Bucket
from wireroom_gateway.idempotency.answers import NotKept, StoredAnswer
from wireroom_gateway.idempotency.keys import HEADER, fingerprint_start, given_key, scoped_key
from wireroom_gateway.idempotency.store import AnswerStore, Claim, InFlightError
from wireroom_gateway.metrics import GatewayMetrics
from wireroom_gateway.problems import http_problem, render
from wireroom_gateway.request_state import request_state

MAX_KEPT_BYTES = 256 * 1024
REPLAYED = (b"idempotency-replayed", b"true")
# What of an answer's head is worth repeating; the outer stages add the rest to each answer.
_KEPT_HEADERS = frozenset(
    {b"content-type", b"location", b"content-language", b"content-disposition", b"x-answer-mode", b"x-retrieval"}
)
# Answers that say nothing about the request itself, but about who asks, when, or how it arrived.
_PASSING = frozenset({401, 403, 408, 409, 413, 429, 499})
_ERROR, _SERVER_ERROR = 400, 500
_DRAIN_SECONDS = 10.0
_REASONS = {
    NotKept.SECRET: "it holds a credential, which is shown once. If it did not arrive, do the operation again with another key",
    NotKept.STREAM: "it was an event stream. Make the request again with another key",
    NotKept.LARGE: f"it was larger than {MAX_KEPT_BYTES} bytes. Look up what the request made, or repeat it with another key",
    NotKept.SOURCES: "it may tell of what you cannot read any more. Ask again with another key",
    NotKept.UNREAD: "it was given before the request had arrived as a whole. Look up what the request made",
}
_log = get_logger(__name__)


class Idempotency:
    """Answers with 5xx or 429, and refusals that have to do with the caller or the moment, leave the key free."""

    def __init__(self, app: ASGIApp, *, store: AnswerStore, metrics: GatewayMetrics) -> None:
        self._app = app
        self._store = store
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        values = [value for name, value in scope["headers"] if name == HEADER] if scope["method"] == "POST" else []
        state = request_state(scope)
        if not values or state.route is None:
            await self._app(scope, receive, send)
            return
        key = scoped_key(given_key(values), state.principal, "POST", state.template)
        body = _HashedBody(scope, receive)
        # Answers to questions may quote what their caller may not read any more; others tell of it.
        declared = state.route.access
        quotes = (declared.prompt or declared.quotes or declared.bucket is Bucket.CHAT) and bool(state.principal.tenant_text)
        sources = await self._store.sources_mark(state.principal.tenant_text) if quotes else ""
        claim = self._store.new_claim(key)
        try:
            answer = await claim.take()
        except InFlightError:
            self._count("in_flight")
            raise WireroomError(
                ErrorKind.CONFLICT,
                "idempotency_in_flight",
                "The first request with this Idempotency-Key is still in progress. Try again.",
                retry_after=1.0,
            ) from None
        except WireroomError:
            self._count("unavailable")
            raise
        if answer is None:
            self._count("first")
            set_idempotency_key(key.effect)
            await self._first(scope, body, send, claim, secret=state.route.access.secret_answer, sources=sources)
        else:
            if answer.sources != sources and answer.not_kept is None:
                answer = replace(answer, not_kept=NotKept.SOURCES)
            await self._again(answer, body, send)

    async def _first(self, scope: Scope, body: _HashedBody, send: Send, claim: Claim, *, secret: bool, sources: str) -> None:
        exchange = _FirstAnswer(body, send, claim, secret=secret, sources=sources)
        renewal = asyncio.create_task(self._renew(claim))
        try:
            await self._app(scope, body.receive, exchange.send)
        except (HTTPException, WireroomError) as error:
            if exchange.started or (isinstance(error, WireroomError) and error.kind is ErrorKind.INTERNAL):
                raise
            # A refusal is an answer too.
            await render(scope, error)(scope, body.receive, exchange.send)
        finally:
            renewal.cancel()
            if not exchange.settled:
                # It ended without an answer: nobody knows of an effect, and the services would not let a second one happen.
                await _tried(claim.release(), "release")

    async def _renew(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._store.lease / 3)
            await _tried(claim.renew(), "renew")

    async def _again(self, answer: StoredAnswer, body: _HashedBody, send: Send) -> None:
        if answer.fingerprint:
            await body.drain()
            if not hmac.compare_digest(body.digest(), answer.fingerprint):
                self._count("reused")
                raise http_problem(
                    422,
                    "This Idempotency-Key was used for another request (path, query, content type or body differ). Use a new key.",
                    code="idempotency_key_reused",
                )
        if answer.not_kept is not None:
            self._count("not_kept")
            raise WireroomError(
                ErrorKind.CONFLICT,
                "idempotency_answer_not_kept",
                f"The request with this Idempotency-Key was carried out. Its answer was not kept: {_REASONS[answer.not_kept]}.",
            )
        self._count("replayed")
        headers = [*answer.headers, (b"content-length", str(len(answer.body)).encode()), REPLAYED]
        if answer.status in (204, 304):
            headers = [*answer.headers, REPLAYED]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def _count(self, outcome: str) -> None:
        self._metrics.idempotent.labels(outcome).inc()


class _HashedBody:
    """A request's body, hashed while it passes."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        self._hash = fingerprint_start(scope)
        self.complete = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request" and not self.complete:
            self._hash.update(message.get("body", b""))
            self.complete = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what was not read yet. ClientDisconnect if the client goes away."""
        while not self.complete:
            if (await self.receive())["type"] == "http.disconnect":
                raise ClientDisconnect

    def digest(self) -> bytes:
        return self._hash.digest()


class _FirstAnswer:
    """Holds an answer back until it is stored; one that will not be kept passes as soon as that is clear."""

    def __init__(self, body: _HashedBody, send: Send, claim: Claim, *, secret: bool, sources: str) -> None:
        self._body = body
        self._send = send
        self._claim = claim
        self._secret = secret
        self._sources = sources
        self._held: list[Message] = []
        self._content = bytearray()
        self.settled = False

    @property
    def started(self) -> bool:
        """Whether there is an answer, or the beginning of one."""
        return self.settled or bool(self._held)

    async def send(self, message: Message) -> None:
        if self.settled:
            await self._send(message)
            return
        self._held.append(message)
        if message["type"] == "http.response.start":
            if _content_type(message).startswith(b"text/event-stream"):
                await self._settle(NotKept.STREAM)
        elif message["type"] == "http.response.body":
            self._content += message.get("body", b"")
            if len(self._content) > MAX_KEPT_BYTES:
                await self._settle(NotKept.LARGE)
            elif not message.get("more_body", False):
                await self._settle(NotKept.SECRET if self._secret else None)

    async def _settle(self, not_kept: NotKept | None) -> None:
        status: int = self._held[0]["status"]
        # A credential is only in an answer that gives one.
        free = status >= _SERVER_ERROR or status in _PASSING or (self._secret and status >= _ERROR)
        if free:
            await _tried(self._claim.release(), "release")
        else:
            await _tried(self._claim.finish(await self._answer(status, not_kept)), "store")
        self.settled = True
        for message in self._held:
            await self._send(message)
        self._held.clear()
        self._content.clear()

    async def _answer(self, status: int, not_kept: NotKept | None) -> StoredAnswer:
        with contextlib.suppress(ClientDisconnect, TimeoutError, HTTPException):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self._body.drain()
        if not self._body.complete:
            return StoredAnswer(b"", status, not_kept=not_kept or NotKept.UNREAD)
        if not_kept is not None:
            return StoredAnswer(self._body.digest(), status, not_kept=not_kept)
        headers = tuple((name, value) for name, value in self._held[0]["headers"] if name.lower() in _KEPT_HEADERS)
        return StoredAnswer(self._body.digest(), status, headers, bytes(self._content), sources=self._sources)


def _content_type(message: Message) -> bytes:
    return next((value for name, value in message.get("headers", ()) if name.lower() == b"content-type"), b"")


async def _tried(call: Any, what: str) -> None:
    """After the effect the answer matters more than its storing: without it a repeated request is refused by the service."""
    try:
        await call
    except WireroomError:
        _log.warning("idempotency_store_away", doing=what)
