"""Serves exchanges with registered servicers, as a gRPC server serves its calls."""

from __future__ import annotations

import asyncio
import contextvars
import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import grpc
import grpc.aio
import structlog

from wireroom_common.rpc.admission import UNGUARDED, Refusal
from wireroom_common.rpc.exchange import CallStatus, Exchange, Metadata
from wireroom_common.rpc.exchange_context import ExchangeContext, run_handler

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _HandlerCallDetails:
    method: str
    invocation_metadata: Metadata


class CallRunner:
    """Each exchange runs in a task of its own, through all interceptors; one of them (`Admission`) bounds how many run at once."""

    def __init__(self, interceptors: Sequence[grpc.aio.ServerInterceptor]) -> None:
        self._interceptors = tuple(interceptors)
        self._generic: list[grpc.GenericRpcHandler] = []
        self._registered: dict[str, Any] = {}
        self._exchanges: dict[asyncio.Task[None], Exchange] = {}
        self._context: contextvars.Context | None = None

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        for name, handler in method_handlers.items():
            self._registered[f"/{service_name}/{name}"] = handler

    def keep_context(self) -> None:
        """Calls run in a copy of the context of here, never in that of their caller: nothing but metadata passes."""
        self._context = contextvars.copy_context()

    def accept(self, exchange: Exchange, peer: str) -> None:
        """Serve one call. `peer`: what the servicer's context says of the other side."""
        context = self._context.copy() if self._context else contextvars.Context()
        work = self._serve(exchange, peer)
        task = asyncio.get_running_loop().create_task(work, name=f"rpc {exchange.method}", context=context)
        exchange.task = task
        self._exchanges[task] = exchange
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._exchanges.pop(task, None)

    async def stop(self, grace: float | None) -> None:
        """Wait `grace` seconds for the calls in progress, then cancel them; their clients see UNAVAILABLE."""
        if self._exchanges and grace:
            await asyncio.wait(list(self._exchanges), timeout=grace)
        remaining = dict(self._exchanges)
        for exchange in remaining.values():
            exchange.give_up(CallStatus(grpc.StatusCode.UNAVAILABLE, "The server was stopped."))
        if remaining:
            # A servicer that swallows its cancellation must not hold up the process.
            await asyncio.wait(list(remaining), timeout=1.0)

    async def _serve(self, exchange: Exchange, peer: str) -> None:
        context = ExchangeContext(exchange, peer)
        try:
            handler = await self._handler(_HandlerCallDetails(exchange.method, exchange.metadata))
            if handler is None:
                exchange.finish(CallStatus(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
                return
            if handler.known if isinstance(handler, Refusal) else not exchange.method.startswith(UNGUARDED):
                exchange.caller_known()
            await run_handler(handler, context)
            context.end()
        except asyncio.CancelledError:
            exchange.finish(CallStatus(grpc.StatusCode.CANCELLED, "Cancelled by the server."))
        except grpc.aio.AbortError:
            context.end()
        except Exception:  # noqa: BLE001 - the border of the server
            # Interceptors map what servicers raise; this is what they could not see, such as a message that does not parse.
            _log.exception("rpc_failed", rpc=exchange.method)
            code = grpc.StatusCode.UNKNOWN if context.code() is grpc.StatusCode.OK else context.code()
            exchange.finish(CallStatus(code, "Unexpected error.", context.trailing_metadata_sent()))
        finally:
            context.run_callbacks()

    async def _handler(self, details: _HandlerCallDetails) -> Any:
        chain: Callable[[Any], Awaitable[Any]] = self._lookup
        for interceptor in reversed(self._interceptors):
            chain = functools.partial(interceptor.intercept_service, chain)
        return await chain(details)

    async def _lookup(self, details: _HandlerCallDetails) -> Any:
        registered = self._registered.get(details.method)
        if registered is not None:
            return registered
        # The protocol's type of invocation_metadata is the synchronous library's; ours is what its asyncio side passes.
        candidates = (generic.service(cast("Any", details)) for generic in self._generic)
        return next((handler for handler in candidates if handler is not None), None)
