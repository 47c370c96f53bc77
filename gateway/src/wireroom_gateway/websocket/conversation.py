"""One open WebSocket: reads what the client says, runs one turn at a time, closes when the credential ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
import structlog
from starlette.types import Message, Receive, Send

from wireroom_common.clock import Clock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.ids import new_id
from wireroom_common.logging import get_logger
from wireroom_common.principal import PrincipalKind, set_current_principal
from wireroom_common.rpc.context import set_request_id
from wireroom_gateway.access import Bucket
from wireroom_gateway.identity.api_keys import ApiKeyVerifier
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.pipeline.rate_limits import Toll
from wireroom_gateway.pipeline.threats import ThreatNotes
from wireroom_gateway.problems import problem_of
from wireroom_gateway.request_state import RequestState
from wireroom_gateway.routes.chat.frames import NativeFrame
from wireroom_gateway.services import Services
from wireroom_gateway.websocket.answers import Answer
from wireroom_gateway.websocket.connections import OpenConnections
from wireroom_gateway.websocket.messages import Cancel, Ping, Resume, Say, is_protocol_error, read_message
from wireroom_protos.chat.v1 import conversation_pb2, sessions_pb2

PERMISSION = "chat:use"
GONE = 1006
POLICY = 1008
INTERNAL = 1011
TRY_AGAIN_LATER = 1013
UNAUTHENTICATED = 4401
FORBIDDEN = 4403
NOT_FOUND = 4404
RATE_LIMITED = 4429
# So many that are no messages at all, or so many refusals by a rate limit without anything in between, and the connection ends.
_MAX_PROTOCOL_ERRORS = 10
_MAX_REFUSALS = 20
# What is read of one client; turns have limits of their own, and the rest costs little, but not nothing.
_MESSAGES_PER_SECOND = 20
_PING = orjson.dumps({"type": "ping"}).decode()
_log = get_logger(__name__)


@dataclass(frozen=True)
class Surroundings:
    """What all connections share. Times in seconds."""

    services: Services
    toll: Toll
    threats: ThreatNotes
    revocations: Revocations
    keys: ApiKeyVerifier
    connections: OpenConnections
    clock: Clock
    rpc_timeout: float
    chat_timeout: float
    # Of silence, until a ping frame is sent.
    keepalive: float


class Conversation:
    """Serves one session's connection. The generation behind a turn is not the connection's: it goes on when this ends."""

    __slots__ = (
        "_answer",
        "_busy",
        "_cancel_wanted",
        "_closing",
        "_code",
        "_last_sent",
        "_messages",
        "_protocol_errors",
        "_refusals",
        "_second",
        "_second_count",
        "_send",
        "_session_id",
        "_shared",
        "_state",
        "_tasks",
    )

    def __init__(self, shared: Surroundings, state: RequestState, session_id: str) -> None:
        self._shared = shared
        self._state = state
        self._session_id = session_id
        self._send: Send | None = None
        self._tasks: set[asyncio.Task[None]] | None = None
        self._answer: Answer | None = None
        self._busy = self._cancel_wanted = self._closing = False
        self._messages = self._protocol_errors = self._refusals = 0
        self._code = GONE
        self._last_sent = self._second = 0.0
        self._second_count = 0

    def release(self) -> None:
        """Give the place back."""
        self._shared.connections.give_back(self._state.principal)

    async def run(self, receive: Receive, send: Send) -> None:
        """Until the connection ends."""
        self._send = send
        started = self._shared.clock.monotonic()
        unwatch = self._shared.revocations.watch(self._state.principal, self._void)
        try:
            # What cannot be sent any more raises OSError: the client is gone, and `receive` tells with which code.
            with contextlib.suppress(OSError):
                await self._open()
            await self._listen(receive)
        except Exception:  # noqa: BLE001 - nothing unforeseen tells anything about itself, and the end is counted
            _log.exception("websocket_failed")
            await self._close(INTERNAL, "An internal error occurred.")
            self._code = INTERNAL
        finally:
            unwatch()
            tasks = list(self._tasks or ())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._shared.connections.closed(self._code)
            _log.info(
                "websocket_closed",
                code=self._code,
                seconds=round(self._shared.clock.monotonic() - started, 2),
                messages=self._messages,
                client=self._state.client_ip,
                subject=self._state.principal.subject,
                tenant=str(self._state.principal.tenant_id or ""),
            )

    async def _open(self) -> None:
        """Only the owner of a session may talk in it."""
        shared = self._shared
        try:
            answer = await shared.services.sessions.GetSession(
                sessions_pb2.GetSessionRequest(id=self._session_id), timeout=shared.rpc_timeout
            )
        except WireroomError as error:
            if error.kind in (ErrorKind.NOT_FOUND, ErrorKind.INVALID):
                await self._end(NOT_FOUND, error)
            elif error.kind is ErrorKind.UNAUTHENTICATED:
                await self._end(UNAUTHENTICATED, error)
            elif error.kind is ErrorKind.FORBIDDEN:
                await self._end(FORBIDDEN, error)
            else:
                await self._end(TRY_AGAIN_LATER, error)
            return
        if answer.session.owner_id != self._state.principal.subject:
            # Some may read the sessions of others; nobody may talk in them.
            await self._end(
                NOT_FOUND, WireroomError(ErrorKind.NOT_FOUND, "session_not_found", "You have no session with this id.")
            )
            return
        await self._write(
            {"type": "ready", "seq": 0, "session_id": self._session_id, "turn_running": answer.session.turn_running}
        )

    async def _listen(self, receive: Receive) -> None:
        while True:
            try:
                async with asyncio.timeout_at(self._next_look()):
                    message = await receive()
            except TimeoutError:
                with contextlib.suppress(OSError):
                    await self._look()
                continue
            if message["type"] == "websocket.disconnect":
                self._code = message.get("code") or GONE
                return
            if message["type"] == "websocket.receive" and not self._closing:
                with contextlib.suppress(OSError):
                    await self._receive(message)
                await self._slow_down()

    # Time

    async def _slow_down(self) -> None:
        """Read no faster than the limit: what the client sends on stays in the connection."""
        now = asyncio.get_running_loop().time()
        if now - self._second >= 1:
            self._second, self._second_count = now, 0
        self._second_count += 1
        if self._second_count >= _MESSAGES_PER_SECOND:
            await asyncio.sleep(self._second + 1 - now)

    def _next_look(self) -> float:
        loop = asyncio.get_running_loop()
        following = max(self._last_sent, loop.time() - self._shared.keepalive) + self._shared.keepalive
        until = self._state.credential_until
        if until is not None and not self._closing:
            following = min(following, loop.time() + max(0.01, until - self._shared.clock.now().timestamp()))
        return following

    async def _look(self) -> None:
        if self._closing:
            self._last_sent = asyncio.get_running_loop().time()
        elif self._expired():
            await self._close(UNAUTHENTICATED, "The credential has expired. Sign in and connect again.")
        elif asyncio.get_running_loop().time() - self._last_sent >= self._shared.keepalive:
            await self._write_text(_PING)

    def _expired(self) -> bool:
        until = self._state.credential_until
        return until is not None and self._shared.clock.now().timestamp() >= until

    def _void(self) -> None:
        self._spawn(self._close(UNAUTHENTICATED, "The credential was revoked. Sign in and connect again."))

    # What the client says

    async def _receive(self, message: Message) -> None:
        self._messages += 1
        try:
            said = read_message(message.get("text"))
            match said:
                case Ping(value):
                    await self._write({"type": "ping", "ping": value})
                case Cancel():
                    await self._cancel()
                case Say():
                    await self._begin(lambda: self._say(said))
                case Resume():
                    await self._begin(lambda: self._resume(said))
        except WireroomError as error:
            await self._refuse(error)
        else:
            self._refusals = 0

    async def _refuse(self, error: WireroomError) -> None:
        self._protocol_errors += is_protocol_error(error)
        if error.code == "credential_invalid":
            await self._end(UNAUTHENTICATED, error)
        elif error.code == "permission_missing":
            await self._end(FORBIDDEN, error)
        elif self._protocol_errors >= _MAX_PROTOCOL_ERRORS:
            await self._end(POLICY, error)
        elif error.kind is ErrorKind.RATE_LIMITED:
            self._refusals += 1
            too_many = error.code == "address_blocked" or self._refusals >= _MAX_REFUSALS
            await (self._end(RATE_LIMITED, error) if too_many else self._write(error_members(error)))
        else:
            await self._write(error_members(error))

    async def _begin(self, turn: Callable[[], Awaitable[AsyncGenerator[NativeFrame, None]]]) -> None:
        if self._busy:
            raise WireroomError(
                ErrorKind.CONFLICT, "turn_in_progress", "An answer is being written. Wait for its end, or cancel it."
            )
        # Before the first await: the client may send on meanwhile.
        self._busy = True
        try:
            await self._check_credential()
            frames = await turn()
        except BaseException:
            self._busy = False
            raise
        self._spawn(self._follow(frames))

    async def _check_credential(self) -> None:
        """Users' tokens are watched; a key may have lost permissions, or got other limits, since it was last looked at."""
        state = self._state
        if self._expired():
            raise WireroomError(ErrorKind.UNAUTHENTICATED, "credential_invalid", "The credential has expired.")
        if state.principal.kind is PrincipalKind.API_KEY:
            key, _ = await self._shared.keys.named(UUID(state.principal.credential_id))
            state.principal = replace(state.principal, permissions=state.principal.permissions & key.principal.permissions)
            state.limits = key.limits
        state.principal.require(PERMISSION)
        set_current_principal(state.principal)

    async def _say(self, said: Say) -> AsyncGenerator[NativeFrame, None]:
        await self._shared.toll.charge(Bucket.CHAT, self._state, tell=False)
        self._shared.threats.prompt(self._state, said.text)
        self._answer = Answer(self._shared.services, timeout=self._shared.chat_timeout)
        request = conversation_pb2.StreamSendRequest(
            session_id=self._session_id, message=said.text, model=said.model, grounding=said.grounding
        )
        return self._answer.to(request)

    async def _resume(self, said: Resume) -> AsyncGenerator[NativeFrame, None]:
        await self._shared.toll.charge(Bucket.API, self._state, tell=False)
        stream_id = said.stream_id or await self._newest_stream()
        self._answer = Answer(
            self._shared.services, timeout=self._shared.chat_timeout, stream_id=stream_id, after_seq=said.after_seq
        )
        return self._answer.rest()

    async def _newest_stream(self) -> str:
        request = sessions_pb2.ListMessagesRequest(session_id=self._session_id, page_size=1, newest_first=True)
        answer = await self._shared.services.sessions.ListMessages(request, timeout=self._shared.rpc_timeout)
        for message in answer.messages:
            if message.completion_id:
                return message.completion_id
        raise WireroomError(ErrorKind.NOT_FOUND, "stream_not_found", "The session has no answer that could be resumed.")

    async def _cancel(self) -> None:
        if not self._busy or self._answer is None:
            raise WireroomError(ErrorKind.CONFLICT, "nothing_to_cancel", "No answer is being written.")
        if self._answer.stream_id:
            await self._cancel_stream(self._answer.stream_id)
        else:
            # It has no name yet.
            self._cancel_wanted = True

    async def _cancel_stream(self, stream_id: str) -> None:
        set_current_principal(self._state.principal)
        request = conversation_pb2.CancelRequest(stream_id=stream_id)
        await self._shared.services.streams.Cancel(request, timeout=self._shared.rpc_timeout)

    # What the client gets

    async def _follow(self, frames: AsyncGenerator[NativeFrame, None]) -> None:
        request_id = new_id().hex
        set_request_id(request_id)
        structlog.contextvars.bind_contextvars(request_id=request_id)
        try:
            async with contextlib.aclosing(frames):
                async for frame in frames:
                    if frame.kind in ("done", "error"):
                        self._over()
                    await self._write(_members(frame))
                    if self._cancel_wanted and self._answer is not None and self._answer.stream_id:
                        self._cancel_wanted = False
                        await self._cancel_stream(self._answer.stream_id)
        except OSError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the client must be told that the answer ended badly
            if not isinstance(error, WireroomError):
                _log.exception("websocket_turn_failed")
            self._over()
            with contextlib.suppress(OSError):
                await self._write(error_members(error))
        finally:
            self._over()

    def _over(self) -> None:
        # Before the last frame is sent: the client may answer at once.
        self._busy = self._cancel_wanted = False

    async def _write(self, members: dict[str, Any]) -> None:
        await self._write_text(orjson.dumps(members).decode())

    async def _write_text(self, text: str) -> None:
        if self._send is not None and not self._closing:
            await self._send({"type": "websocket.send", "text": text})
            self._last_sent = asyncio.get_running_loop().time()

    async def _end(self, code: int, error: WireroomError) -> None:
        await self._write(error_members(error))
        await self._close(code, error.code)

    async def _close(self, code: int, reason: str) -> None:
        if self._send is not None and not self._closing:
            self._closing = True
            with contextlib.suppress(OSError):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        if self._tasks is None:
            self._tasks = set()
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _members(frame: NativeFrame) -> dict[str, Any]:
    """Of several frames with one `seq` only after the last one may be resumed behind it."""
    return frame.members() if frame.resumable else {**frame.members(), "partial": True}


def error_members(error: Exception) -> dict[str, Any]:
    """An error frame without a `seq`: it is about a message, or the end of a stream that can be resumed."""
    problem = problem_of(error)
    members: dict[str, Any] = {"type": "error", "code": problem.code, "detail": problem.detail}
    wait = (problem.headers or {}).get("retry-after")
    return {**members, "retry_after": int(wait)} if wait else members
