from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast
from uuid import UUID

import grpc
import grpc.aio
import psycopg
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from wireroom_auth.adapters.accounts_sql import USER_COLUMNS, user_of
from wireroom_auth.app import build
from wireroom_auth.domain.permissions import permissions_of
from wireroom_auth.settings import AuthSettings
from wireroom_common.bus.catalogue import Catalogue
from wireroom_common.clock import ManualClock
from wireroom_common.db import Database, DatabaseUrl
from wireroom_common.principal import ANONYMOUS, Principal, PrincipalKind, set_current_principal
from wireroom_common.runtime.service import Service
from wireroom_common.testing import eventually
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

PASSWORD = "four horses in the rain"
AUTH = "/wireroom_protos.auth.v1.AuthService/"
KEYS = "/wireroom_protos.auth.v1.ApiKeyService/"
DIRECTORY = "/wireroom_protos.auth.v1.DirectoryService/"


@dataclass
class AuthInfra:
    """What the auth service may ask of the runtime; nothing else answers."""

    auth_database: Database
    clock: ManualClock = field(default_factory=ManualClock)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    master: bytes = b"m" * 32
    announced: list[str] = field(default_factory=list)

    def database(self, service: str) -> Database:
        assert service == "auth"
        return self.auth_database

    def redis(self) -> Redis:
        raise AssertionError("auth uses no Redis")

    def channel(self, service: str) -> grpc.aio.Channel:
        raise AssertionError(f"auth calls no other service ({service})")

    def data_dir(self, service: str) -> str:
        raise AssertionError(f"{service} keeps no files")

    def secret(self, name: str) -> bytes:
        assert name == "master"
        return self.master

    def public_url(self) -> str:
        return "https://wireroom.example"

    def announce(self, message: str) -> None:
        self.announced.append(message)

    def admin_token(self) -> str:
        return self.announced[-1].removeprefix("One-time admin token: ")


class Methods:
    """Stands where a gRPC server stands and keeps the handlers that the service registers."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """The generated code registers each method a second time by name."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler]) -> None:
        self.handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})


class Auth:
    """A started auth service, called the way the server calls it."""

    def __init__(self, service: Service, infra: AuthInfra) -> None:
        self.service = service
        self.infra = infra
        self.clock = infra.clock
        self.database = infra.auth_database
        methods = Methods()
        for register in service.rpc:
            register(cast("grpc.aio.Server", methods))
        self.handlers = methods.handlers

    async def call(self, method: str, request: Message, caller: Principal = ANONYMOUS) -> Any:
        handler = self.handlers[method].unary_unary
        assert handler is not None
        # Over the wire and back, as a server would hand it on.
        received = type(request).FromString(request.SerializeToString())
        set_current_principal(caller)
        return await cast("Any", handler)(received, None)

    async def register(self, email: str = "ada@example.org", *, token: str = "", password: str = PASSWORD, name: str = "") -> Any:
        request = auth_pb2.RegisterRequest(email=email, password=password, name=name, admin_token=token)
        return (await self.call(AUTH + "Register", request)).user

    async def register_admin(self, email: str = "ada@example.org") -> Any:
        return await self.register(email, token=self.infra.admin_token())

    async def login(self, email: str = "ada@example.org", password: str = PASSWORD, **client: str) -> Any:
        return await self.call(AUTH + "Login", auth_pb2.LoginRequest(email=email, password=password, **client))

    async def refresh(self, token: str) -> Any:
        return (await self.call(AUTH + "Refresh", auth_pb2.RefreshRequest(refresh_token=token))).tokens

    async def create_key(self, caller: Principal, *permissions: str, name: str = "ci", ttl: int = 0) -> Any:
        request = auth_pb2.CreateKeyRequest(name=name, permissions=permissions, ttl_seconds=ttl)
        return await self.call(KEYS + "CreateKey", request, caller)

    async def verify_key(self, secret: str) -> Any:
        return await self.call(KEYS + "VerifyKey", auth_pb2.VerifyKeyRequest(secret=secret))

    async def directory(self, method: str, caller: Principal, **fields: Any) -> Any:
        """A call of the directory service: `fields` are those of its request."""
        return await self.call(DIRECTORY + method, getattr(auth_pb2, f"{method}Request")(**fields), caller)

    async def operator(self) -> Principal:
        """The installation's first user, signed in."""
        return principal_of(await self.register_admin())

    async def caller(self, user_id: str) -> Principal:
        """A user of whichever tenant, signed in, with what the database says they may do."""
        async with self.database.system() as connection:
            row = (
                await connection.execute(
                    text(f"SELECT {USER_COLUMNS} FROM users u WHERE u.id = :id"),  # noqa: S608  constant
                    {"id": UUID(user_id)},
                )
            ).one()
        user = user_of(row)
        return Principal(PrincipalKind.USER, user_id, user.tenant_id, frozenset(user.roles), user.permissions)

    def key_caller(self, verified: Any) -> Principal:
        """Whom an API key stands for, as the gateway passes it on."""
        return Principal(
            PrincipalKind.API_KEY,
            verified.user_id,
            UUID(verified.tenant_id),
            frozenset(verified.roles),
            frozenset(verified.permissions),
            credential_id=verified.key_id,
        )

    def claims(self, tokens: Any) -> dict[str, Any]:
        """What an access token says; its signature is not checked."""
        payload = tokens.access_token.split(".")[1]
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
        return claims

    async def add_user(self, email: str, *roles: str, tenant_id: UUID | None = None) -> Principal:
        """A further user, as user management will make them: a copy of the first user's hash under other roles."""
        async with self.database.system() as connection:
            row = (
                await connection.execute(
                    text(
                        "INSERT INTO users (tenant_id, id, email, name, password_hash, roles, created_at)"
                        " SELECT coalesce(:tenant_id, tenant_id), gen_random_uuid(), :email, '', password_hash, :roles, :now"
                        " FROM users ORDER BY created_at LIMIT 1 RETURNING id, tenant_id"
                    ),
                    {"tenant_id": tenant_id, "email": email, "roles": list(roles), "now": self.clock.now()},
                )
            ).one()
        return Principal(PrincipalKind.USER, str(row.id), row.tenant_id, frozenset(roles), permissions_of(roles))

    async def add_tenant(self, name: str) -> UUID:
        async with self.database.system() as connection:
            found = await connection.execute(
                text(
                    "INSERT INTO tenants (tenant_id, name, created_at) VALUES (gen_random_uuid(), :name, :now) RETURNING tenant_id"
                ),
                {"name": name, "now": self.clock.now()},
            )
            return UUID(str(found.scalar_one()))

    async def pass_time(self, seconds: float) -> None:
        """Advance the clock, and put back what the database's clock has stamped."""
        self.clock.advance(seconds)
        back = {"back": seconds}
        async with self.database.system() as connection:
            await connection.execute(
                text(
                    "UPDATE login_attempts SET failed_at = failed_at - make_interval(secs => :back),"
                    " blocked_until = blocked_until - make_interval(secs => :back),"
                    " known_at = known_at - make_interval(secs => :back)"
                ),
                back,
            )
            tenants = [row.tenant_id for row in await connection.execute(text("SELECT tenant_id FROM tenants"))]
        for tenant in tenants:
            async with self.database.tenant(tenant) as connection:
                await connection.execute(text("UPDATE refresh_tokens SET used_at = used_at - make_interval(secs => :back)"), back)

    async def change_user(self, user: Any, assignment: str, **values: object) -> None:
        async with self.database.tenant(UUID(user.tenant_id)) as connection:
            changed = await connection.execute(
                text(f"UPDATE users SET {assignment} WHERE id = :id"),  # noqa: S608  literals of the tests
                {"id": UUID(user.id), **values},
            )
            assert changed.rowcount == 1

    async def events(self) -> list[Message]:
        """What the outbox holds, in order."""
        catalogue = Catalogue.from_files(events_pb2.DESCRIPTOR)
        async with self.database.system() as connection:
            rows = await connection.execute(text("SELECT type, data FROM outbox ORDER BY id"))
            return [catalogue.events[row.type].payload.FromString(row.data) for row in rows]

    async def events_of(self, kind: type[Message]) -> list[Any]:
        return [event for event in await self.events() if isinstance(event, kind)]


