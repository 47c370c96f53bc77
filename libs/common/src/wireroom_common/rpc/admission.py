"""Who gets into a server: one budget for all calls of known callers, and small ones for strangers, so that these are never in the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

HEALTH = "/grpc.health.v1.Health/"
# Probes of orchestrators carry no principal. A stream of many calls is a connection: its calls are guarded.
UNGUARDED = (HEALTH, "/wireroom_protos.common.v1.MultiplexService/")
OVERLOADED = "Concurrent RPC limit exceeded!"
# How long a stranger may take to say what it wants, or who it is.
STRANGER_SECONDS = 10.0
_HEALTH_REQUEST_BYTES = 4096


class Refusal:
    """A handler that ends the call without reading what it was sent, whatever the shape of the method.

    `known`: the caller is one of the installation's all the same.
    """

    request_streaming = True
    response_streaming = True
    request_deserializer = None
    response_serializer = None
    unary_unary = None
    unary_stream = None
    stream_unary = None

    def __init__(self, refuse: Callable[[Any, Any], Awaitable[Any]], *, known: bool) -> None:
        self.stream_stream = refuse
        self.known = known


class CallBudget:
    """How many calls a server runs at once, whichever way they come."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0

    def take(self) -> bool:
        """Count the call that the current task serves until the task has ended; False if there are too many."""
        task = asyncio.current_task()
        if task is None or self._taken >= self._limit:
            return False
        self._taken += 1
        task.add_done_callback(self._give_back)
        return True

    def _give_back(self, _task: asyncio.Task[Any]) -> None:
        self._taken -= 1


class Admission(grpc.aio.ServerInterceptor):
    """The outermost interceptor: what the others let through takes a place of the budget. What they refuse takes none."""

    def __init__(self, budget: CallBudget) -> None:
        self._budget = budget

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or isinstance(handler, Refusal) or handler_call_details.method.startswith(UNGUARDED):
            return handler
        return handler if self._budget.take() else Refusal(_refuse_overloaded, known=True)


async def _refuse_overloaded(_requests: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, OVERLOADED)


class Door:
    """Places for strangers: `limit` in all, `per_address` for each address. Peers on a Unix socket have no address."""

    def __init__(self, limit: int, per_address: int) -> None:
        self._limit = limit
        self._per_address = per_address
        self._inside: Counter[str] = Counter()

    def enter(self, peer: str) -> Callable[[], None] | None:
        """Take a place for `peer`, as the servicer's context names it; what gives it back (once), or None if there is none."""
        address = "" if peer.startswith("unix:") else peer.rpartition(":")[0]
        if self._inside.total() >= self._limit or (address and self._inside[address] >= self._per_address):
            return None
        self._inside[address] += 1
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._inside[address] -= 1
                if not self._inside[address]:
                    del self._inside[address]

        return leave


class HealthDoor(grpc.aio.ServerInterceptor):
    """`grpc.health.v1` for callers that nobody knows: a few at once, small requests, and no waiting for a request that never comes."""

    def __init__(self) -> None:
        # Apart, so that watchers, who stay, leave room for probes.
        self._checks = Door(limit=256, per_address=16)
        self._watches = Door(limit=32, per_address=4)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(HEALTH):
            return handler
        door = self._watches if handler.response_streaming else self._checks

        async def bounded(_requests: Any, context: Any) -> None:
            leave = door.enter(context.peer())
            if leave is None:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Too many unsigned calls at once.")
                return
            try:
                request = await _read(handler, context)
                if handler.response_streaming:
                    await handler.unary_stream(request, context)
                else:
                    await context.write(await handler.unary_unary(request, context))
            finally:
                leave()

        return grpc.stream_stream_rpc_method_handler(bounded, response_serializer=handler.response_serializer)


async def _read(handler: Any, context: Any) -> Any:
    try:
        async with asyncio.timeout(STRANGER_SECONDS):
            raw = await context.read()
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "The request did not come in time.")
    if raw is grpc.aio.EOF or len(raw) > _HEALTH_REQUEST_BYTES:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "This is no request about health.")
    try:
        return handler.request_deserializer(raw)
    except DecodeError:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "This is no request about health.")
