"""A real SMTP server for tests, and the settings that send mail to it."""

from __future__ import annotations

import asyncio
import email
import email.policy
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from typing import Any, cast

from aiosmtpd.smtp import SMTP


class Mailbox:
    """A real SMTP server on a port of its own; `refuse` answers recipients with a status instead of taking the mail."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.encrypted: list[bool] = []
        self.refuse = ""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._options: dict[str, Any] = {}
        self._tls: ssl.SSLContext | None = None

    async def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: Any) -> str:  # noqa: N802 - the library's name
        if self.refuse:
            return self.refuse
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        parsed = email.message_from_bytes(envelope.content, policy=email.policy.SMTP)
        self.mails.append(cast("EmailMessage", parsed))
        self.envelopes.append((envelope.mail_from, envelope.rcpt_tos))
        self.encrypted.append(session.ssl is not None or self._tls is not None)
        return "250 OK"

    async def open(self, *, tls: ssl.SSLContext | None = None, **options: Any) -> None:
        self._tls, self._options = tls, options
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: SMTP(self, hostname="mail.test", enable_SMTPUTF8=True, loop=loop, **options), "127.0.0.1", self.port, ssl=tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    def token(self, index: int = -1) -> str:
        body = self.mails[index].get_body(("plain",))
        assert body is not None
        return body.get_content().split("#")[1].split("=")[1].split()[0]


@asynccontextmanager
async def mailbox(**options: Any) -> AsyncIterator[Mailbox]:
    box = Mailbox()
    await box.open(**options)
    try:
        yield box
    finally:
        await box.close()


def settings_for(box: Mailbox, **changes: Any) -> dict[str, Any]:
    return {
        "smtp_host": "127.0.0.1",
        "smtp_port": box.port,
        "smtp_security": "none",
        "smtp_from": "wireroom@example.org",
        "smtp_timeout_seconds": 5.0,
        **changes,
    }


async def send(auth: Any) -> None:
    """One round of the sender."""
    (work,) = [periodic for periodic in auth.service.periodic if periodic.name == "auth.mail"]
    await work.run()
