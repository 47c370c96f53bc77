"""A person confirms the address, switches a second factor on, forgets the password, and gets in again, by mail."""

from __future__ import annotations

import base64
import re
import time

from api import Api
from conftest import PASSWORD, Installation
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP
from inbox import Inbox

NEW_PASSWORD = "seven lamps on a quiet hill"


def token_in(text: str) -> str:
    found = re.search(r"/auth/link#[a-z]+=([A-Za-z0-9_-]+)", text)
    assert found is not None
    return found[1]


def test_mail_and_second_factor_lead_back_in(served: Installation, inbox: Inbox) -> None:
    anonymous, email = served.anonymous, f"mia@{served.running.deployment.value}.example.com"
    anonymous.post("/auth/register", {"email": email, "password": PASSWORD})
    signed_in = anonymous.post("/auth/login", {"email": email, "password": PASSWORD})
    api = Api(anonymous.base_url, signed_in["access_token"])
    verified = anonymous.post("/auth/email/verify", {"token": token_in(inbox.wait_for(email, "Welcome to Wireroom"))})
    assert verified["email_verified_at"] is not None

    enrolled = api.post("/auth/mfa/totp/enroll", {"password": PASSWORD})
    key = base64.b32decode(enrolled["secret"] + "=" * (-len(enrolled["secret"]) % 8))
    code = TOTP(key, 6, SHA1(), 30).generate(int(time.time())).decode()  # noqa: S303 - RFC 6238
    codes = api.post("/auth/mfa/totp/verify", {"code": code})["recovery_codes"]
    inbox.wait_for(email, "Your second factor was changed")

    anonymous.post("/auth/password/forgot", {"email": email})
    reset = {"token": token_in(inbox.wait_for(email, "Set a new password")), "new_password": NEW_PASSWORD}
    assert anonymous.call("POST", "/auth/password/reset", reset).status == 204
    inbox.wait_for(email, "Your password was changed")
    assert anonymous.call("POST", "/auth/login", {"email": email, "password": PASSWORD}).status == 401
    first = anonymous.post("/auth/login", {"email": email, "password": NEW_PASSWORD})
    assert first["mfa_required"] is True
    answer = anonymous.post("/auth/login/mfa", {"mfa_token": first["mfa_token"], "code": codes[0]})
    assert Api(anonymous.base_url, answer["access_token"]).call("GET", "/auth/me").status == 200
