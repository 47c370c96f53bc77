"""Replicas of the streams of the chat service over one real buffer, and generations whose course a test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import orjson
from redis.asyncio import BlockingConnectionPool, Redis

from wireroom_chat.adapters.stream_buffer import RedisStreamBuffer
from wireroom_chat.domain.answer import AnswerMode
from wireroom_chat.domain.frames import End, Frame, Info
from wireroom_chat.ports.generations import Generation, Origin
from wireroom_chat.ports.streams import StreamBuffer, StreamBufferError
from wireroom_chat.usecases.stream_opening import Opening, StreamPolicy
from wireroom_chat.usecases.streams import Streams
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.principal import Principal, PrincipalKind

TENANT = UUID("0198a000-0000-7000-8000-000000000001")
OTHER_TENANT = UUID("0198a000-0000-7000-8000-000000000002")
USER = UUID("0198a000-0000-7000-8000-0000000000aa")
OTHER_USER = UUID("0198a000-0000-7000-8000-0000000000bb")
MASTER = b"the master secret of a test, long enough"


def caller(user: UUID = USER, tenant: UUID = TENANT, *permissions: str) -> Principal:
    return Principal(PrincipalKind.USER, str(user), tenant, frozenset({"Analyst"}), frozenset(permissions or ("chat:use",)))


def chunk(text: str, finish: str | None = None) -> bytes:
    return orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def text_of(frames: Sequence[Frame]) -> str:
    parts = [orjson.loads(frame.part) for frame in frames if isinstance(frame.part, bytes)]
    return "".join(part["choices"][0]["delta"]["content"] for part in parts)


class Severable:
    """A buffer whose connection a test can cut: to the others the replica is dead, though it does not know it."""

    def __init__(self, inner: RedisStreamBuffer) -> None:
        self.inner = inner
        self.severed = False
        # What gets through all the same.
        self.reachable: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name in {"handle", "replica"}:
            return found

        async def call(*arguments: Any) -> Any:
            if self.severed and name not in self.reachable:
                raise StreamBufferError("severed")
            return await found(*arguments)

        return call


class Script:
    """A generation of numbered words. It waits before each word until the test lets it; notes how it ended."""

    def __init__(self, words: int, *, free: bool = False) -> None:
        identifier = new_id()
        self.generation = Generation(
            identifier, TENANT, USER, None, f"chatcmpl-{identifier.hex}", "m", datetime.now(UTC), Origin()
        )
        self.words = [f"w{number} " for number in range(words)]
        self.released = asyncio.Semaphore(words if free else 0)
        self.ended = ""
        self.made = 0
        self.error: Exception | None = None
        # Connections that a test keeps open.
        self.notes: list[AsyncGenerator[Frame, None]] = []

    def chunks(self, count: int) -> list[bytes]:
        return [chunk(word) for word in self.words[:count]]

    @property
    def stream_id(self) -> str:
        return self.generation.completion_id

    @property
    def text(self) -> str:
        return "".join(self.words)

    def release(self, words: int = 1) -> None:
        for _ in range(words):
            self.released.release()

    def info(self, provider: str = "a") -> Info:
        return Info(self.stream_id, "m", AnswerMode.GENERATED, provider, (f"{provider}/m",))

    async def produce(self, start: int = 0, provider: str = "a") -> AsyncGenerator[Info | bytes, None]:
        try:
            yield self.info(provider)
            for word in self.words[start:]:
                await self.released.acquire()
                self.made += 1
                yield chunk(word)
            if self.error is not None:
                raise self.error
            self.ended = "completed"
        except (asyncio.CancelledError, GeneratorExit):
            self.ended = "cancelled"
            raise

    def opening(self, grace: float = 30.0) -> Opening:
        return Opening(caller(), self.generation, grace, {"request": {"model": "m"}, "continuable": True})


@dataclass
class Replica:
    streams: Streams
    buffer: Severable
    # What was to be taken up: path, chunks, checkpoint.
    taken: list[tuple[tuple[str, ...], list[bytes], dict[str, Any]]] = field(default_factory=list)
    scripts: dict[str, Script] = field(default_factory=dict)

    def deliver(self, script: Script, grace: float = 30.0) -> AsyncGenerator[Frame, None]:
        return self.streams.deliver(script.opening(grace), script.produce())

    def resume(self, script: Script, after: int = 0, tail: Sequence[Frame] = (), who: Principal | None = None) -> Any:
        return self.streams.resume(who or caller(), script.stream_id, after, tail)

    async def revive(self, opening: Opening, info: Info | None, chunks: Sequence[bytes]) -> AsyncGenerator[Info | bytes, None]:
        self.taken.append((info.path if info else (), list(chunks), dict(opening.checkpoint)))
        script = self.scripts.get(opening.generation.completion_id)
        if script is None or not opening.checkpoint.get("continuable"):
            raise WireroomError(ErrorKind.UNAVAILABLE, "stream_lost", "It cannot be continued.")
        async with aclosing(script.produce(len(chunks), "b")) as rest:
            async for part in rest:
                yield part


@asynccontextmanager
async def replicas(
    url: str, count: int = 2, *, ttl: float = 60.0, max_bytes: int = 2**21, **policy: Any
) -> AsyncIterator[list[Replica]]:
    chosen = StreamPolicy(**{"beat_interval": 0.05, "idle": 0.1, "flush_interval": 0.005, "stop_wait": 0.2, **policy})
    clients = [Redis.from_pool(BlockingConnectionPool.from_url(url, max_connections=20, timeout=5)) for _ in range(count)]
    made: list[Replica] = []
    for client in clients:
        buffer = Severable(RedisStreamBuffer(client, MASTER, ttl=ttl, lease=0.4, max_bytes=max_bytes))
        replica = Replica(Streams(cast("StreamBuffer", buffer), policy=chosen), buffer)
        replica.streams.revive = replica.revive
        await replica.streams.start()
        made.append(replica)
    try:
        yield made
    finally:
        for replica in made:
            await replica.streams.stop()
        for client in clients:
            await client.aclose()


async def take(frames: AsyncIterator[Frame], count: int) -> list[Frame]:
    return [await anext(frames) for _ in range(count)]


async def rest_of(frames: AsyncGenerator[Frame, None]) -> list[Frame]:
    async with aclosing(frames):
        return [frame async for frame in frames]


def whole(frames: Sequence[Frame], script: Script, *, start: int = 1) -> None:
    """Without gaps, ended well, and nothing but the script's words."""
    assert [frame.seq for frame in frames] == list(range(start, start + len(frames)))
    assert frames[-1].part == End("completed")
    if start == 1:
        assert text_of(frames) == script.text
