"""Composition root of the auth service."""

from __future__ import annotations

from datetime import timedelta

import grpc.aio

from wireroom_auth import admin_token
from wireroom_auth.adapters.accounts_sql import SqlAccounts
from wireroom_auth.adapters.api_keys_sql import SqlApiKeys
from wireroom_auth.adapters.password_hashing import Argon2Passwords
from wireroom_auth.adapters.purge import Purge
from wireroom_auth.adapters.sessions_sql import SqlSessions
from wireroom_auth.adapters.signing_keys import SigningKeys
from wireroom_auth.domain.sessions import SessionTerms
from wireroom_auth.settings import AuthSettings
from wireroom_auth.transport.grpc import PUBLIC_RPCS, ApiKeyServicer, AuthServicer
from wireroom_auth.usecases.create_key import CreateKey
from wireroom_auth.usecases.get_me import GetMe
from wireroom_auth.usecases.list_keys import ListKeys
from wireroom_auth.usecases.list_revocations import ListRevocations
from wireroom_auth.usecases.login import Login
from wireroom_auth.usecases.logout import Logout
from wireroom_auth.usecases.refresh import Refresh
from wireroom_auth.usecases.register import Register
from wireroom_auth.usecases.revoke_key import RevokeKey
from wireroom_auth.usecases.token_issuing import TokenIssuing
from wireroom_auth.usecases.verify_key import VerifyKey
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_protos.auth.v1 import auth_pb2_grpc

NAME = "auth"


def build(settings: AuthSettings, infra: Infra) -> Service:
    """The auth service; nothing is opened before its `start`."""
    clock = infra.clock
    database = infra.database(NAME)
    terms = SessionTerms(
        access=timedelta(seconds=settings.access_token_seconds),
        session=timedelta(seconds=settings.refresh_token_seconds),
        grace=timedelta(seconds=settings.refresh_grace_seconds),
    )
    accounts = SqlAccounts(database)
    sessions = SqlSessions(database)
    keys = SqlApiKeys(database)
    passwords = Argon2Passwords(
        memory_kib=settings.argon2_memory_kib,
        time_cost=settings.argon2_time_cost,
        parallelism=settings.argon2_parallelism,
        workers=settings.password_workers,
        queue=settings.password_queue,
    )
    signing = SigningKeys(database, clock, lambda: infra.secret("master"))
    issuing = TokenIssuing(signing, clock, terms)
    purge = Purge(database, clock, grace=terms.grace)

    auth_servicer = AuthServicer(
        register=Register(accounts, passwords, clock, open_registration=settings.open_registration),
        login=Login(accounts=accounts, sessions=sessions, passwords=passwords, issuing=issuing, clock=clock, terms=terms),
        refresh=Refresh(sessions, issuing, clock, terms),
        logout=Logout(sessions, clock),
        get_me=GetMe(accounts),
        list_revocations=ListRevocations(sessions, clock, terms),
        signer=signing,
    )
    key_servicer = ApiKeyServicer(
        create_key=CreateKey(accounts, keys, clock, max_live=settings.max_api_keys_per_user),
        list_keys=ListKeys(keys),
        revoke_key=RevokeKey(keys, clock),
        verify_key=VerifyKey(keys, clock),
    )

    def add_auth(server: grpc.aio.Server) -> None:
        auth_pb2_grpc.add_AuthServiceServicer_to_server(auth_servicer, server)

    def add_keys(server: grpc.aio.Server) -> None:
        auth_pb2_grpc.add_ApiKeyServiceServicer_to_server(key_servicer, server)

    async def start() -> None:
        await signing.load()
        await passwords.prepare()
        if token := await admin_token.issue_first(database, clock):
            infra.announce(f"One-time admin token: {token}")

    async def stop() -> None:
        passwords.close()

    return Service(
        name=NAME,
        rpc=(add_auth, add_keys),
        periodic=(Periodic("auth.purge", float(settings.purge_interval_seconds), purge.run),),
        checks={"database": database.ping},
        start=start,
        stop=stop,
        database=database,
        public_rpcs=PUBLIC_RPCS,
    )
