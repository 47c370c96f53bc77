"""The peer of `bench_gateway.py`: the same path as many gateways write it at first.

FastAPI, three BaseHTTPMiddleware, the token verified on each request, redis-py without a script, one ordinary gRPC call.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from grpc_health.v1 import health_pb2, health_pb2_grpc
from joserfc import jwt
from joserfc.jwk import KeySet
from pydantic import BaseModel
from redis.asyncio import Redis

Next = Callable[[Request], Awaitable[Response]]


class Me(BaseModel):
    """What the route answers."""

    id: str
    tenant_id: str
    roles: list[str]
    permissions: list[str]
    status: int


def application(keys: KeySet, redis: Redis, channel: grpc.aio.Channel) -> FastAPI:
    """The gateway."""
    app = FastAPI()
    stub: Any = health_pb2_grpc.HealthStub(channel)

    @app.middleware("http")
    async def limit(request: Request, call_next: Next) -> Response:
        key = f"naive:{request.client.host if request.client else ''}"
        now = time.time()
        async with redis.pipeline() as pipe:
            pipe.zremrangebyscore(key, 0, now - 60)
            pipe.zadd(key, {uuid.uuid4().hex: now})
            pipe.zcard(key)
            pipe.expire(key, 60)
            await pipe.execute()
        return await call_next(request)

    @app.middleware("http")
    async def authenticate(request: Request, call_next: Next) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            request.state.claims = jwt.decode(token, keys, algorithms=["EdDSA"]).claims
        except ValueError:
            return JSONResponse({"detail": "no"}, 401)
        return await call_next(request)

    @app.middleware("http")
    async def headers(request: Request, call_next: Next) -> Response:
        response = await call_next(request)
        response.headers["x-request-id"] = uuid.uuid4().hex
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["x-frame-options"] = "DENY"
        response.headers["content-security-policy"] = "default-src 'none'"
        return response

    @app.get("/v1/models")
    async def me(request: Request) -> Me:
        claims = request.state.claims
        answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=10)
        return Me(
            id=claims["sub"], tenant_id=claims["tid"], roles=claims["roles"], permissions=claims["perms"], status=answer.status
        )

    return app


def main() -> None:
    """Serve on NAIVE_PORT."""
    import asyncio  # noqa: PLC0415
    import json  # noqa: PLC0415

    keys = KeySet.import_key_set(json.loads(os.environ["NAIVE_JWKS"]))

    async def serve() -> None:
        redis = Redis.from_url(os.environ["NAIVE_REDIS"], max_connections=256)
        app = application(keys, redis, grpc.aio.insecure_channel(os.environ["NAIVE_TARGET"]))
        config = uvicorn.Config(
            app, port=int(os.environ["NAIVE_PORT"]), loop="none", http="httptools", access_log=False, log_level="error"
        )
        await uvicorn.Server(config).serve()

    import uvloop  # noqa: PLC0415

    uvloop.run(serve())
    asyncio.set_event_loop(None)


if __name__ == "__main__":
    main()
