"""The targets of channels as settings write them."""

from __future__ import annotations

import re

import grpc.aio

from wireroom_common.errors import invalid
from wireroom_common.rpc.client import grpc_channel
from wireroom_common.rpc.local import LocalNetwork
from wireroom_common.rpc.multiplex.channel import MultiplexChannel
from wireroom_common.rpc.signing import PrincipalSigner

# Replicas without a name service: all of them, in turn.
_IPV4_LIST = re.compile(r"ipv4:[0-9.]+:[0-9]+(?:,[0-9.]+:[0-9]+)*")


def open_channel(
    target: str, network: LocalNetwork, *, multiplexed: bool = False, signer: PrincipalSigner | None = None
) -> grpc.aio.Channel:
    """The bare channel for "local:<service>", "grpc://host:port", "grpc:ipv4:…" or "grpc:unix:/path"; INVALID for anything else.

    `multiplexed`: calls to another process share a stream where the peer knows how. With `signer` such a stream says when it is opened
    who opens it; without, the peer ends it unless a signed call comes soon.
    """

    def over_grpc(address: str) -> grpc.aio.Channel:
        return MultiplexChannel(address, signer=signer) if multiplexed else grpc_channel(address)

    scheme, _, rest = target.partition(":")
    if scheme == "local" and rest:
        return network.channel(rest)
    if scheme == "grpc" and (rest.startswith("unix:/") or _IPV4_LIST.fullmatch(rest)):
        return over_grpc(rest)
    if scheme == "grpc" and rest.startswith("//") and rest[2:].rpartition(":")[2].isdigit():
        return over_grpc(rest[2:])
    raise invalid(
        "rpc_target_malformed",
        f"'{target}' is not an RPC target: expected local:<service>,"
        " grpc://host:port, grpc:ipv4:address:port,address:port or grpc:unix:/path.",
    )
