"""The container's health check: exit status 0 when the process in it answers. Asks the way its settings say it listens."""  # noqa: INP001 - a script, not a package

from __future__ import annotations

import os
import sys
import urllib.request
from collections.abc import Callable

import grpc

TIMEOUT = 2.5
# HealthCheckRequest(service="live") and HealthCheckResponse(SERVING) of grpc.health.v1.
LIVE = b"\x0a\x04live"
SERVING = b"\x08\x01"


def rpc_answers(port: str) -> bool:
    """Whether grpc.health.v1 says that the process lives; a process that waits for its database does, though it is not ready."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        check: Callable[..., bytes] = channel.unary_unary("/grpc.health.v1.Health/Check")
        return check(LIVE, timeout=TIMEOUT) == SERVING


def http_answers(port: str) -> bool:
    """Whether the gateway answers its liveness route."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=TIMEOUT) as response:
        return bool(response.status == 200)  # noqa: PLR2004 - HTTP's OK


def main() -> int:
    """0 or 1."""
    listen = os.environ.get("WIREROOM_RPC_LISTEN", "local:")
    try:
        if listen.startswith("grpc://"):
            return 0 if rpc_answers(listen.rpartition(":")[2]) else 1
        return 0 if http_answers(os.environ.get("WIREROOM_GATEWAY_PORT", "8000")) else 1
    except (OSError, grpc.RpcError) as error:
        sys.stderr.write(f"{type(error).__name__}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
