"""Sends waiting mails over SMTP."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8

import aiosmtplib
from prometheus_client import CollectorRegistry, Counter

from wireroom_auth.adapters.mail_outbox import MailOutbox, WaitingMail
from wireroom_auth.domain.mail import compose
from wireroom_common.clock import Clock
from wireroom_common.db import Database
from wireroom_common.logging import get_logger

_BATCH = 10
_BATCHES_PER_RUN = 20
_PERMANENT = 500
_log = get_logger(__name__)


@dataclass(frozen=True)
class MailServer:
    """Where mails go and whom they come from. `security`: starttls, tls or none. Seconds per answer."""

    host: str
    port: int
    security: str
    sender: str
    username: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""
    timeout: float = 20.0


class MailSender:
    """At least once: a mail whose acceptance was not noted (a crash between the two) goes again under the same Message-ID."""

    def __init__(
        self,
        database: Database,
        outbox: MailOutbox,
        server: MailServer,
        clock: Clock,
        registry: CollectorRegistry,
        *,
        public_url: Callable[[], str],
        max_attempts: int,
        before: Callable[[], Awaitable[None]],
    ) -> None:
        """`before` runs first in each round: it writes the mails that were asked for by strangers."""
        self._database = database
        self._outbox = outbox
        self._server = server
        self._clock = clock
        self._public_url = public_url
        self._max_attempts = max_attempts
        self._before = before
        self._outcomes = Counter(
            "wireroom_auth_mails_total", "Mails by what became of them.", ["kind", "outcome"], registry=registry
        )

    async def run(self) -> None:
        """One round; safe on several replicas at once."""
        await self._before()
        for _ in range(_BATCHES_PER_RUN):
            # Three answers of the server per mail, and a margin: nobody else takes a mail that is still being sent.
            lease = (_BATCH + 1) * 4 * self._server.timeout
            mails = await self._outbox.lease(self._database, limit=_BATCH, seconds=lease)
            if not mails:
                break
            if not await self._send(mails):
                break
        await self._outbox.purge(self._database)

    async def _send(self, mails: list[WaitingMail]) -> bool:
        """False when the server is not there: the other mails then wait, too."""
        left = list(mails)
        try:
            async with self._connected() as client:
                while left:
                    await self._send_one(client, left[0])
                    left.pop(0)
        except (aiosmtplib.SMTPException, OSError, TimeoutError) as error:
            # Addresses stand in the server's answers: the log and the row tell the kind of failure only.
            problem = type(error).__name__
            _log.warning("mail_server_failed", error=problem, mails=len(left))
            for mail in left:
                await self._failed(mail, problem)
            return False
        return True

    async def _send_one(self, client: aiosmtplib.SMTP, mail: WaitingMail) -> None:
        try:
            message = self._message(mail)
        except (ValueError, IndexError, MessageError) as error:
            # Whatever the parser of addresses makes of it: one mail must not hold up the others.
            await self._give_up(mail, f"refused: {type(error).__name__}")
            return
        try:
            async with asyncio.timeout(4 * self._server.timeout):
                await client.send_message(message, sender=self._server.sender, recipients=[mail.to])
        except (aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPResponseException) as error:
            code = _code(error)
            if code >= _PERMANENT:
                await self._give_up(mail, f"refused: {code}")
            else:
                await self._failed(mail, f"deferred: {code}")
            if client.is_connected:
                with contextlib.suppress(aiosmtplib.SMTPException):
                    await client.rset()
            return
        except aiosmtplib.SMTPNotSupported:
            await self._give_up(mail, "refused: the server takes no such address")
            return
        await self._outbox.finish(self._database, mail)
        self._count(mail, "sent")

    async def _failed(self, mail: WaitingMail, problem: str) -> None:
        if mail.attempts >= self._max_attempts:
            await self._give_up(mail, problem)
        else:
            await self._outbox.postpone(self._database, mail, problem=problem)
            self._count(mail, "postponed")

    async def _give_up(self, mail: WaitingMail, problem: str) -> None:
        await self._outbox.finish(self._database, mail, problem=problem)
        self._count(mail, "given_up")
        _log.error("mail_given_up", mail_id=str(mail.id), kind=mail.kind.value, problem=problem)

    def _count(self, mail: WaitingMail, outcome: str) -> None:
        self._outcomes.labels(mail.kind.value, outcome).inc()

    def _message(self, mail: WaitingMail) -> EmailMessage:
        """ValueError, IndexError or MessageError for an address that cannot stand in a header."""
        content = compose(mail.kind, token=mail.token, public_url=self._public_url())
        message = EmailMessage(policy=SMTP if mail.to.isascii() else SMTPUTF8)
        # One address each, parsed as such: no list, no second header.
        message["From"] = Address(display_name="Wireroom", addr_spec=self._server.sender)
        message["To"] = _one_address(mail.to)
        message["Subject"] = content.subject
        message["Date"] = self._clock.now()
        message["Message-ID"] = f"<{mail.id}@{self._server.sender.rpartition('@')[2]}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(content.plain)
        message.add_alternative(content.html, subtype="html")
        return message

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[aiosmtplib.SMTP]:
        server = self._server
        client = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            timeout=server.timeout,
            use_tls=server.security == "tls",
            start_tls=server.security == "starttls",
            tls_context=None if server.security == "none" else ssl.create_default_context(cafile=server.ca_file or None),
            username=server.username or None,
            password=server.password if server.username else None,
        )
        try:
            await client.connect()
            yield client
            with contextlib.suppress(aiosmtplib.SMTPException, OSError):
                await client.quit()
        finally:
            client.close()


def _code(error: aiosmtplib.SMTPRecipientsRefused | aiosmtplib.SMTPResponseException) -> int:
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return max((refused.code for refused in error.recipients), default=_PERMANENT)
    return error.code


def _one_address(text: str) -> Address:
    """The address, if it is exactly one; its form is checked on a copy in ASCII, which is all that the library parses."""
    Address(addr_spec="".join(character if character.isascii() else "x" for character in text))
    local, _, domain = text.rpartition("@")
    return Address(username=local, domain=domain)
