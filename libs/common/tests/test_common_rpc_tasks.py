"""Streams of many calls leave no task behind and no exception unseen, however they end."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from rpc_contract_rig import MIB, USER, Kind, opened

from wireroom_common.rpc.multiplex.channel import MultiplexChannel
from wireroom_common.testing import eventually

CONNECT = "/wireroom_protos.common.v1.MultiplexService/Connect"


class Complaints:
    """What the event loop reports: destroyed tasks and exceptions nobody asked for."""

    def __init__(self) -> None:
        self.found: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self.found.append(str(context)))


def _tasks() -> set[asyncio.Task[Any]]:
    own = "wireroom_common/rpc"
    return {task for task in asyncio.all_tasks() if own in str(getattr(task.get_coro(), "cr_code", ""))}


@pytest.mark.parametrize("end", ["close", "server", "retire"])
async def test_no_task_outlives_its_link(end: str, tmp_path: Path) -> None:
    complaints = Complaints()
    async with opened(Kind.MULTIPLEXED, tmp_path) as rig:

        async def wait(_request: Any, _context: Any) -> Any:
            await asyncio.Event().wait()

        rig.servicers.get_me = wait
        channel = MultiplexChannel(rig.target.removeprefix("grpc:"))
        await channel.channel_ready()
        pool: Any = channel._pool  # noqa: SLF001 - its links show nowhere else
        link = pool.pick()
        signed = rig.roles.signer("gateway").sign
        stub: Any = channel.unary_unary("/wireroom_protos.auth.v1.AuthService/GetMe", None, None)
        metadata = (("x-principal-bin", signed(USER)),)
        calls = [stub(b"", metadata=metadata, timeout=20) for _ in range(3)]
        # One that goes by ordinary gRPC, and one that is large.
        calls.append(stub(b"x" * MIB, metadata=metadata, timeout=20))
        await asyncio.sleep(0)
        if end == "server":
            await rig.stop(0)
            await eventually(link.leaving.is_set)
        elif end == "retire":
            for call in calls:
                call.cancel()
            link.retire()
            await eventually(lambda: link not in pool._links.values())  # noqa: SLF001 - as above
        await channel.close()
        assert (len(pool._links), len(pool._tasks)) == (0, 0)  # noqa: SLF001 - as above
        for call in calls:
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await call
        calls.clear()
    await eventually(lambda: not _tasks(), what="every task of the rpc package has ended")
    gc.collect()
    await asyncio.sleep(0)
    assert complaints.found == []


async def test_peer_that_sends_nonsense_is_a_lost_connection(tmp_path: Path) -> None:
    complaints = Complaints()

    async def connect(_requests: Any, context: Any) -> None:
        await context.write(b"\x0a\x02\x12\x00")  # hello
        await context.read()
        await context.write(b"\x0a\xff")
        await asyncio.Event().wait()

    server = grpc.aio.server()
    handler = grpc.stream_stream_rpc_method_handler(connect)
    service, name = CONNECT.removeprefix("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: handler}),))
    server.add_insecure_port(f"unix:{tmp_path}/odd.sock")
    await server.start()
    async with MultiplexChannel(f"unix:{tmp_path}/odd.sock") as channel:
        await channel.channel_ready()
        ask: Any = channel.unary_unary("/test.Echo/Talk")
        with pytest.raises(grpc.aio.AioRpcError) as lost:
            await ask(b"", timeout=20)
        assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop(0)
    await eventually(lambda: not _tasks())
    gc.collect()
    await asyncio.sleep(0)
    assert complaints.found == []
