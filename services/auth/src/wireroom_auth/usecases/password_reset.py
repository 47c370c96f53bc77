"""Set a forgotten password by mail."""

from __future__ import annotations

from wireroom_auth.domain.identity import normalise_email
from wireroom_auth.domain.one_time_tokens import token_invalid
from wireroom_auth.errors import mail_not_configured
from wireroom_auth.ports.backoff import Backoff
from wireroom_auth.ports.cryptography import PasswordHashing
from wireroom_auth.ports.mailed_tokens import PasswordResets
from wireroom_common.errors import WireroomError


class StartReset:
    """Answers alike, after the same work, for every address: who has an account is found out later, by the sender of the mails."""

    def __init__(self, resets: PasswordResets) -> None:
        self._resets = resets

    async def run(self, email: str, client_ip: str) -> None:
        """CONFLICT `mail_not_configured`, for everybody."""
        if not self._resets.configured:
            raise mail_not_configured()
        try:
            normalised = normalise_email(email)
        except WireroomError:
            return  # Nobody has such an address.
        await self._resets.request(normalised, client_ip)


class FinishReset:
    """The token is spent only when the new password is acceptable."""

    def __init__(self, resets: PasswordResets, passwords: PasswordHashing, backoff: Backoff) -> None:
        self._resets = resets
        self._passwords = passwords
        self._backoff = backoff

    async def run(self, token: str, new_password: str) -> None:
        """INVALID `one_time_token_invalid`, or for a password that may not be chosen. All sessions of the user end."""
        user = await self._resets.account(token)
        if user is None:
            raise token_invalid("reset token")
        password_hash = await self._passwords.hash_new(new_password, email=user.email, name=user.name)
        if not await self._resets.finish(token, password_hash):
            raise token_invalid("reset token")
        # The way in for an owner at a new place while somebody keeps guessing: the mail has proven who it is.
        await self._backoff.forget(user.email, "")