def principal_of(user: Any, credential_id: str = "") -> Principal:
    return Principal(
        PrincipalKind.USER,
        user.id,
        UUID(user.tenant_id),
        frozenset(user.roles),
        frozenset(user.permissions),
        credential_id=credential_id,
    )


def quick_settings(**changes: Any) -> AuthSettings:
    return AuthSettings(**{"argon2_memory_kib": 19456, "argon2_time_cost": 2, **changes})


MakeAuth = Callable[..., Any]


@pytest_asyncio.fixture
async def make_auth(migrated_database: Callable[[str], Any]) -> AsyncIterator[MakeAuth]:
    """`await make_auth(**settings)`: a started service; several share one database, as replicas do."""
    started: list[Service] = []
    databases: list[Database] = []

    async def make(*, infra: AuthInfra | None = None, **settings: Any) -> Auth:
        if not databases:
            databases.append(await migrated_database("auth"))
        # Another process counts for itself.
        infra = AuthInfra(databases[0]) if infra is None else replace(infra, registry=CollectorRegistry())
        service = build(quick_settings(**settings), infra)
        assert service.start is not None
        await service.start()
        started.append(service)
        return Auth(service, infra)

    yield make
    for service in started:
        assert service.stop is not None
        await service.stop()
    set_current_principal(None)


@pytest_asyncio.fixture
async def auth(make_auth: MakeAuth) -> Auth:
    return cast("Auth", await make_auth())


@pytest.fixture
def postgres_as_owner(fresh_database_url: str) -> Callable[[str], None]:
    """`run(statement)` as the schema's owner, for what no role of the running service may do."""
    url = DatabaseUrl.parse(fresh_database_url).as_role("auth_owner")

    def run(statement: str) -> None:
        engine = create_engine(url, poolclass=NullPool)
        with engine.begin() as connection:
            connection.execute(text(statement))
        engine.dispose()

    return run


Race = Callable[..., Coroutine[Any, Any, list[Any]]]


@pytest.fixture
def race(fresh_database_url: str) -> Race:
    """`await race(lock, *coroutines)`: an administrator holds `lock` until all of them wait, then lets go; their outcomes."""

    async def run(lock: str, *contenders: Coroutine[Any, Any, Any]) -> list[Any]:
        with psycopg.connect(fresh_database_url) as holder, psycopg.connect(fresh_database_url, autocommit=True) as observer:
            holder.execute(lock.encode())
            tasks = [asyncio.ensure_future(contender) for contender in contenders]

            def all_wait() -> bool:
                row = observer.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ).fetchone()
                return row == (len(tasks),)

            try:
                await eventually(all_wait, within=20, what="all contenders wait for a lock")
            finally:
                holder.rollback()
                await asyncio.wait(tasks)
            return await asyncio.gather(*tasks, return_exceptions=True)

    return run


@pytest.fixture
def password() -> str:
    return PASSWORD
