"""Slow clients, many clients, and the end of the process, each on real sockets with short deadlines."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

from http_listener_rig import Connection, Listener, listening

from wireroom_common.runtime.http_limits import HttpLimits
from wireroom_common.testing import eventually

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
SHORT = HttpLimits(head_seconds=0.4, body_grace_seconds=0.4, read_grace_seconds=0.6, idle_seconds=1, minimum_rate=1_000)
# Not what is under test.
PATIENT = HttpLimits(head_seconds=60, body_grace_seconds=60, read_grace_seconds=60, minimum_rate=1)


def count_requests(listener: Listener) -> int:
    return len(listener.app.served)


async def test_a_head_that_does_not_end_in_time_is_refused(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        await connection.send(GET[:-2])
        answer = await connection.answer()
        assert (answer.status, answer.json()["code"]) == (408, "request_timeout")
        assert await connection.ended()


async def test_bytes_that_keep_coming_do_not_prolong_the_head(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        for drop in (b"x", b"\r\n"):
            connection = await listener.connect()
            drip = asyncio.create_task(_drip(connection, b"GET / HTTP/1.1\r\nX: " if drop == b"x" else b"", drop))
            assert await connection.reader.read(12) == (b"HTTP/1.1 408" if drop == b"x" else b"")
            drip.cancel()
            connection.close()
        assert listener.app.served == []


async def _drip(connection: Connection, start: bytes, drop: bytes) -> None:
    await connection.send(start)
    try:
        while True:
            await connection.send(drop)
            await asyncio.sleep(0.02)
    except ConnectionError:
        return


async def test_a_silent_connection_is_closed_without_a_word(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        assert await connection.ended()
        assert listener.cut("silent") == 1
        await eventually(lambda: listener.open == 0)


async def test_line_ends_between_requests_do_not_keep_a_connection(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        await connection.send(GET)
        assert (await connection.answer()).status == 200
        await connection.send(b"\r\n")
        assert await connection.ended()


async def test_a_connection_that_asks_for_nothing_more_is_closed(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        await connection.send(GET)
        assert (await connection.answer()).status == 200
        assert await connection.ended()


async def test_a_body_that_stands_still_is_refused_and_the_application_is_told(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        for head in (b"Content-Length: 100", b"Transfer-Encoding: chunked"):
            connection = await listener.connect()
            await connection.send(b"POST / HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n\r\n5\r\nabcde")
            answer = await connection.answer()
            assert (answer.status, answer.json()["code"]) == (408, "body_timeout")
            assert await connection.ended()
        assert listener.app.gone == 2


async def test_a_fast_start_does_not_buy_a_body_more_time(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        await connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n" + bytes(8_000_000))
        assert (await connection.answer()).json()["code"] == "body_timeout"


async def test_a_steady_body_above_the_rate_takes_longer_than_the_grace(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        await connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n")
        for _ in range(20):
            await connection.send(bytes(1_000))
            await asyncio.sleep(0.05)
        answer = await connection.answer()
        assert answer.status == 200
        assert len(answer.json()["body"]) == 20_000


async def test_who_waits_for_100_continue_is_not_slow(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        await connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n")
        assert (await connection.answer()).status == 100
        await connection.send(b"a")
        assert (await connection.answer()).json()["body"] == "a"


async def test_a_long_answer_has_no_deadline(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        connection = await listener.connect()
        await connection.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        # Another connection ends by its deadline meanwhile, so all of them have passed.
        for _ in range(3):
            assert await (await listener.connect()).ended()
        listener.app.go.set()
        assert (await connection.answer()).status == 200


async def test_a_reader_that_stands_still_is_cut_off(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        reader = _narrow(listener, b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n")
        await eventually(lambda: listener.cut("slow_reader") == 1)
        await eventually(lambda: listener.open == 0)
        reader.close()


async def test_a_reader_that_takes_its_time_gets_everything(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=SHORT) as listener:
        reader = _narrow(listener, b"GET /big HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        reader.setblocking(False)
        loop, received = asyncio.get_running_loop(), 0
        # Longer than the grace, and at a pace at which the system's own buffer never asks for more.
        end = loop.time() + 3 * SHORT.read_grace_seconds
        while loop.time() < end:
            received += len(await loop.sock_recv(reader, 1_000))
            await asyncio.sleep(0.02)
        assert listener.cut("slow_reader") == 0
        while part := await loop.sock_recv(reader, 1_000_000):
            received += len(part)
        assert received > 20_000_000
        reader.close()


def _narrow(listener: Listener, data: bytes) -> socket.socket:
    host, _, port = listener.urls[0].removeprefix("http://").partition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    connection.connect((host, int(port)))
    connection.sendall(data)
    return connection


async def test_200_slow_sockets_do_not_matter(tmp_path: Path) -> None:
    limits = HttpLimits(head_seconds=1.0, body_grace_seconds=1.0, read_grace_seconds=1.5, minimum_rate=1_000)
    async with listening(tmp_path, limits=limits) as listener:
        slow: list[Connection | socket.socket] = []
        for number in range(200):
            if number % 3 == 2:
                slow.append(_narrow(listener, b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n"))
                continue
            connection = await listener.connect()
            start = b"GET / HTTP/1.1\r\nX: " if number % 3 else b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n1"
            await connection.send(start)
            slow.append(connection)
        good = await listener.connect()
        answered = 0
        # The good client works all the while, on one connection, until the last slow one is gone.
        async with asyncio.timeout(30):
            while listener.open > 1:
                await good.send(b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (await good.answer()).status == 200
                answered += 1
                await asyncio.sleep(0.01)
        assert answered > 10
        assert listener.cut("slow_reader") == 66
        assert listener.cut("request_timeout") == 67
        assert listener.cut("body_timeout") == 67
        for connection in slow:
            connection.close()


async def test_connections_above_the_cap_are_told_so(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=HttpLimits(connections=3)) as listener:
        kept = [await listener.connect() for _ in range(3)]
        for connection in kept:
            await connection.send(GET)
            assert (await connection.answer()).status == 200
        fourth = await listener.connect()
        answer = await fourth.answer()
        assert (answer.status, answer.json()["code"]) == (503, "too_many_connections")
        assert await fourth.ended()
        fourth.close()
        kept.pop().close()
        await eventually(lambda: listener.open == 2)
        assert (await listener.ask(GET))[0].status == 200
        for connection in kept:
            connection.close()


async def test_one_address_has_its_own_cap_unless_it_is_a_trusted_proxy(tmp_path: Path) -> None:
    for trusted, status in (((), 503), (("127.0.0.0/8",), 200)):
        limits = HttpLimits(connections_per_client=2)
        async with listening(tmp_path, limits=limits, trusted_proxies=trusted) as listener:
            kept = [await listener.connect() for _ in range(3)]
            await eventually(lambda listener=listener: listener.open == 3)
            await kept[2].send(GET)
            assert (await kept[2].answer()).status == status
            for connection in kept:
                connection.close()
            await eventually(lambda listener=listener: listener.open == 0)


async def test_refused_connections_do_not_pile_up(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=HttpLimits(connections=1)) as listener:
        first = await listener.connect()
        await first.send(GET)
        assert (await first.answer()).status == 200
        many = [await listener.connect() for _ in range(300)]
        await eventually(lambda: listener.cut("too_many_connections") == 300)
        assert listener.open < 150
        for connection in many:
            connection.close()
        await eventually(lambda: listener.open == 1)
        await first.send(GET)
        assert (await first.answer()).status == 200


async def test_while_draining_each_answer_ends_its_connection_and_new_ones_are_served(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=PATIENT) as listener:
        kept = await listener.connect()
        await kept.send(GET)
        assert "connection" not in (await kept.answer()).headers
        listener.servers.drain()
        fresh = await listener.connect()
        for connection in (kept, fresh):
            await connection.send(GET)
            answer = await connection.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "close")
            assert await connection.ended()


async def test_at_the_stop_running_requests_are_finished_and_idle_connections_closed(tmp_path: Path) -> None:
    async with listening(tmp_path, limits=PATIENT) as listener:
        idle, busy, asking = [await listener.connect() for _ in range(3)]
        await idle.send(GET)
        assert (await idle.answer()).status == 200
        await busy.send(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        await asking.send(GET[:20])
        await eventually(lambda: "/wait" in listener.app.served and listener.open == 3)
        stopping = asyncio.create_task(listener.servers.stop())
        assert await idle.ended()
        await asking.send(GET[20:])
        assert (await asking.answer()).status == 200
        assert not stopping.done()
        listener.app.go.set()
        assert (await busy.answer()).status == 200
        assert await busy.ended()
        await stopping
        assert listener.open == 0
