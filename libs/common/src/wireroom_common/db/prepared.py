"""Transactions of a few prepared statements, at little more than the price of their network traffic.

For the statements of a service's hottest path only: they cost a tenth of the CPU time of the same statements through SQLAlchemy. Written
on libpq's pipeline mode, where what is sent between two Syncs is one implicit transaction: it commits when the Sync is processed, and
whoever hangs up before has changed nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from wireroom_common.errors import WireroomError, invalid

# How long an answer may take after the server has given up the statement by itself.
_PATIENCE = 5.0
_RECYCLE_SECONDS = 1800.0


def nul_in_text() -> WireroomError:
    """The error of a text that PostgreSQL cannot hold."""
    return invalid(
        "text_contains_nul", "A text contains the character NUL (U+0000), which cannot be stored or searched for: remove it."
    )


class Statement:
    """SQL with the parameters $1, $2, …, all of them texts; of each row the first column is read."""

    def __init__(self, sql: str) -> None:
        self.sql = sql.encode()
        self.name = b"w" + hashlib.blake2b(self.sql, digest_size=12).hexdigest().encode()


class NoConnectionError(Exception):
    """No connection got free in time."""


class PreparedTransaction:
    """One transaction. Nothing of it is done if its block ends with an exception."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def add(self, statement: Statement, *values: str) -> None:
        """Send it along with what comes next, at the latest with the commit."""
        self._connection.send(statement, values)

    async def run(self, statement: Statement, *values: str) -> list[bytes]:
        """Send it and what was added before; the first column of its rows as text, none of them NULL."""
        self._connection.send(statement, values)
        return await self._connection.answers()


class PreparedConnections:
    """At most `size` connections of one role, made when first used."""

    def __init__(self, conninfo: str, options: Mapping[str, Any], *, size: int, wait: float, statement_timeout: float) -> None:
        self._conninfo = conninfo
        self._options = options
        self._places = asyncio.Semaphore(size)
        self._wait = wait
        self._limit = statement_timeout + _PATIENCE
        self._idle: list[_Connection] = []
        self.open = 0
        # Connections that were opened before this are closed when they are given back.
        self._closings = 0

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PreparedTransaction]:
        """Commits at the end, in the round trip of what was added last. Errors are psycopg's, or NoConnectionError."""
        try:
            async with asyncio.timeout(self._wait):
                await self._places.acquire()
        except TimeoutError:
            raise NoConnectionError("no connection got free in time") from None
        try:
            closings = self._closings
            connection = self._rested() or await self._opened()
            try:
                yield PreparedTransaction(connection)
                await connection.commit()
            except BaseException:
                # What it may still be doing ends with it; a connection that works is made faster than this one is understood.
                self._finish(connection)
                raise
            if closings == self._closings:
                self._idle.append(connection)
            else:
                self._finish(connection)
        finally:
            self._places.release()

    def close(self) -> None:
        """Close the connections: those in use when their transactions end."""
        self._closings += 1
        while self._idle:
            self._finish(self._idle.pop())

    def _rested(self) -> _Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost and time.monotonic() - connection.born < _RECYCLE_SECONDS:
                return connection
            self._finish(connection)
        return None

    async def _opened(self) -> _Connection:
        opened = await psycopg.AsyncConnection.connect(
            self._conninfo, autocommit=True, client_encoding="UTF8", **dict(self._options)
        )
        self.open += 1
        return _Connection(opened, self._limit)

    def _finish(self, connection: _Connection) -> None:
        self.open -= 1
        connection.close()


class _Connection:
    """A connection in pipeline mode. Its socket is watched as long as it lives, so that an end is known before the next use."""

    def __init__(self, opened: psycopg.AsyncConnection[Any], limit: float) -> None:
        self.born = time.monotonic()
        self.lost: psycopg.Error | None = None
        self._opened = opened
        self._pg = opened.pgconn
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._socket = self._pg.socket
        self._prepared: set[bytes] = set()
        self._waiting: asyncio.Future[None] | None = None
        self._unanswered = 0
        self._pg.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._read)

    def send(self, statement: Statement, values: tuple[str, ...]) -> None:
        # libpq takes texts as strings of C: all behind the NUL would be missing.
        if any("\x00" in value for value in values):
            raise nul_in_text()
        if statement.name not in self._prepared:
            self._pg.send_prepare(statement.name, statement.sql)
            self._unanswered += 1
            # Should that fail, the connection is not used again.
            self._prepared.add(statement.name)
        self._pg.send_query_prepared(statement.name, [value.encode() for value in values])
        self._unanswered += 1

    async def answers(self) -> list[bytes]:
        """Of all that was sent; the rows of the last."""
        self._pg.send_flush_request()
        return await self._collected()

    async def commit(self) -> None:
        self._pg.pipeline_sync()
        self._unanswered += 1
        await self._collected()

    def close(self) -> None:
        if self.lost is None:
            self._unwatch()
        self._pg.finish()

    async def _collected(self) -> list[bytes]:
        result: pq.abc.PGresult | None = None
        try:
            async with asyncio.timeout(self._limit):
                while self._pg.flush():
                    await self._writable()
                while self._unanswered:
                    result = await self._next()
                    self._unanswered -= 1
        except TimeoutError:
            raise psycopg.OperationalError("the server did not answer in time") from None
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            return []
        return [result.get_value(number, 0) or b"" for number in range(result.ntuples)]

    async def _next(self) -> pq.abc.PGresult:
        ends = 0
        while True:
            while self._pg.is_busy():
                await self._readable()
            result = self._pg.get_result()
            if result is not None:
                if result.status in (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.PIPELINE_ABORTED):
                    raise error_from_result(result)
                return result
            # The end of the command before. Two of them mean that nothing is under way although an answer is missing.
            ends += 1
            if ends > 1:
                raise self.lost or psycopg.OperationalError("the server sent fewer results than it was asked for")

    async def _readable(self) -> None:
        if self.lost is not None:
            raise self.lost
        self._waiting = self._loop.create_future()
        await self._waiting

    async def _writable(self) -> None:
        # The server may have to be read before it reads on: `_read` wakes this, too.
        waiting = self._waiting = self._loop.create_future()
        self._loop.add_writer(self._socket, _wake, waiting)
        try:
            await waiting
        finally:
            if self.lost is None:
                self._loop.remove_writer(self._socket)
        if self.lost is not None:
            raise self.lost

    def _read(self) -> None:
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            self.lost = error
            # Now and never again: libpq has closed the socket, and soon its number is another connection's.
            self._unwatch()
        if self._waiting is not None:
            _wake(self._waiting)

    def _unwatch(self) -> None:
        for remove in (self._loop.remove_writer, self._loop.remove_reader):
            # Of a closed socket the one cannot be forgotten without the other.
            with contextlib.suppress(OSError):
                remove(self._socket)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
