"""Files on their way out, piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import quote

import grpc.aio
from fastapi import Response
from starlette.responses import StreamingResponse

from wireroom_gateway.routes.answering import pieces_of
from wireroom_gateway.routes.application import problem_responses
from wireroom_protos.rag.v1 import rag_pb2

CONTENT: dict[int | str, dict[str, Any]] = {
    **problem_responses(404, 409),
    200: {
        "description": "The file",
        "content": {"application/octet-stream": {}},
        "headers": {"content-disposition": {"schema": {"type": "string"}}},
    },
}


async def download(call: grpc.aio.UnaryStreamCall[rag_pb2.GetContentRequest, rag_pb2.GetContentResponse]) -> Response:
    """The file, as an attachment; what is wrong with it is raised before the answer begins."""
    pieces = pieces_of(call)
    try:
        # With the first bytes it is known that the file is there.
        document = (await anext(pieces)).document
        first = await _next(pieces)
    except BaseException:
        await pieces.aclose()
        raise

    async def body() -> AsyncGenerator[bytes, None]:
        try:
            yield first
            async for piece in pieces:
                yield piece.data
        finally:
            await pieces.aclose()

    # Never as a type that a browser would open: whoever uploads decides what is in it.
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(document.name, safe='')}",
        "cache-control": "no-store",
        "content-length": str(document.size),
    }
    return StreamingResponse(body(), media_type="application/octet-stream", headers=headers)


async def _next(pieces: AsyncGenerator[rag_pb2.GetContentResponse, None]) -> bytes:
    async for piece in pieces:
        return piece.data
    return b""
