"""Composition root of the auth service."""

from __future__ import annotations

import secrets
from datetime import timedelta
from functools import partial

from wireroom_auth import admin_token
from wireroom_auth.adapters import one_time_tokens
from wireroom_auth.adapters.accounts_sql import SqlAccounts
from wireroom_auth.adapters.api_keys_sql import SqlApiKeys
from wireroom_auth.adapters.audit_sql import AuditKey, SqlAuditTrail
from wireroom_auth.adapters.backoff_sql import SqlBackoff
from wireroom_auth.adapters.blocks_sql import SqlBlocks
from wireroom_auth.adapters.encryption import Sealing
from wireroom_auth.adapters.invitations_sql import SqlInvitations
from wireroom_auth.adapters.mail_outbox import MailOutbox
from wireroom_auth.adapters.mail_sender import MailSender, MailServer
from wireroom_auth.adapters.mailed_tokens_sql import CONSUMER as MAILS_CONSUMER
from wireroom_auth.adapters.mailed_tokens_sql import SqlEmailVerification, SqlPasswordResets
from wireroom_auth.adapters.oidc_client import OidcClient
from wireroom_auth.adapters.oidc_sql import SqlIdentities, SqlOidcLogins
from wireroom_auth.adapters.password_hashing import Argon2Passwords
from wireroom_auth.adapters.passwords_sql import SqlPasswords
from wireroom_auth.adapters.purge import Purge
from wireroom_auth.adapters.roles_sql import SqlRoles
from wireroom_auth.adapters.second_factors_sql import SqlSecondFactors
from wireroom_auth.adapters.sessions_sql import SqlSessions
from wireroom_auth.adapters.signing_keys import SigningKeys
from wireroom_auth.adapters.tenants_sql import SqlTenants
from wireroom_auth.adapters.users_sql import SqlUsers
from wireroom_auth.domain.login_backoff import BackoffTerms
from wireroom_auth.domain.oidc import Provider
from wireroom_auth.domain.sessions import SessionTerms
from wireroom_auth.privacy_wiring import PrivacyWiring
from wireroom_auth.settings import AuthSettings
from wireroom_auth.transport import audit
from wireroom_auth.transport.addresses import AddressServicer
from wireroom_auth.transport.api_keys import ApiKeyServicer
from wireroom_auth.transport.directory import DirectoryServicer
from wireroom_auth.transport.grpc import PUBLIC_RPCS, AuthServicer
from wireroom_auth.transport.key_material import KeyMaterialServicer
from wireroom_auth.transport.mailed_tokens import MailedTokenUseCases
from wireroom_auth.transport.oidc import OidcServicer
from wireroom_auth.transport.privacy import PUBLIC_RPCS as PRIVACY_PUBLIC_RPCS
from wireroom_auth.transport.second_factor import SecondFactorServicer
from wireroom_auth.transport.sessions import SessionUseCases
from wireroom_auth.usecases.audit import QueryAudit, VerifyAudit, WatchAudit
from wireroom_auth.usecases.block_address import BlockAddress, LiftBlock, ListBlocks, PurgeBlocks
from wireroom_auth.usecases.change_password import ChangePassword
from wireroom_auth.usecases.create_key import CreateKey
from wireroom_auth.usecases.equalise_passwords import EqualisePasswords
from wireroom_auth.usecases.finish_login import FinishLogin
from wireroom_auth.usecases.get_key import GetKey
from wireroom_auth.usecases.get_me import GetMe
from wireroom_auth.usecases.issue_token import IssueToken
from wireroom_auth.usecases.key_terms import KeyTerms
from wireroom_auth.usecases.list_keys import ListKeys
from wireroom_auth.usecases.list_revocations import ListRevocations
from wireroom_auth.usecases.list_sessions import ListSessions
from wireroom_auth.usecases.login import Login
from wireroom_auth.usecases.logout import Logout, LogoutAll, RevokeSession
from wireroom_auth.usecases.manage_invitations import ManageInvitations
from wireroom_auth.usecases.manage_roles import ManageRoles
from wireroom_auth.usecases.manage_tenants import ManageTenants
from wireroom_auth.usecases.manage_users import ManageUsers
from wireroom_auth.usecases.oidc import ConfiguredProvider, FinishOidc, Providers, StartOidc
from wireroom_auth.usecases.password_proof import PasswordProof
from wireroom_auth.usecases.password_reset import FinishReset, StartReset
from wireroom_auth.usecases.refresh import Refresh
from wireroom_auth.usecases.register import Register
from wireroom_auth.usecases.revoke_key import RevokeKey
from wireroom_auth.usecases.rotate_key import RotateKey
from wireroom_auth.usecases.rotate_signing_key import RotateSigningKey
from wireroom_auth.usecases.second_factor import ConfirmTotp, DisableTotp, EnrollTotp, GetSecondFactor
from wireroom_auth.usecases.session_opening import SessionOpening
from wireroom_auth.usecases.token_issuing import TokenIssuing
from wireroom_auth.usecases.update_key import UpdateKey
from wireroom_auth.usecases.update_me import UpdateMe
from wireroom_auth.usecases.verify_email import SendVerification, VerifyEmail
from wireroom_auth.usecases.verify_key import VerifyKey
from wireroom_common.bus import Subscription
from wireroom_common.db import Database
from wireroom_common.runtime.service import Infra, Periodic, Service
from wireroom_protos.auth.v1 import auth_pb2_grpc

