"""Legacy text completions, made of chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

import orjson

from wireroom_chat.domain.frames import COMPLETED, End, Frame, Info
from wireroom_chat.domain.legacy import TextChunks, parse_text_request, text_completion
from wireroom_chat.ports.generations import Origin
from wireroom_chat.usecases.completing import PERMISSION, CompleteChat
from wireroom_chat.usecases.streams import Streams
from wireroom_common.errors import not_found
from wireroom_common.principal import Principal

_AT_A_TIME = 4


class CompleteText:
    """Each prompt is a completion of its own, with its own row and bill."""

    def __init__(self, completing: CompleteChat, streams: Streams) -> None:
        self._completing = completing
        self._streams = streams

    async def complete(self, principal: Principal, body: bytes) -> tuple[bytes, Info]:
        """The text completion object as JSON. If one prompt fails, all do."""
        principal.require(PERMISSION)
        request = parse_text_request(body, stream=False)
        slots = asyncio.Semaphore(_AT_A_TIME)
        parts: list[tuple[bytes, Info] | None] = [None] * len(request.chats)

        async def answer(position: int) -> None:
            async with slots:
                parts[position] = await self._completing.answer(principal, request.chats[position], Origin())

        if len(request.chats) == 1:
            await answer(0)
        else:
            try:
                async with asyncio.TaskGroup() as group:
                    for position in range(len(request.chats)):
                        group.create_task(answer(position))
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        done = [part for part in parts if part is not None]
        infos = [info for _, info in done]
        info = replace(infos[-1], completion_id=infos[0].completion_id, cost_micros=sum(item.cost_micros for item in infos))
        return text_completion(request, [orjson.loads(answer) for answer, _ in done]), info

    async def resume(
        self, principal: Principal, body: bytes, stream_id: str, chunks: int, tail: Sequence[Frame]
    ) -> AsyncGenerator[Info | bytes | End | Frame, None]:
        """The rest of `stream` for a caller whose call broke off: who has so many chunks, and the last frames that came with them.

        NOT_FOUND and CONFLICT as of `Streams.resume`; NOT_FOUND where there are several prompts.
        """
        principal.require(PERMISSION)
        request = parse_text_request(body, stream=True)
        if len(request.chats) != 1:
            raise not_found("stream")
        seen = 0
        frames = self._streams.replay(principal, stream_id, tail)
        async with aclosing(self._of_one(TextChunks(request), 0, frames)) as parts:
            async for part in parts:
                if isinstance(part, Frame):
                    if not tail or part.seq > tail[-1].seq:
                        yield part
                elif not isinstance(part, bytes):
                    if not isinstance(part, Info):
                        yield part
                else:
                    seen += 1
                    if seen > chunks:
                        yield part

    async def stream(self, principal: Principal, body: bytes) -> AsyncGenerator[Info | bytes | End | Frame, None]:
        """`Info` first, then chunks as JSON, one prompt after the other; at last, or at the first failure, `End`.

        Each frame that they are made of comes before them, where there is one prompt.
        """
        principal.require(PERMISSION)
        request = parse_text_request(body, stream=True)
        chunks = TextChunks(request)
        single = len(request.chats) == 1
        begun = False
        for position, chat in enumerate(request.chats):
            frames = self._completing.answer_stream(principal, chat, Origin(), grace=0)
            async with aclosing(self._of_one(chunks, position, frames, last=position == len(request.chats) - 1)) as parts:
                async for part in parts:
                    if isinstance(part, Info):
                        if not begun:
                            yield part
                            begun = True
                    elif not isinstance(part, Frame) or single:
                        yield part
                    if isinstance(part, End) and part.status != COMPLETED:
                        return

    async def _of_one(
        self, chunks: TextChunks, position: int, source: AsyncGenerator[Frame, None], *, last: bool = True
    ) -> AsyncGenerator[Info | bytes | End | Frame, None]:
        """What a prompt's answer is given out as: its frames, and behind each of them what it makes."""
        opened = False
        async with aclosing(source) as frames:
            async for frame in frames:
                part = frame.part
                if isinstance(part, End):
                    if part.status == COMPLETED and last:
                        for chunk in chunks.ending():
                            yield chunk
                    if part.status != COMPLETED or last:
                        yield part
                    return
                yield frame
                if isinstance(part, Info):
                    yield part
                    continue
                made = list(chunks.of(position, orjson.loads(part)))
                if not opened:
                    made = [*chunks.opening(position), *made]
                    opened = True
                for chunk in made:
                    yield chunk
