"""A person confirms the address, switches a second factor on, forgets the password, and gets in again, by mail."""

from __future__ import annotations

import base64
import email
import email.policy
import re
import time
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from api import Api
from conftest import EMAIL, PASSWORD, sign_up
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from harness import Deployment, deploy, free_port

NEW_PASSWORD = "seven lamps on a quiet hill"


class Inbox:
    """Keeps what a real SMTP server was given."""

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - the library's name
        message = email.message_from_bytes(envelope.content, policy=email.policy.SMTP)
        self.texts.append((str(message["subject"]), message.get_body(("plain",)).get_content()))
        return "250 OK"

    def wait_for(self, subject: str) -> str:
        """The text of the mail with this subject."""
        limit = time.monotonic() + 60
        while True:
            for found, text in self.texts:
                if found == subject:
                    return text
            assert time.monotonic() < limit, f"no mail '{subject}' among {[found for found, _ in self.texts]}"
            time.sleep(0.05)


def token_in(text: str) -> str:
    found = re.search(r"/auth/link#[a-z]+=([A-Za-z0-9_-]+)", text)
    assert found is not None
    return found[1]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("deployment", Deployment, ids=lambda deployment: deployment.value)
def test_mail_and_second_factor_lead_back_in(deployment: Deployment) -> None:
    inbox, port = Inbox(), free_port()
    server = Controller(inbox, hostname="127.0.0.1", port=port)
    server.start()
    settings = {
        "WIREROOM_GATEWAY_LIMITS_ENABLED": "false",
        "WIREROOM_AUTH_SMTP_HOST": "127.0.0.1",
        "WIREROOM_AUTH_SMTP_PORT": str(port),
        "WIREROOM_AUTH_SMTP_SECURITY": "none",
        "WIREROOM_AUTH_SMTP_FROM": "wireroom@example.org",
        "WIREROOM_AUTH_MAIL_INTERVAL_SECONDS": "0.2",
    }
    try:
        with deploy(deployment, settings) as running:
            sign_up(running)
            anonymous = Api(running.base_url)
            signed_in = anonymous.post("/auth/login", {"email": EMAIL, "password": PASSWORD})
            api = Api(running.base_url, signed_in["access_token"])
            verified = anonymous.post("/auth/email/verify", {"token": token_in(inbox.wait_for("Welcome to Wireroom"))})
            assert verified["email_verified_at"] is not None

            enrolled = api.post("/auth/mfa/totp/enroll", {"password": PASSWORD})
            key = base64.b32decode(enrolled["secret"] + "=" * (-len(enrolled["secret"]) % 8))
            code = TOTP(key, 6, SHA1(), 30).generate(int(time.time())).decode()  # noqa: S303 - RFC 6238
            codes = api.post("/auth/mfa/totp/verify", {"code": code})["recovery_codes"]
            inbox.wait_for("Your second factor was changed")

            anonymous.post("/auth/password/forgot", {"email": EMAIL})
            reset = {"token": token_in(inbox.wait_for("Set a new password")), "new_password": NEW_PASSWORD}
            assert anonymous.call("POST", "/auth/password/reset", reset).status == 204
            inbox.wait_for("Your password was changed")
            assert anonymous.call("POST", "/auth/login", {"email": EMAIL, "password": PASSWORD}).status == 401
            first = anonymous.post("/auth/login", {"email": EMAIL, "password": NEW_PASSWORD})
            assert first["mfa_required"] is True
            answer = anonymous.post("/auth/login/mfa", {"mfa_token": first["mfa_token"], "code": codes[0]})
            assert Api(running.base_url, answer["access_token"]).call("GET", "/auth/me").status == 200
    finally:
        server.stop()