NAME = "auth"
# A replica that missed a rotation signs with the old key no longer than this.
SIGNING_KEYS_EVERY = 30.0


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
    sealing = Sealing(lambda: infra.secret("master"))
    keys = SqlApiKeys(database, sealing)
    passwords = Argon2Passwords(
        memory_kib=settings.argon2_memory_kib,
        time_cost=settings.argon2_time_cost,
        parallelism=settings.argon2_parallelism,
        workers=settings.password_workers,
        queue=settings.password_queue,
    )
    mail = MailOutbox(clock, sealing, configured=bool(settings.smtp_host))
    invitations = SqlInvitations(database, clock, mail)
    resets = SqlPasswordResets(database, clock, mail)
    verification = SqlEmailVerification(database, clock, mail)
    factors = SqlSecondFactors(database, clock, sealing)
    signing = SigningKeys(
        database, clock, sealing, token_life=terms.access, rotate_after=timedelta(days=settings.signing_key_days)
    )
    issuing = TokenIssuing(signing, clock, terms)
    purge = Purge(database, clock, access=terms.access, grace=terms.grace)
    stored_passwords = SqlPasswords(database)
    backoff = SqlBackoff(
        database,
        account=BackoffTerms(free=settings.login_failures_account),
        network=BackoffTerms(free=settings.login_failures_network, memory=timedelta(hours=1)),
    )
    opening = SessionOpening(sessions=sessions, backoff=backoff, issuing=issuing, clock=clock, terms=terms)
    proof = PasswordProof(stored_passwords, passwords, backoff)
    equalise = EqualisePasswords(stored_passwords, passwords)
    session_use_cases = SessionUseCases(
        login=Login(
            accounts=accounts,
            sessions=sessions,
            passwords=stored_passwords,
            hashing=passwords,
            backoff=backoff,
            second_factors=factors,
            opening=opening,
        ),
        refresh=Refresh(sessions, issuing, clock, terms),
        logout=Logout(sessions, clock),
        logout_all=LogoutAll(sessions, clock),
        list_sessions=ListSessions(sessions, clock),
        revoke_session=RevokeSession(sessions, clock),
        change_password=ChangePassword(
            passwords=stored_passwords, hashing=passwords, backoff=backoff, issuing=issuing, clock=clock
        ),
        update_me=UpdateMe(accounts, stored_passwords),
    )

    auth_servicer = AuthServicer(
        register=Register(accounts, invitations, passwords, clock, open_registration=settings.open_registration),
        sessions=session_use_cases,
        get_me=GetMe(accounts),
        list_revocations=ListRevocations(sessions, clock, terms),
        signer=signing,
        issue_token=IssueToken(keys, signing, clock, lifetime=timedelta(seconds=settings.client_token_seconds)),
        mailed_tokens=MailedTokenUseCases(
            start_reset=StartReset(resets),
            finish_reset=FinishReset(resets, passwords, backoff),
            send_verification=SendVerification(verification, proof),
            verify_email=VerifyEmail(verification, accounts),
        ),
    )
    factor_servicer = SecondFactorServicer(
        enroll=EnrollTotp(factors, proof, infra.public_url),
        confirm=ConfirmTotp(factors, proof),
        disable=DisableTotp(factors, proof),
        get=GetSecondFactor(factors, proof),
        finish_login=FinishLogin(factors=factors, sessions=sessions, backoff=backoff, opening=opening),
    )

    oidc_logins = SqlOidcLogins(database, clock, sealing)
    providers = Providers(_identity_providers(settings, infra), infra.public_url)
    oidc_servicer = OidcServicer(
        providers=providers,
        start=StartOidc(providers, oidc_logins),
        finish=FinishOidc(
            providers=providers,
            logins=oidc_logins,
            identities=SqlIdentities(database, accounts, clock),
            sessions=sessions,
            second_factors=factors,
            opening=opening,
        ),
    )

    key_terms = KeyTerms(accounts, settings.key_limit_ceiling)
    key_servicer = ApiKeyServicer(
        create_key=CreateKey(key_terms, keys, clock, max_live=settings.max_api_keys_per_user),
        list_keys=ListKeys(keys),
        get_key=GetKey(keys),
        update_key=UpdateKey(key_terms, keys),
        rotate_key=RotateKey(key_terms, keys, clock),
        revoke_key=RevokeKey(keys, clock),
        verify_key=VerifyKey(keys, clock),
        clock=clock,
    )
    material_servicer = KeyMaterialServicer(RotateSigningKey(signing))

    audit_key = AuditKey(database, clock, lambda: infra.secret("master"), secrets.token_bytes)
    trail = SqlAuditTrail(database)
    chaining = audit.Chaining(audit_key.value)
    verify_audit = VerifyAudit(trail, audit_key.value)
    watch_audit = WatchAudit(trail, verify_audit, clock, every=timedelta(seconds=settings.audit_verify_seconds))
    audit_servicer = audit.AuditServicer(QueryAudit(trail), verify_audit)

    blocks = SqlBlocks(database)
    address_servicer = AddressServicer(BlockAddress(blocks, clock), ListBlocks(blocks, clock), LiftBlock(blocks, clock))

    privacy = PrivacyWiring(settings, infra, database, proof=proof, factors=factors, trail=trail)

    directory_servicer = DirectoryServicer(
        users=ManageUsers(SqlUsers(database, mail), accounts, passwords, clock, privacy.orders),
        roles=ManageRoles(SqlRoles(database), clock, max_roles=settings.max_roles_per_tenant),
        invitations=ManageInvitations(invitations, accounts, clock, max_pending=settings.max_pending_invitations),
        tenants=ManageTenants(SqlTenants(database), accounts, clock),
    )

    async def start() -> None:
        await signing.load()
        await audit_key.load()
        await privacy.start()
        await equalise.run()
        if token := await admin_token.issue_first(database, clock):
            infra.announce(f"One-time admin token: {token}")

    async def stop() -> None:
        passwords.close()

    return Service(
        name=NAME,
        rpc=(
            partial(auth_pb2_grpc.add_AuthServiceServicer_to_server, auth_servicer),
            partial(auth_pb2_grpc.add_DirectoryServiceServicer_to_server, directory_servicer),
            partial(auth_pb2_grpc.add_SecondFactorServiceServicer_to_server, factor_servicer),
            partial(auth_pb2_grpc.add_OidcServiceServicer_to_server, oidc_servicer),
            partial(auth_pb2_grpc.add_ApiKeyServiceServicer_to_server, key_servicer),
            partial(auth_pb2_grpc.add_KeyMaterialServiceServicer_to_server, material_servicer),
            partial(auth_pb2_grpc.add_AddressServiceServicer_to_server, address_servicer),
            partial(auth_pb2_grpc.add_AuditServiceServicer_to_server, audit_servicer),
            privacy.rpc,
        ),
        subscriptions=(
            Subscription("auth.signing_keys", broadcast=signing.on_event, types=frozenset({"auth.signing_key.rotated"})),
            Subscription(MAILS_CONSUMER, work=verification.on_event, database=database),
            Subscription(audit.CONSUMER, work=chaining.on_event, database=database, as_system=True),
            privacy.subscription,
        ),
        periodic=(
            Periodic("auth.signing_keys", SIGNING_KEYS_EVERY, signing.maintain),
            Periodic("auth.password_kinds", 300.0, equalise.run),
            Periodic("auth.invitations.purge", float(settings.purge_interval_seconds), invitations.purge),
            Periodic("auth.purge", float(settings.purge_interval_seconds), purge.run),
            Periodic("auth.oidc.purge", float(settings.purge_interval_seconds), oidc_logins.purge),
            Periodic(
                "auth.one_time_tokens.purge",
                float(settings.purge_interval_seconds),
                partial(one_time_tokens.purge, database, clock),
            ),
            *_mail_sending(settings, infra, database, mail, resets),
            Periodic("auth.audit.watch", 60.0, watch_audit.run),
            privacy.periodic,
            Periodic("auth.blocks.purge", float(settings.purge_interval_seconds), PurgeBlocks(blocks, clock).run),
        ),
        checks={"database": database.ping},
        start=start,
        stop=stop,
        database=database,
        public_rpcs=PUBLIC_RPCS | PRIVACY_PUBLIC_RPCS,
    )


