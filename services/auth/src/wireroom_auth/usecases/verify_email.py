"""Prove that an e-mail address belongs to its account."""

from __future__ import annotations

from wireroom_auth.domain.identity import User
from wireroom_auth.domain.one_time_tokens import token_invalid
from wireroom_auth.errors import account_unavailable, mail_not_configured
from wireroom_auth.ports.accounts import Accounts
from wireroom_auth.ports.mailed_tokens import EmailVerification
from wireroom_auth.usecases.password_proof import PasswordProof
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import Principal


class SendVerification:
    """Sends the mail again."""

    def __init__(self, verification: EmailVerification, proof: PasswordProof) -> None:
        self._verification = verification
        self._proof = proof

    async def run(self, caller: Principal) -> None:
        """CONFLICT `mail_not_configured` or `email_already_verified`; RATE_LIMITED `verification_mails_limited`."""
        if not self._verification.configured:
            raise mail_not_configured()
        user = await self._proof.user(caller)
        if user.email_verified_at is not None:
            raise WireroomError(ErrorKind.CONFLICT, "email_already_verified", "The e-mail address is verified already.")
        if not await self._verification.send(user):
            raise WireroomError(
                ErrorKind.RATE_LIMITED,
                "verification_mails_limited",
                "Several of these mails were sent in the last hour; look into your spam folder, or try again later.",
                retry_after=3600,
            )


class VerifyEmail:
    """Needs no login: whoever holds the token reads the mail."""

    def __init__(self, verification: EmailVerification, accounts: Accounts) -> None:
        self._verification = verification
        self._accounts = accounts

    async def run(self, token: str) -> User:
        """The user; INVALID `one_time_token_invalid`."""
        verified = await self._verification.verify(token)
        if verified is None:
            raise token_invalid("verification token")
        user = await self._accounts.get(*verified)
        if user is None:
            raise account_unavailable()
        return user
