"""A real mail server that keeps what it is given."""

from __future__ import annotations

import contextlib
import email
import email.policy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aiosmtpd.controller import Controller
from harness import free_port


@dataclass(frozen=True)
class Mail:
    recipient: str
    subject: str
    text: str


class Inbox:
    """Of everybody."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._mails: list[Mail] = []

    @classmethod
    @contextlib.contextmanager
    def receiving(cls) -> Iterator[Inbox]:
        """One that takes mail on a port of its own."""
        inbox = cls(free_port())
        server = Controller(inbox, hostname="127.0.0.1", port=inbox._port)
        server.start()
        try:
            yield inbox
        finally:
            server.stop()

    def settings(self) -> dict[str, str]:
        """What the auth service needs to send mail here."""
        return {
            "WIREROOM_AUTH_SMTP_HOST": "127.0.0.1",
            "WIREROOM_AUTH_SMTP_PORT": str(self._port),
            "WIREROOM_AUTH_SMTP_SECURITY": "none",
            "WIREROOM_AUTH_SMTP_FROM": "wireroom@example.org",
        }

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        message = email.message_from_bytes(envelope.content, policy=email.policy.SMTP)
        body = message.get_body(("plain",))
        assert body is not None
        self._mails += [Mail(recipient, str(message["subject"]), body.get_content()) for recipient in envelope.rcpt_tos]
        return "250 OK"

    def wait_for(self, recipient: str, subject: str) -> str:
        """The text of the mail with this subject."""
        limit = time.monotonic() + 60
        while True:
            for mail in self._mails:
                if (mail.recipient, mail.subject) == (recipient, subject):
                    return mail.text
            assert time.monotonic() < limit, f"no mail '{subject}' to {recipient} among {self._mails}"
            time.sleep(0.05)
