"""In front of the S3 server of the tests: the two things that S3 does and it does not, as LanceDB needs both."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiohttp import ClientSession, web
from rag_servers import ObjectServer

_OWN = {"transfer-encoding", "content-encoding", "content-length", "connection"}


class ObjectFront:
    """Says of a part of a file that it is one (206), and refuses to replace a file where `If-None-Match: *` forbids it."""

    def __init__(self, server: ObjectServer) -> None:
        self._server = server
        self._session: ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self._writing = asyncio.Lock()
        self.refused = 0
        self.endpoint = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._forward)
        self._session = ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.endpoint = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._runner is not None and self._session is not None:
            await self._runner.cleanup()
            await self._session.close()

    async def _forward(self, request: web.Request) -> web.Response:
        if request.method == "PUT" and request.headers.get("If-None-Match") == "*":
            async with self._writing:
                if (self._server.folder / request.match_info["path"]).exists():
                    self.refused += 1
                    return web.Response(status=412, text="<Error><Code>PreconditionFailed</Code></Error>")
                return await self._passed(request)
        return await self._passed(request)

    async def _passed(self, request: web.Request) -> web.Response:
        assert self._session is not None
        # With the name that the client signed.
        async with self._session.request(
            request.method, self._server.endpoint + request.raw_path, headers=request.headers, data=await request.read()
        ) as answer:
            headers = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN}
            body = await answer.read()
            status = answer.status
            if request.method == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            elif status == 200 and "Range" in request.headers:
                size = (self._server.folder / request.match_info["path"]).stat().st_size
                start, stop, _ = slice(request.http_range.start, request.http_range.stop).indices(size)
                status, headers["Content-Range"] = 206, f"bytes {start}-{stop - 1}/{size}"
                assert len(body) == stop - start
            return web.Response(status=status, headers=headers, body=body)
