"""The limiter's own connection: batching, order, and what happens when the server stalls, goes away or never was there."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import hiredis
import pytest
from gateway_rig import NO_REDIS, new_redis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from wireroom_common.testing import eventually
from wireroom_gateway.limits.connection import PipelinedConnection, packed
from wireroom_gateway.limits.policy import Limit
from wireroom_gateway.limits.redis import RedisCounterStore
from wireroom_gateway.limits.store import Counter

GET = packed("GET", "a")


@asynccontextmanager
async def connected(url: str, *, timeout: float = 2.0, max_waiting: int = 1_000) -> AsyncIterator[PipelinedConnection]:  # noqa: ASYNC109 - of each command
    client = new_redis(url)
    connection = PipelinedConnection(client.connection_pool, timeout=timeout, max_waiting=max_waiting)
    try:
        yield connection
    finally:
        connection.close()
        await client.aclose()


class Server:
    """A Valkey of the test's own, with a password, on a Unix socket: it can be stopped, frozen and started again."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._socket = folder / "own.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://:geheim@{self._socket}?db=3"

    async def start(self) -> None:
        arguments = [
            "--port",
            "0",
            "--unixsocket",
            str(self._socket),
            "--requirepass",
            "geheim",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self._process = await asyncio.to_thread(subprocess.Popen, [self._program, *arguments], stdout=subprocess.DEVNULL)
        client = Redis.from_url(self.url)

        async def answers() -> bool:
            try:
                return bool(await client.ping())
            except (OSError, RedisConnectionError):
                return False

        await eventually(answers, within=10)
        await client.aclose()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None
            self._socket.unlink(missing_ok=True)


@pytest.fixture
async def server(valkey_url: str, tmp_path: Path) -> AsyncIterator[Server]:
    client = new_redis(valkey_url)
    executable = Path(f"/proc/{(await client.info('server'))['process_id']}/exe")
    program = str(await asyncio.to_thread(executable.readlink))
    await client.aclose()
    own = Server(program, tmp_path)
    await own.start()
    yield own
    own.stop()


async def test_answers_come_in_the_order_of_the_commands(clean_valkey_url: str) -> None:
    async with connected(clean_valkey_url) as connection:
        numbers = await asyncio.gather(*(connection.send(packed("INCR", "n")) for _ in range(500)))
        assert numbers == list(range(1, 501))
        assert await connection.send(packed("SET", b"a", "\N{SNOWMAN}")) == b"OK"
        assert await connection.send(GET) == "\N{SNOWMAN}".encode()
        assert isinstance(await connection.send(packed("NONSENSE")), hiredis.ReplyError)
        assert await connection.send(packed("GET", "nothing")) is None


async def test_one_connection_serves_all(clean_valkey_url: str) -> None:
    client = new_redis(clean_valkey_url)
    async with connected(clean_valkey_url) as connection:
        before = (await client.info("stats"))["total_connections_received"]
        for _ in range(20):
            await asyncio.gather(*(connection.send(GET) for _ in range(20)))
        assert (await client.info("stats"))["total_connections_received"] == before + 1
    await client.aclose()


async def test_password_database_and_socket_are_those_of_the_url(server: Server) -> None:
    async with connected(server.url) as connection:
        await connection.send(packed("SET", "a", 1))
    client = Redis.from_url(server.url)
    assert await client.dbsize() == 1
    await client.aclose()
    async with connected(server.url.replace("geheim", "falsch")) as connection:
        with pytest.raises(RedisConnectionError, match="password"):
            await connection.send(GET)


async def test_commands_of_those_who_went_away_are_not_sent(clean_valkey_url: str) -> None:
    async with connected(clean_valkey_url) as connection:
        calls = [connection.send(packed("INCR", "n")) for _ in range(10)]
        for call in calls[::2]:
            call.cancel()
        assert await calls[-1] == 5


async def test_a_new_server_is_found_again(server: Server) -> None:
    client = new_redis(server.url)
    store = RedisCounterStore(client, timeout=2.0)
    rows = [Counter("a", Limit(5))]
    assert (await store.take(rows)).states[0].remaining == 4
    server.stop()

    async def refused() -> bool:
        try:
            await store.take(rows)
        except (RedisConnectionError, OSError):
            return True
        return False

    await eventually(refused, within=5)
    await server.start()
    # It does not know the script, and counts from the beginning.
    assert (await store.take(rows)).states[0].remaining == 4
    assert (await store.take(rows)).states[0].remaining == 3
    await store.close()
    await client.aclose()


async def test_who_waits_when_the_server_dies_is_told(server: Server) -> None:
    async with connected(server.url, timeout=10) as connection:
        await connection.send(GET)
        waiting = [connection.send(packed("BLPOP", "nothing", 0)) for _ in range(3)]
        await asyncio.sleep(0)
        server.stop()
        answers = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert all(isinstance(answer, RedisConnectionError) for answer in answers)


async def test_a_stalled_server_costs_its_time_limit_and_is_used_again_when_it_goes_on(server: Server) -> None:
    async with connected(server.url, timeout=0.3) as connection:
        await connection.send(packed("SET", "a", "1"))
        server.signal(signal.SIGSTOP)
        answers = await asyncio.wait_for(asyncio.gather(*(connection.send(GET) for _ in range(5)), return_exceptions=True), 5)
        assert all(isinstance(answer, RedisTimeoutError) for answer in answers)
        # The next ones wait for a connection, and no longer than that.
        with pytest.raises(RedisTimeoutError):
            await asyncio.wait_for(connection.send(GET), 5)
        server.signal(signal.SIGCONT)

        async def answered() -> bool:
            try:
                return bool(await connection.send(GET) == b"1")
            except RedisTimeoutError:
                return False

        await eventually(answered, within=5)


async def test_no_more_wait_than_are_allowed(server: Server) -> None:
    async with connected(server.url, max_waiting=3) as connection:
        waiting = [connection.send(GET) for _ in range(3)]
        with pytest.raises(RedisConnectionError, match="too many"):
            connection.send(GET)
        await asyncio.gather(*waiting)
        assert await connection.send(GET) is None


async def test_without_a_server_each_call_fails_at_once() -> None:
    async with connected(NO_REDIS) as connection:
        for _ in range(2):
            with pytest.raises((RedisConnectionError, OSError)):
                await asyncio.wait_for(connection.send(GET), 5)


async def test_what_is_no_redis_is_left() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = [b"+OK\r\n"] * 10
        while await reader.read(4096):
            writer.write(answers.pop(0) if len(answers) > 8 else b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    listener = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with connected(f"redis://127.0.0.1:{port}/0?protocol=2", timeout=1.0) as connection:
        with pytest.raises((RedisConnectionError, RedisTimeoutError)):
            await asyncio.wait_for(connection.send(GET), 5)
    listener.close()
    await listener.wait_closed()


async def test_a_closed_one_takes_no_more(clean_valkey_url: str) -> None:
    async with connected(clean_valkey_url) as connection:
        waiting = connection.send(GET)
        connection.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            await waiting
        with pytest.raises(RedisConnectionError, match="closed"):
            connection.send(GET)
