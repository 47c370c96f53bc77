"""Serves the sample feed and documents on the loopback interface."""

from __future__ import annotations

import asyncio
import html
from datetime import UTC, datetime

from aiohttp import web

from wireroom.demo import DOCUMENTS
from wireroom.demo.content import ITEMS, rss
from wireroom_common.errors import OperatorError


def application(base_url: str) -> web.Application:
    """`/feed.xml`, `/articles/<slug>` and `/documents/<name>`."""
    started = datetime.now(UTC)

    async def feed(_request: web.Request) -> web.Response:
        return web.Response(text=rss(base_url, started), content_type="application/rss+xml", charset="utf-8")

    async def article(request: web.Request) -> web.Response:
        for item in ITEMS:
            if item.slug == request.match_info["slug"]:
                title, text = html.escape(item.title), html.escape(item.text)
                body = f"<!doctype html><title>{title}</title><h1>{title}</h1><p>{text}"
                return web.Response(text=body, content_type="text/html", charset="utf-8")
        raise web.HTTPNotFound

    app = web.Application()
    app.router.add_get("/feed.xml", feed)
    app.router.add_get("/articles/{slug}", article)
    app.router.add_static("/documents/", DOCUMENTS)
    return app


async def serve(address: str) -> None:
    """Serve until interrupted."""
    host, _, port = address.rpartition(":")
    base_url = f"http://{address}"
    runner = web.AppRunner(application(base_url), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, int(port)).start()
    except OSError as error:
        await runner.cleanup()
        raise OperatorError(f"Cannot listen on {address}: {error.strerror}. Is another demo running?") from error
    print(f"Sample feed:      {base_url}/feed.xml")
    for document in sorted(DOCUMENTS.iterdir()):
        print(f"Sample document:  {document}")
    print("Stop with Ctrl-C.", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
