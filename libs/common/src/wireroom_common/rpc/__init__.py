"""Calls between services: the same generated stubs and servicers inside one process and over gRPC.

How a process is wired (keys once per process role, metrics once per registry):

    key = ensure_key(key_dir, issuer)                              # issuer: "gateway", "auth", "chat", …
    signer = PrincipalSigner(issuer, key, clock)
    verifier = PrincipalVerifier(load_trusted(key_dir), clock, reload=lambda: load_trusted(key_dir))
    server_metrics, client_metrics = ServerMetrics(registry), ClientMetrics(registry)

Servers, one per service; `service.rpc` holds its registrations:

    guard = CallGuard(verifier=verifier, metrics=server_metrics, tracer=tracer, public_rpcs=service.public_rpcs)
    server = network.server(service.name, interceptors=(guard,))   # network = LocalNetwork(), once
    server = grpc_server(guard)                                    # or over gRPC:
    server.add_insecure_port("0.0.0.0:50051")                      #   or "unix:/path/chat.sock"; returns the port
    health = await Health.attach(server)                           #   NOT_SERVING until await health.set_ready(True)
    for register in service.rpc:
        register(server)
    await server.start()
    …
    await health.shut_down()
    await server.stop(grace=20.0)

Channels, in any order with the servers; `open_channel` takes the targets of the settings:

    inner = open_channel("local:rag", network)                     # or "grpc://rag:50051", "grpc:unix:/path/rag.sock";
                                                                   #   multiplexed=True: many calls in one stream
    channel = ServiceChannel(inner, signer=signer, metrics=client_metrics, tracer=tracer)
    stub = RetrievalServiceStub(channel)
    response = await stub.Retrieve(request, timeout=2.0)           # raises WireroomError only
    async with aclosing(stub.StreamComplete(request)) as stream:   # leaving the block early cancels the call on the server
        async for part in stream: …
    await channel.close()

A process with a "gateway" key may make calls for any principal (`set_current_principal` before the call). The others forward the
principal of the call they serve, or work under `with acting_as_service(tenant_id):`. The gateway sets the request id once per request
with `set_request_id`, and may bound all calls of a request with `set_remaining_time`.
"""

from wireroom_common.rpc.client import ServiceCall, ServiceChannel, grpc_channel
from wireroom_common.rpc.context import (
    acting_as_service,
    current_client_address,
    current_request_id,
    received_principal,
    remaining_time,
    set_client_address,
    set_remaining_time,
    set_request_id,
)
from wireroom_common.rpc.keys import ensure_key, load_key, load_trusted, trust
from wireroom_common.rpc.local import LocalChannel, LocalNetwork, LocalServer
from wireroom_common.rpc.metrics import ClientMetrics, ServerMetrics
from wireroom_common.rpc.server import CallGuard, Health, grpc_server
from wireroom_common.rpc.signing import PrincipalSigner, PrincipalVerifier
from wireroom_common.rpc.targets import open_channel

__all__ = [
    "CallGuard",
    "ClientMetrics",
    "Health",
    "LocalChannel",
    "LocalNetwork",
    "LocalServer",
    "PrincipalSigner",
    "PrincipalVerifier",
    "ServerMetrics",
    "ServiceCall",
    "ServiceChannel",
    "acting_as_service",
    "current_client_address",
    "current_request_id",
    "ensure_key",
    "grpc_channel",
    "grpc_server",
    "load_key",
    "load_trusted",
    "open_channel",
    "received_principal",
    "remaining_time",
    "set_client_address",
    "set_remaining_time",
    "set_request_id",
    "trust",
]
