"""Exchange e-mail address and password for tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

from wireroom_auth.domain.credentials import hex_digest_or_empty, new_refresh_token
from wireroom_auth.domain.identity import Account, User, has_control_characters, normalise_email
from wireroom_auth.domain.sessions import IssuedTokens, Session, SessionTerms
from wireroom_auth.errors import invalid_credentials
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_auth.ports.sessions import Client, Sessions
from wireroom_auth.usecases.token_issuing import TokenIssuing
from wireroom_common.clock import Clock
from wireroom_common.errors import WireroomError
from wireroom_common.ids import new_id

_LONGEST_ADDRESS = 64


@dataclass(frozen=True)
class Attempt:
    """What a person sends, and from where."""

    email: str
    password: str = field(repr=False)
    client_ip: str = ""
    user_agent: str = ""


class Login:
    """Unknown address, wrong password and disabled account look alike, in answer and in time."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        sessions: Sessions,
        passwords: PasswordHashing,
        issuing: TokenIssuing,
        clock: Clock,
        terms: SessionTerms,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._issuing = issuing
        self._clock = clock
        self._terms = terms

    async def run(self, attempt: Attempt) -> tuple[IssuedTokens, User]:
        """Tokens of a new session and the user; UNAUTHENTICATED `invalid_credentials`."""
        client = Client(_address(attempt.client_ip), hex_digest_or_empty(attempt.user_agent))
        account = await self._find(attempt.email)
        fits = await self._passwords.verify(attempt.password, account.password_hash if account else None)
        if account is None:
            await self._sessions.record_failed_login(None, client, "unknown_user")
            raise invalid_credentials()
        if not fits or account.user.disabled_at is not None:
            await self._sessions.record_failed_login(account, client, "disabled" if fits else "wrong_password")
            raise invalid_credentials()
        now = self._clock.now()
        session = Session(
            id=new_id(),
            tenant_id=account.user.tenant_id,
            user_id=account.user.id,
            created_at=now,
            expires_at=now + self._terms.session,
        )
        refresh_token = new_refresh_token()
        if not await self._sessions.open(account, session, refresh_token, client):
            await self._sessions.record_failed_login(account, client, "changed_meanwhile")
            raise invalid_credentials()
        return self._issuing.issue(account.user, session, refresh_token), account.user

    async def _find(self, email: str) -> Account | None:
        try:
            normalised = normalise_email(email)
        except WireroomError:
            return None  # Nobody has such an address: unknown, like any other.
        return await self._accounts.by_email(normalised)


def _address(text: str) -> str:
    return "" if len(text) > _LONGEST_ADDRESS or has_control_characters(text) else text
