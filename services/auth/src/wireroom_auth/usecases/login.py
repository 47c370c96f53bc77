"""Exchange e-mail address and password for tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from wireroom_auth.domain.identity import Account, User, has_control_characters, normalise_email
from wireroom_auth.domain.sessions import IssuedTokens
from wireroom_auth.errors import invalid_credentials
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.backoff import Backoff
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_auth.ports.passwords import Passwords
from wireroom_auth.ports.second_factors import Challenge, SecondFactors
from wireroom_auth.ports.sessions import Client, Sessions
from wireroom_auth.usecases.session_opening import SessionOpening
from wireroom_common.errors import ErrorKind, WireroomError

_LONGEST_ADDRESS = 64
_LONGEST_EMAIL = 320
_LONGEST_USER_AGENT = 300


@dataclass(frozen=True)
class Attempt:
    """What a person sends, and from where."""

    email: str
    password: str = field(repr=False)
    client_ip: str = ""
    user_agent: str = ""


class Login:
    """Unknown address, wrong password and disabled account look alike, in answer, in time, and in the delays that failures bring."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        sessions: Sessions,
        passwords: Passwords,
        hashing: PasswordHashing,
        backoff: Backoff,
        second_factors: SecondFactors,
        opening: SessionOpening,
    ) -> None:
        self._accounts = accounts
        self._sessions = sessions
        self._passwords = passwords
        self._hashing = hashing
        self._backoff = backoff
        self._second_factors = second_factors
        self._opening = opening

    async def run(self, attempt: Attempt) -> tuple[IssuedTokens | Challenge, User]:
        """Tokens of a new session, or what is needed for the second step; and the user.

        UNAUTHENTICATED `invalid_credentials`; RATE_LIMITED `login_backoff` while a delay is running, whatever the password is.
        """
        client = client_of(attempt.client_ip, attempt.user_agent)
        email = counted_email(attempt.email)
        await self._backoff.check(email, client.ip)
        account = await self._find(attempt.email)
        usable = account is not None and account.user.disabled_at is None
        fits = await self._hashing.verify(attempt.password, account.password_hash if account else None, usable=usable)
        await self._backoff.settle(email, client.ip, failed=not (fits and usable))
        if account is None:
            return await self._refuse(None, client, "unknown_user")
        if not fits or not usable:
            return await self._refuse(account, client, "disabled" if fits else "wrong_password")
        account = await self._upgraded(account, attempt.password)
        challenge = await self._second_factors.challenge(account.user)
        if challenge is not None:
            return challenge, account.user
        opened = await self._opening.open(account, client, ("password",))
        return opened or await self._refuse(account, client, "changed_meanwhile")

    async def _refuse(self, account: Account | None, client: Client, reason: str) -> tuple[IssuedTokens, User]:
        await self._sessions.record_failed_login(account, client, reason)
        raise invalid_credentials()

    async def _upgraded(self, account: Account, password: str) -> Account:
        """The account with its hash made anew, if it is of another kind than hashes are now."""
        if account.password_hash is None or self._hashing.is_current(account.password_hash):
            return account
        try:
            fresh = await self._hashing.hash(password)
        except WireroomError as error:
            if error.kind is not ErrorKind.UNAVAILABLE:
                raise
            return account  # Too busy: the next login will do.
        return replace(account, password_hash=fresh) if await self._passwords.upgrade(account, fresh) else account

    async def _find(self, email: str) -> Account | None:
        try:
            normalised = normalise_email(email)
        except WireroomError:
            return None  # Nobody has such an address: unknown, like any other.
        return await self._accounts.by_email(normalised)


def client_of(client_ip: str, user_agent: str) -> Client:
    """The client as it is stored: nothing over-long, no control characters."""
    usable = len(client_ip) <= _LONGEST_ADDRESS and not has_control_characters(client_ip)
    agent = "".join(c for c in user_agent[:_LONGEST_USER_AGENT] if not has_control_characters(c)).strip()
    return Client(client_ip if usable else "", agent)


def counted_email(email: str) -> str:
    """What failures are counted under: the normalised address, or as much as there is of what is none."""
    try:
        return normalise_email(email)
    except WireroomError:
        return email[:_LONGEST_EMAIL].strip().lower()
