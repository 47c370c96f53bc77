from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiosmtpd.smtp import AuthResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydantic import ValidationError
from sqlalchemy import text

# Test modules are imported by path; what they share stands beside them.
sys.path.insert(0, str(Path(__file__).parent))

from mail_server import mailbox, send, settings_for

from wireroom_auth.domain.mail import MailKind, compose
from wireroom_auth.settings import AuthSettings
from wireroom_common.errors import WireroomError
from wireroom_protos.auth.v1 import auth_pb2

TOKEN = "wr_ot_" + "a" * 43


async def enqueue(auth: Any, to: str = "ada@example.org", kind: MailKind = MailKind.VERIFY, times: int = 1) -> None:
    """As the service does it: in a transaction of the tenant."""
    from wireroom_auth.adapters.encryption import Sealing  # noqa: PLC0415
    from wireroom_auth.adapters.mail_outbox import MailOutbox  # noqa: PLC0415

    outbox = MailOutbox(auth.clock, Sealing(lambda: auth.infra.secret("master")), configured=True)
    async with auth.database.system() as connection:
        tenant_id = await connection.scalar(text("SELECT tenant_id FROM tenants LIMIT 1"))
    async with auth.database.tenant(tenant_id) as connection:
        for _ in range(times):
            await outbox.enqueue(connection, tenant_id=tenant_id, user_id=None, to=to, kind=kind, data={"token": TOKEN})


async def rows(auth: Any) -> list[Any]:
    async with auth.database.system() as connection:
        found = await connection.execute(
            text("SELECT state, attempts, problem, content_sealed FROM mails ORDER BY created_at, id")
        )
        return list(found)


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's context for 127.0.0.1, and the file by which clients trust it."""
    import ipaddress  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = folder / "mail.pem", folder / "mail.key"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, private)
    return context, chain


async def test_a_mail_is_sent_once_and_forgotten(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        await enqueue(auth)
        await send(auth)
        await send(auth)
    (mail,) = box.mails
    assert box.envelopes == [("wireroom@example.org", ["ada@example.org"])]
    assert mail["from"] == "Wireroom <wireroom@example.org>"
    assert (mail["to"], mail["subject"]) == ("ada@example.org", "Confirm your e-mail address")
    assert mail["message-id"].endswith("@example.org>")
    assert mail["auto-submitted"] == "auto-generated"
    for kind in ("plain", "html"):
        body = mail.get_body((kind,))
        assert body is not None
        assert f"https://wireroom.example/auth/link#verify={TOKEN}" in body.get_content()
    assert [(row.state, row.content_sealed) for row in await rows(auth)] == [("sent", None)]


async def test_a_server_that_is_down_gets_the_mails_when_it_is_back(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        await box.close()
        await enqueue(auth, times=12)
        for _ in range(3):
            await send(auth)
            auth.clock.advance(60)
        waiting = await rows(auth)
        assert {row.state for row in waiting} == {"waiting"}
        # One failure postpones what was taken; nothing is tried in between.
        assert max(row.attempts for row in waiting) <= 3
        await box.open()
        auth.clock.advance(3600)
        await send(auth)
        await send(auth)
    assert len(box.mails) == 12
    assert len({mail["message-id"] for mail in box.mails}) == 12
    assert {row.state for row in await rows(auth)} == {"sent"}


async def test_several_senders_send_each_mail_once(make_auth: Any) -> None:
    async with mailbox() as box:
        replicas = [await make_auth(**settings_for(box)) for _ in range(3)]
        await enqueue(replicas[0], times=30)
        await asyncio.gather(*(send(replica) for replica in replicas))
    assert len(box.mails) == 30
    assert len({mail["message-id"] for mail in box.mails}) == 30


async def test_what_the_server_refuses_is_given_up_or_tried_again(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box, mail_attempts=3))
        box.refuse = "550 no such mailbox"
        await enqueue(auth)
        await send(auth)
        assert [(row.state, row.problem, row.content_sealed) for row in await rows(auth)] == [("given_up", "refused: 550", None)]
        box.refuse = "451 try later"
        await enqueue(auth)
        for _ in range(3):
            await send(auth)
            auth.clock.advance(3600)
        assert [(row.state, row.attempts) for row in await rows(auth)] == [("given_up", 1), ("given_up", 3)]
        box.refuse = ""
        # One that is refused does not hold up the next.
        await enqueue(auth, to="bob@example.org")
        await send(auth)
    assert [recipients for _, recipients in box.envelopes] == [["bob@example.org"]]


async def test_a_mail_that_comes_too_late_is_not_sent(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        await enqueue(auth)
        auth.clock.advance(86_400)
        await send(auth)
        assert box.mails == []
        assert [row.state for row in await rows(auth)] == ["given_up"]
        auth.clock.advance(31 * 86_400)
        await send(auth)
    assert await rows(auth) == []


# What the library of the server says of this way to set it up, and of itself.
@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
@pytest.mark.filterwarnings("ignore:Session.login_data is deprecated:DeprecationWarning")
@pytest.mark.parametrize("security", ["tls", "starttls"])
async def test_mail_travels_encrypted_to_a_server_that_is_trusted(make_auth: Any, tmp_path: Path, security: str) -> None:
    context, chain = certificate(tmp_path)

    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        return AuthResult(success=data.login == b"wireroom" and data.password == b"mail secret")

    options: dict[str, Any] = {"authenticator": check, "auth_required": True}
    if security == "tls":
        options |= {"tls": context, "auth_require_tls": False}
    else:
        options |= {"tls_context": context, "require_starttls": True}
    async with mailbox(**options) as box:
        login = {"smtp_security": security, "smtp_username": "wireroom", "smtp_password": "mail secret"}
        untrusting = await make_auth(**settings_for(box, **login))
        await enqueue(untrusting)
        await send(untrusting)
        assert box.mails == []
        assert [row.state for row in await rows(untrusting)] == ["waiting"]
        wrong = await make_auth(**settings_for(box, **{**login, "smtp_password": "x"}, smtp_ca_file=str(chain)))
        wrong.clock.advance(60)
        await send(wrong)
        assert box.mails == []
        auth = await make_auth(**settings_for(box, **login, smtp_ca_file=str(chain)))
        auth.clock.advance(3600)
        await send(auth)
    assert box.encrypted == [True]


async def test_a_server_without_encryption_gets_nothing(make_auth: Any) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box, smtp_security="starttls"))
        await enqueue(auth)
        await send(auth)
    assert box.mails == []
    assert [row.state for row in await rows(auth)] == ["waiting"]


