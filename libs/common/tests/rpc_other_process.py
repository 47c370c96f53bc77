"""The other process of a test: `serve ADDRESS KEY NAME [plain]` or `call TARGET KEY grpc|multiplexed`. Keys are raw bytes in hexadecimal.

`plain` serves as a process does that knows ordinary calls only. A caller begins `test.Echo/Wait` and stays in it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry

from wireroom_common.clock import SystemClock
from wireroom_common.rpc import (
    CallGuard,
    ClientMetrics,
    LocalNetwork,
    PrincipalSigner,
    PrincipalVerifier,
    ServerMetrics,
    ServiceChannel,
    acting_as_service,
    grpc_server,
    open_channel,
)


def echo(name: str) -> grpc.GenericRpcHandler:
    """`Name` answers with the name, `Wait` too and then stays."""

    async def answer(_request: bytes, _context: Any) -> bytes:
        return name.encode()

    async def wait(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield name.encode()
        await asyncio.Event().wait()

    handlers = {"Name": grpc.unary_unary_rpc_method_handler(answer), "Wait": grpc.unary_stream_rpc_method_handler(wait)}
    return grpc.method_handlers_generic_handler("test.Echo", handlers)


def plain_server(guard: CallGuard) -> grpc.aio.Server:
    """As before there were streams of calls."""
    return grpc.aio.server(interceptors=(guard,))


async def _serve(address: str, key: str, name: str, *how: str) -> None:
    trusted = {"gateway": [Ed25519PublicKey.from_public_bytes(bytes.fromhex(key))]}
    verifier = PrincipalVerifier(trusted, SystemClock())
    guard = CallGuard(verifier=verifier, metrics=ServerMetrics(CollectorRegistry()), tracer=NoOpTracer())
    server = plain_server(guard) if how else grpc_server(guard)
    server.add_generic_rpc_handlers((echo(name),))
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


async def _call(target: str, key: str, kind: str) -> None:
    signer = PrincipalSigner("gateway", Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)), SystemClock())
    inner = open_channel(target, LocalNetwork(), multiplexed=kind == "multiplexed")
    channel = ServiceChannel(inner, signer=signer, metrics=ClientMetrics(CollectorRegistry()), tracer=NoOpTracer())
    with acting_as_service():
        await anext(channel.unary_stream("/test.Echo/Wait")(b""))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"serve": _serve, "call": _call}[sys.argv[1]](*sys.argv[2:]))