def _mail_sending(
    settings: AuthSettings, infra: Infra, database: Database, mail: MailOutbox, resets: SqlPasswordResets
) -> tuple[Periodic, ...]:
    if not mail.configured:
        return ()
    server = MailServer(
        host=settings.smtp_host,
        port=settings.smtp_port,
        security=settings.smtp_security,
        sender=settings.smtp_from,
        username=settings.smtp_username,
        password=settings.smtp_password.get_secret_value(),
        ca_file=settings.smtp_ca_file,
        timeout=settings.smtp_timeout_seconds,
    )
    sender = MailSender(
        database,
        mail,
        server,
        infra.clock,
        infra.registry,
        public_url=infra.public_url,
        max_attempts=settings.mail_attempts,
        before=resets.answer_requests,
    )
    return (Periodic("auth.mail", settings.mail_interval_seconds, sender.run),)


def _identity_providers(settings: AuthSettings, infra: Infra) -> dict[str, ConfiguredProvider]:
    found: dict[str, ConfiguredProvider] = {}
    for entry in settings.oidc_providers:
        provider = Provider(
            name=entry.name,
            title=entry.title or entry.name,
            issuer=entry.issuer,
            client_id=entry.client_id,
            client_secret=entry.client_secret.get_secret_value(),
            scopes=entry.scopes,
            email_domains=frozenset(entry.email_domains),
            trusted=entry.trusted,
            tenant=entry.tenant,
            roles=entry.roles,
            create_users=entry.create_users,
            second_factor=entry.second_factor,
        )
        client = OidcClient(provider, infra.clock, timeout=settings.oidc_timeout_seconds)
        found[provider.name] = ConfiguredProvider(provider, client)
    return found
