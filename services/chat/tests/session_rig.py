"""Callers and calls of chat sessions over the whole service."""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
from chat_harness import OTHER_TENANT, TENANT, USER, ChatUnderTest, aiter_of
from sqlalchemy import text

from wireroom_common.principal import Principal, PrincipalKind, set_current_principal
from wireroom_protos.chat.v1 import conversation_pb2, conversation_pb2_grpc, sessions_pb2, sessions_pb2_grpc

_OWN = frozenset({"chat:use", "sessions:read:own", "sessions:write:own"})
OWNER = Principal(PrincipalKind.USER, str(USER), TENANT, frozenset({"Viewer"}), _OWN)
COLLEAGUE = Principal(PrincipalKind.USER, str(UUID("0198a000-0000-7000-8000-0000000000ab")), TENANT, frozenset({"Viewer"}), _OWN)
ADMIN = Principal(
    PrincipalKind.USER,
    str(UUID("0198a000-0000-7000-8000-0000000000ac")),
    TENANT,
    frozenset({"Admin"}),
    _OWN | {"sessions:read:tenant"},
)
STRANGER = Principal(PrincipalKind.USER, str(USER), OTHER_TENANT, frozenset({"Admin"}), _OWN | {"sessions:read:tenant"})


@dataclass
class Chatting:
    """The stubs of chat sessions, each call made by one caller."""

    chat: ChatUnderTest
    principal: Principal = OWNER
    sessions: Any = field(init=False)
    turns: Any = field(init=False)

    def __post_init__(self) -> None:
        self.sessions = sessions_pb2_grpc.SessionServiceStub(self.chat.channel)
        self.turns = conversation_pb2_grpc.ChatServiceStub(self.chat.channel)

    def by(self, principal: Principal) -> Chatting:
        """The same for another caller."""
        return Chatting(self.chat, principal)

    async def call(self, name: str, **members: Any) -> Any:
        """A call of SessionService."""
        set_current_principal(self.principal)
        return await getattr(self.sessions, name)(getattr(sessions_pb2, f"{name}Request")(**members), timeout=20)

    async def send(self, message: str, **members: Any) -> Any:
        """A turn answered as a whole."""
        set_current_principal(self.principal)
        return await self.turns.Send(conversation_pb2.SendRequest(message=message, **members), timeout=30)

    async def stream(self, message: str, **members: Any) -> list[Any]:
        """The responses of a streamed turn."""
        set_current_principal(self.principal)
        call = self.turns.StreamSend(conversation_pb2.StreamSendRequest(message=message, **members), timeout=30)
        async with aclosing(aiter_of(call)) as parts:
            return [part async for part in parts]

    async def messages(self, session_id: str, **members: Any) -> list[Any]:
        """The messages of a session."""
        answer = await self.call("ListMessages", session_id=session_id, **members)
        return list(answer.messages)

    async def export(self, session_id: str, file_format: str) -> tuple[Any, bytes]:
        """The head and the bytes of an export."""
        set_current_principal(self.principal)
        call = self.sessions.ExportSession(sessions_pb2.ExportSessionRequest(id=session_id, format=file_format), timeout=60)
        pieces = [piece async for piece in aiter_of(call)]
        return pieces[0], b"".join(piece.data for piece in pieces)

    async def events(self, *types: str) -> list[Any]:
        """Rows of the outbox, in order."""
        async with self.chat.database.system() as connection:
            rows = await connection.execute(text("SELECT type, subject, actor, data FROM outbox ORDER BY id"))
            return [row for row in rows.all() if row.type in types]

    def periodic(self, name: str) -> Any:
        """What the service repeats under `name`."""
        return next(entry.run for entry in self.chat.service.periodic if entry.name == name)

    async def run(self, statement: str, **values: Any) -> list[Any]:
        """A statement as the service itself, across tenants."""
        async with self.chat.database.system() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []


def said(response: Any) -> str:
    """The text of an answer."""
    return str(orjson.loads(response.body)["choices"][0]["message"]["content"])


def asked_of(provider: Any) -> list[dict[str, Any]]:
    """The messages of the last request that reached the provider."""
    return list(provider.requests[-1].body["messages"])
