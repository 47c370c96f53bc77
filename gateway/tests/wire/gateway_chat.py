"""A chat service for tests: sessions with an owner, streams that live on without their caller and can be taken up on any gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gateway_rig import Rig, running
from gateway_tokens import USER, Issuer
from websockets.asyncio.client import ClientConnection, connect

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import current_principal
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.chat.v1 import conversation_pb2, sessions_pb2
from wireroom_protos.chat.v1.chat_pb2 import CompletionInfo
from wireroom_protos.chat.v1.conversation_pb2 import StreamEnd, StreamFrame

SESSION_ID = "0198a000-0000-7000-8000-00000000e001"


def chunk(**delta: Any) -> bytes:
    return json.dumps(
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    ).encode()


def last_chunk() -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}).encode()


@dataclass
class Stream:
    """One generation: its frames so far."""

    name: str
    frames: list[StreamFrame] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    readers: int = 0
    cancelled: bool = False

    def add(self, **part: Any) -> None:
        self.frames.append(StreamFrame(seq=len(self.frames) + 1, **part))
        self.changed.set()
        self.changed = asyncio.Event()

    def token(self, text: str) -> None:
        self.add(data=chunk(content=text))

    def finish(self, status: str = "completed") -> None:
        self.add(data=last_chunk())
        self.add(end=StreamEnd(status=status))

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(
            choice["delta"].get("content", "")
            for frame in self.frames
            if frame.data
            for choice in json.loads(frame.data)["choices"]
        )

    async def read(self, after: int = 0) -> AsyncIterator[StreamFrame]:
        self.readers += 1
        try:
            while True:
                changed = self.changed
                while after < len(self.frames):
                    frame = self.frames[after]
                    after += 1
                    yield frame
                    if frame.WhichOneof("part") == "end":
                        return
                await changed.wait()
        finally:
            self.readers -= 1


class ScriptedChat:
    """Answers for any number of gateways. Without `tokens` a test writes the streams itself."""

    def __init__(self, tokens: Sequence[str] = ()) -> None:
        self.tokens = tokens
        self.owners = {SESSION_ID: str(USER)}
        self.streams: dict[str, Stream] = {}
        self.said: list[str] = []
        # Streams whose next read breaks off after so many frames.
        self.break_after: list[int] = []

    def answers(self) -> dict[str, Any]:
        return {
            "GetSession": self._get_session,
            "ListMessages": self._list_messages,
            "StreamSend": self._stream_send,
            "Resume": self._resume,
            "Cancel": self._cancel,
        }

    @property
    def stream(self) -> Stream:
        """The newest."""
        return list(self.streams.values())[-1]

    def _own(self, session_id: str) -> None:
        if self.owners.get(session_id) != current_principal().subject:
            raise WireroomError(ErrorKind.NOT_FOUND, "session_not_found", "There is no such session.")

    async def _get_session(self, request: sessions_pb2.GetSessionRequest) -> sessions_pb2.GetSessionResponse:
        self._own(request.id)
        session = sessions_pb2.ChatSession(id=request.id, owner_id=self.owners[request.id])
        return sessions_pb2.GetSessionResponse(session=session)

    async def _list_messages(self, request: sessions_pb2.ListMessagesRequest) -> sessions_pb2.ListMessagesResponse:
        self._own(request.session_id)
        newest = [sessions_pb2.SessionMessage(completion_id=self.stream.name)] if self.streams else []
        return sessions_pb2.ListMessagesResponse(messages=newest)

    async def _stream_send(
        self, request: conversation_pb2.StreamSendRequest
    ) -> AsyncIterator[conversation_pb2.StreamSendResponse]:
        self._own(request.session_id)
        self.said.append(request.message)
        stream = Stream(f"stream-{len(self.streams) + 1}")
        self.streams[stream.name] = stream
        stream.add(info=CompletionInfo(completion_id=stream.name, model="scripted", answer_mode="llm"))
        for text in self.tokens:
            stream.token(text)
        if self.tokens:
            stream.finish()
        async for frame in self._breaking(stream.read()):
            yield conversation_pb2.StreamSendResponse(
                message_id="m-1" if frame.seq == 1 else "", user_message_id="u-1" if frame.seq == 1 else "", frame=frame
            )

    async def _resume(self, request: conversation_pb2.ResumeRequest) -> AsyncIterator[conversation_pb2.ResumeResponse]:
        stream = self.streams.get(request.stream_id)
        if stream is None:
            raise WireroomError(ErrorKind.NOT_FOUND, "stream_not_found", "There is no such stream.")
        async for frame in self._breaking(stream.read(request.after_seq)):
            yield conversation_pb2.ResumeResponse(frame=frame)

    async def _breaking(self, frames: AsyncIterator[StreamFrame]) -> AsyncIterator[StreamFrame]:
        left = self.break_after.pop(0) if self.break_after else -1
        async with contextlib.aclosing(frames) as source:  # type: ignore[type-var]  # a generator
            async for frame in source:
                if left == 0:
                    raise WireroomError(ErrorKind.UNAVAILABLE, "rpc_unavailable", "The replica has died.")
                left -= 1
                yield frame

    async def _cancel(self, request: conversation_pb2.CancelRequest) -> conversation_pb2.CancelResponse:
        stream = self.streams[request.stream_id]
        stream.cancelled = True
        stream.finish("cancelled")
        return conversation_pb2.CancelResponse()


@dataclass
class Wire:
    """Gateways that share everything but their process."""

    rigs: list[Rig]
    chat: ScriptedChat
    issuer: Issuer

    @property
    def rig(self) -> Rig:
        return self.rigs[0]

    def address(self, number: int = 0, *, session: str = SESSION_ID, query: str = "") -> str:
        return f"{self.rigs[number].url.replace('http', 'ws', 1)}/api/v1/ws/{session}{query}"

    def token(self, *permissions: str, **claims: Any) -> str:
        return self.issuer.token(*(permissions or ("chat:use",)), **claims)

    def open(
        self, number: int = 0, *, token: str | None = None, session: str = SESSION_ID, query: str = "", **options: Any
    ) -> connect:
        """A client as a browser is one: the token stands in the subprotocol. `token` "": none."""
        token = self.token() if token is None else token
        protocols = {"subprotocols": ["wireroom.v1", f"bearer.{token}"]} if token else {}
        options = {"ping_interval": None, "proxy": None, "open_timeout": 10, **protocols, **options}
        return connect(self.address(number, session=session, query=query), **options)


@asynccontextmanager
async def wired(
    folder: Path, chat: ScriptedChat, *, gateways: int = 1, redis_url: str = "", **settings: Any
) -> AsyncIterator[Wire]:
    """Gateways before one chat service. With a Redis, limits are on if a setting says so."""
    issuer = Issuer()

    async def jwks(_request: Any) -> auth_pb2.GetJwksResponse:
        return auth_pb2.GetJwksResponse(jwks_json=issuer.jwks())

    async with AsyncExitStack() as stack:
        answers = {**chat.answers(), "GetJwks": jwks}
        settings = {"limits_enabled": False, **settings}
        rigs = [
            await stack.enter_async_context(
                running(folder / f"gateway{number}", redis_url=redis_url, answers=answers, **settings)
            )
            for number in range(gateways)
        ]
        yield Wire(rigs, chat, issuer)


async def frame(socket: ClientConnection) -> dict[str, Any]:
    """The next frame."""
    async with asyncio.timeout(10):
        members: dict[str, Any] = json.loads(await socket.recv())
    return members


async def frames_until(socket: ClientConnection, *kinds: str) -> list[dict[str, Any]]:
    """Frames up to the first of one of `kinds`."""
    found = [await frame(socket)]
    while found[-1]["type"] not in kinds:
        found.append(await frame(socket))
    return found


async def say(socket: ClientConnection, **members: Any) -> None:
    """Send one message."""
    await socket.send(json.dumps(members))


async def close_code(socket: ClientConnection) -> int | None:
    """With which code the gateway closes."""
    async with asyncio.timeout(10):
        await socket.wait_closed()
    return socket.close_code


def text_of(frames: Sequence[dict[str, Any]]) -> str:
    """The answer's text."""
    return "".join(entry["text"] for entry in frames if entry["type"] == "token")