@pytest.mark.parametrize(
    "to", ["a,b@example.org", "a;b@example.org", "<a>@example.org", '"a@example.org', "a@b@example.org", "@example.org"]
)
async def test_an_address_is_one_address(make_auth: Any, to: str) -> None:
    async with mailbox() as box:
        auth = await make_auth(**settings_for(box))
        await enqueue(auth, to=to)
        await enqueue(auth, to="grüße@example.org")
        await send(auth)
    assert [recipients for _, recipients in box.envelopes] == [["grüße@example.org"]]
    assert sorted(row.state for row in await rows(auth)) == ["given_up", "sent"]


@pytest.mark.parametrize("token", ["", "a", "a\r\nBcc: x@example.org", "<script>", "a b" * 20, "wr_ot_" + "é" * 30])
def test_only_tokens_stand_in_links(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        compose(MailKind.RESET, token=token, public_url="https://wireroom.example")


@pytest.mark.parametrize("kind", list(MailKind))
def test_links_hide_their_token_from_servers(kind: MailKind) -> None:
    found = compose(kind, token=TOKEN, public_url="https://wireroom.example")
    for text_of in (found.plain, found.html):
        before, _, after = text_of.partition(TOKEN)
        if after:
            link = before[before.rindex("https://") :]
            assert "#" in link
            assert "?" not in link


async def test_an_installation_without_mail_says_so(auth: Any, password: str) -> None:
    user = await auth.register_admin()
    assert not any(periodic.name == "auth.mail" for periodic in auth.service.periodic)
    for address in ("ada@example.org", "nobody@example.org"):
        with pytest.raises(WireroomError) as refused:
            await auth.call("/wireroom_protos.auth.v1.AuthService/StartReset", auth_pb2.StartResetRequest(email=address))
        assert refused.value.code == "mail_not_configured"
    async with auth.database.tenant(UUID(user.tenant_id)) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM mails")) == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"smtp_from": ""},
        {"smtp_from": "x\r\nBcc: y@example.org"},
        {"smtp_username": "u", "smtp_security": "none"},
        {"smtp_security": "maybe"},
    ],
)
def test_mail_settings_that_do_not_fit_together_are_refused(changes: dict[str, Any]) -> None:
    good: dict[str, Any] = {"smtp_host": "mail.example.org", "smtp_from": "wireroom@example.org"}
    assert AuthSettings(**good).smtp_security == "starttls"
    with pytest.raises(ValidationError):
        AuthSettings(**{**good, **changes})
