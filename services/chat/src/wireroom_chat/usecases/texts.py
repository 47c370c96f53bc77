"""Legacy text completions, made of chat completions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

import orjson

from wireroom_chat.domain.frames import End, Info
from wireroom_chat.domain.legacy import TextChunks, parse_text_request, text_completion
from wireroom_chat.ports.generations import Origin
from wireroom_chat.usecases.completing import PERMISSION, CompleteChat
from wireroom_common.principal import Principal

_AT_A_TIME = 4


class CompleteText:
    """Each prompt is a completion of its own, with its own row and bill."""

    def __init__(self, completing: CompleteChat) -> None:
        self._completing = completing

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

    async def stream(self, principal: Principal, body: bytes) -> AsyncGenerator[Info | bytes | End, None]:
        """`Info` first, then chunks as JSON, one prompt after the other; at last, or at the first failure, `End`."""
        principal.require(PERMISSION)
        request = parse_text_request(body, stream=True)
        chunks = TextChunks(request)
        begun = False
        for position, chat in enumerate(request.chats):
            opened = False
            async with aclosing(self._completing.answer_stream(principal, chat, Origin(), grace=0)) as frames:
                async for frame in frames:
                    if isinstance(frame.part, Info):
                        if not begun:
                            yield frame.part
                            begun = True
                    elif isinstance(frame.part, End):
                        if frame.part.status != "completed":
                            yield frame.part
                            return
                    else:
                        made = list(chunks.of(position, orjson.loads(frame.part)))
                        if not opened:
                            made = [*chunks.opening(position), *made]
                            opened = True
                        for chunk in made:
                            yield chunk
        for chunk in chunks.ending():
            yield chunk
        yield End("completed")
