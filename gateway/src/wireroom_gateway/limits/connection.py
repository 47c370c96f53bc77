"""One connection to Redis or Valkey that all callers share: what is sent in one turn of the event loop leaves in one write.

A client library spends more on a command (pool, lock, stream, retry) than the limit costs otherwise. Connecting, with TLS, password,
database and whatever else the URL says, is left to the library; from then on there are only commands and answers in their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

# Commands that wait to be sent or answered. Far more than requests can be under way; the bound is for the case that they are.
MAX_WAITING = 20_000
_NOTHING = object()


def packed(*parts: str | bytes | int) -> bytes:
    """A command as it goes over the wire."""
    out = [b"*%d\r\n" % len(parts)]
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        out.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(out)


class PipelinedConnection:
    """Connects with the first command, and again with the next one after the connection was lost. Bound to one event loop.

    A command waits `timeout` seconds at most, for the connection and its answer together; if the oldest one has waited so long, the
    server is not worth waiting for: the connection is cut, and all that were sent fail. What was sent is never sent a second time.
    """

    def __init__(self, pool: ConnectionPool, *, timeout: float, max_waiting: int = MAX_WAITING) -> None:
        self._pool = pool
        self._timeout = timeout
        self._max_waiting = max_waiting
        self._loop: asyncio.AbstractEventLoop | None = None
        # When it was given to us, the command, who waits.
        self._unsent: list[tuple[float, bytes, asyncio.Future[Any]]] = []
        self._link: _Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flushing = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._closed = False

    def send(self, command: bytes) -> asyncio.Future[Any]:
        """The answer to come: a value, a `hiredis.ReplyError` as a value, or an exception of the client library.

        A command whose future was cancelled before it was sent is not sent.
        """
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        unsent = self._unsent
        link = self._link
        if self._closed or len(unsent) + (len(link.unanswered) if link is not None else 0) >= self._max_waiting:
            raise RedisConnectionError("closed" if self._closed else "too many commands wait for an answer")
        future = loop.create_future()
        unsent.append((loop.time(), command, future))
        if not self._flushing:
            self._flushing = True
            loop.call_soon(self._flush)
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._timeout, self._watch)
        return future

    def close(self) -> None:
        """Cut the connection. Who still waits, or comes later, gets a ConnectionError."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        error = RedisConnectionError("closed")
        self._fail_unsent(error)
        self._cut(error)

    def _flush(self) -> None:
        self._flushing = False
        link = self._link
        if link is None:
            if self._unsent and self._connecting is None and self._loop is not None and not self._closed:
                self._connecting = self._loop.create_task(self._connect())
            return
        unsent, self._unsent = self._unsent, []
        commands = []
        for given_at, command, future in unsent:
            # Who has gone away is not charged.
            if not future.done():
                commands.append(command)
                link.unanswered.append((given_at, future))
        if commands:
            link.write(b"".join(commands))

    async def _connect(self) -> None:
        connection: Any = self._pool.make_connection()  # type: ignore[no-untyped-call]  # the library's signature
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()
            # The library has no public way to hand a connection over.
            writer = connection._writer  # noqa: SLF001 - see above
            connection._reader = connection._writer = None  # noqa: SLF001 - see above
            if writer is None or writer.transport.is_closing():
                raise RedisConnectionError("lost at once")  # noqa: TRY301 - as if it had not come about
        except TimeoutError:
            self._fail_unsent(RedisTimeoutError("no connection in time"))
        except Exception as error:  # noqa: BLE001 - each caller gets it; of a task that failed there would only be a log line
            self._fail_unsent(error)
        else:
            self._link = _Link(self, writer)
            writer.transport.set_protocol(self._link)
        finally:
            self._connecting = None
        self._flush()

    def lost(self, link: _Link, error: BaseException | None) -> None:
        """For the link: there is no connection any more."""
        if self._link is link:
            self._link = None
            link.fail(RedisConnectionError(f"connection lost: {type(error).__name__}" if error else "closed by the server"))
            self._flush()

    def garbled(self, link: _Link) -> None:
        """For the link: what the server says makes no sense."""
        if self._link is link:
            self._cut(RedisConnectionError("not the protocol of Redis"))
            self._flush()

    def _watch(self) -> None:
        self._watchdog = None
        loop, link = self._loop, self._link
        if loop is None:
            return
        # By the clock's step too early is in time.
        due = loop.time() - self._timeout + 0.002
        if link is not None and link.unanswered and link.unanswered[0][0] <= due:
            self._cut(RedisTimeoutError("no answer in time"))
        late = [entry for entry in self._unsent if entry[0] <= due]
        if late:
            del self._unsent[: len(late)]
            _fail(late, RedisTimeoutError("no connection in time"))
        waiting = [*(entry[0] for entry in (link.unanswered if link is not None else ())), *(entry[0] for entry in self._unsent)]
        if waiting:
            self._watchdog = loop.call_later(max(0.0, min(waiting) + self._timeout - loop.time()), self._watch)
        self._flush()

    def _cut(self, error: Exception) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.abort()
            link.fail(error)

    def _fail_unsent(self, error: Exception) -> None:
        unsent, self._unsent = self._unsent, []
        _fail(unsent, error)


class _Link(asyncio.Protocol):
    """An established connection, and who waits for its answers."""

    def __init__(self, owner: PipelinedConnection, writer: asyncio.StreamWriter) -> None:
        self.unanswered: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._owner = owner
        # It closes the transport when it disappears.
        self._writer = writer
        self._transport = writer.transport
        self.write = self._transport.write
        self._parser = hiredis.Reader(notEnoughData=_NOTHING)

    def data_received(self, data: bytes) -> None:
        parser, unanswered = self._parser, self.unanswered
        try:
            parser.feed(data)
            while (answer := parser.gets()) is not _NOTHING:
                if isinstance(answer, hiredis.PushNotification):
                    continue
                _, future = unanswered.popleft()
                if not future.done():
                    future.set_result(answer)
        except (hiredis.ProtocolError, IndexError):
            self._owner.garbled(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.lost(self, exc)

    def abort(self) -> None:
        self._transport.abort()

    def fail(self, error: Exception) -> None:
        """Tell all who wait."""
        waiting = list(self.unanswered)
        self.unanswered.clear()
        _fail(waiting, error)


def _fail(waiting: list[Any], error: Exception) -> None:
    for *_, future in waiting:
        if not future.done():
            future.set_exception(error)
