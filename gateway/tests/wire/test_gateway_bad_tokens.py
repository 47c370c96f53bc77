from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from gateway_rig import Rig
from gateway_tokens import Issuer, b64

ROUTE = "/api/v1/documents"
Forge = Callable[[Issuer], str]
NOW = int(time.time())


def _payload(issuer: Issuer, **changes: Any) -> bytes:
    return json.dumps(issuer.claims("docs:read", **changes)).encode()


def _hs256_with_public_key(issuer: Issuer) -> str:
    signed = f"{b64(json.dumps(issuer.header(alg='HS256')).encode())}.{b64(_payload(issuer))}"
    return f"{signed}.{b64(hmac.new(issuer.public_raw, signed.encode(), hashlib.sha256).digest())}"


def _unsigned(issuer: Issuer, algorithm: str) -> str:
    return f"{b64(json.dumps(issuer.header(alg=algorithm)).encode())}.{b64(_payload(issuer))}."


def _header(**changes: Any) -> Forge:
    return lambda issuer: issuer.token("docs:read", header=changes)


def _claims(**changes: Any) -> Forge:
    return lambda issuer: issuer.token("docs:read", **changes)


def _raw_payload(change: Callable[[bytes], bytes]) -> Forge:
    return lambda issuer: issuer.sign(json.dumps(issuer.header()).encode(), change(_payload(issuer)))


def _text(change: Callable[[str], str]) -> Forge:
    return lambda issuer: change(issuer.token("docs:read"))


def _not_canonical(token: str) -> str:
    """Another last letter of the signature that decodes to the same bytes."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return token[:-1] + letters[letters.index(token[-1]) ^ 1]


BAD: dict[str, Forge] = {
    "alg none": lambda issuer: _unsigned(issuer, "none"),
    "alg None": lambda issuer: _unsigned(issuer, "None"),
    "alg none with a signature": _header(alg="none"),
    "HS256 with the public key as secret": _hs256_with_public_key,
    "alg Ed25519 in lower case": _header(alg="eddsa"),
    "alg missing": _header(alg=None),
    "alg a list": _header(alg=["EdDSA"]),
    "signature of another key": lambda _issuer: Issuer().token("docs:read"),
    "signature empty": _text(lambda token: token.rsplit(".", 1)[0] + "."),
    "signature shortened": _text(lambda token: token[:-4]),
    "signature of other claims": lambda issuer: ".".join(
        (issuer.token("docs:read").split(".")[0], b64(_payload(issuer, sub="x")), issuer.token().split(".")[2])
    ),
    "kid unknown": _header(kid="other"),
    "kid a path": _header(kid="../../../../dev/null"),
    "kid SQL": _header(kid="' UNION SELECT 'key"),
    "kid a number": _header(kid=1),
    "kid missing": _header(kid=None),
    "own key in jwk": _header(jwk={"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
    "key by address in jku": _header(jku="http://127.0.0.1/jwks"),
    "crit": _header(crit=["exp"]),
    "b64 false": _header(b64=False),
    "typ JWT": _header(typ="JWT"),
    "typ refresh": _header(typ="rt+jwt"),
    "typ missing": _header(typ=None),
    "expired": _claims(exp=NOW - 3600),
    "expired beyond the leeway": _claims(exp=NOW - 61),
    "not valid yet": _claims(nbf=NOW + 3600),
    "exp missing": _claims(exp=None),
    "exp text": _claims(exp=str(NOW + 100)),
    "exp true": _claims(exp=True),
    "exp infinite": _raw_payload(lambda raw: raw.replace(b'"epoch": 0', b'"epoch": 0, "x": Infinity')),
    "exp beyond all years": _claims(exp=10**30),
    "nbf missing": _claims(nbf=None),
    "issuer wrong": _claims(iss="evil"),
    "issuer missing": _claims(iss=None),
    "audience wrong": _claims(aud="other"),
    "audience a part": _claims(aud="wireroom-other"),
    "audience missing": _claims(aud=None),
    "sub missing": _claims(sub=None),
    "sub no id": _claims(sub="admin"),
    "tid missing": _claims(tid=None),
    "tid no id": _claims(tid="../default"),
    "sid missing": _claims(sid=None),
    "jti missing": _claims(jti=None),
    "perms text": _claims(perms="docs:read"),
    "perms nested": _claims(perms=[["docs:read"]]),
    "epoch text": _claims(epoch="0"),
    "claim twice": _raw_payload(lambda raw: raw.replace(b"{", b'{"perms": ["docs:read"], ', 1)),
    "payload a list": _raw_payload(lambda _raw: b"[]"),
    "payload no JSON": _raw_payload(lambda raw: raw[:-1]),
    "payload not UTF-8": _raw_payload(lambda raw: raw.replace(b"wireroom", b"wireroom\xff", 1)),
    "payload nested deep": _raw_payload(lambda _raw: b"[" * 3000),
    "padding": _text(lambda token: token + "=="),
    "padding inside": _text(lambda token: token.replace(".", "=.", 1)),
    "not canonical base64url": _text(_not_canonical),
    "standard base64 letters": _text(lambda token: token.replace("-", "+").replace("_", "/") + "+/"),
    "two parts": _text(lambda token: token.rsplit(".", 1)[0]),
    "four parts": _text(lambda token: token + ".AAAA"),
    "five parts (JWE)": lambda _issuer: "AAAA.AAAA.AAAA.AAAA.AAAA",
    "oversize": _claims(extra="x" * 9_000),
    "long rubbish": lambda _issuer: "x" * 20_000,
    "empty": lambda _issuer: "",
    "only dots": lambda _issuer: "..",
    "space inside": _text(lambda token: token.replace(".", ". ", 1)),
    "unicode": _text(lambda token: token + "é"),
    "digits of another script": _text(lambda token: token + "٣"),
    "API key malformed": lambda _issuer: "wr_short",
    "API key with odd letters": lambda _issuer: "wr_" + "ä" * 40,
    "refresh token as access token": lambda _issuer: "wr_rt_" + "x" * 43,
}


@pytest.fixture(autouse=True)
def refuse_keys(rig: Rig) -> None:
    from wireroom_common.errors import ErrorKind, WireroomError  # noqa: PLC0415 - only this fixture needs them

    async def refuse(_request: Any) -> Any:
        raise WireroomError(ErrorKind.UNAUTHENTICATED, "api_key_invalid", "No such key.")

    rig.neighbours.answers["VerifyKey"] = refuse


async def test_bad_credentials_are_401_and_reach_no_service(rig: Rig) -> None:
    assert len(BAD) > 60
    wrong: dict[str, bytes] = {}
    for name, forge in BAD.items():
        reader, writer = await rig.connect()
        head = rig.head("GET", ROUTE, connection="close", authorization="Bearer CREDENTIAL")
        writer.write(head.replace(b"CREDENTIAL", forge(rig.issuer).encode()))
        answer = await reader.read()
        writer.close()
        if not (answer.startswith(b"HTTP/1.1 401") and b"www-authenticate: Bearer" in answer and b"credential_invalid" in answer):
            wrong[name] = answer[:300]
    assert wrong == {}
    assert rig.neighbours.called("ListDocuments") == []


@pytest.mark.parametrize(
    "value",
    [b"Basic YWRtaW46YWRtaW4=", b"Bearer", b"Bearer  two spaces", b"Token x", b"bearer\tx", b"\xff\xfe", b""],
    ids=["basic", "nothing", "spaces", "scheme", "tab", "bytes", "empty"],
)
async def test_odd_authorization_headers_are_401(rig: Rig, value: bytes) -> None:
    reader, writer = await rig.connect()
    writer.write(rig.head("GET", ROUTE, connection="close", authorization="VALUE").replace(b"VALUE", value))
    assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()


async def test_two_authorization_headers_are_401(rig: Rig) -> None:
    good = rig.bearer("docs:read")["authorization"]
    reader, writer = await rig.connect()
    head = rig.head("GET", ROUTE, connection="close", authorization=good)
    writer.write(head.replace(b"\r\n\r\n", f"\r\nauthorization: {good}\r\n\r\n".encode()))
    assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()


@pytest.mark.parametrize(
    "changes",
    [{}, {"aud": ["other", "wireroom"]}, {"exp": 1}, {"exp": -20}, {"nbf": 20}, {"jti": "any"}, {"roles": []}],
    ids=str,
)
async def test_good_tokens_pass_first_and_from_the_cache(rig: Rig, changes: dict[str, Any]) -> None:
    # Times are seconds from the test's own now: the tests are collected minutes before the last of them runs.
    now = int(time.time())
    headers = rig.bearer(
        "docs:read", **{name: now + value if name in {"exp", "nbf"} else value for name, value in changes.items()}
    )
    for _ in range(2):
        async with rig.session.get(ROUTE, headers=headers) as reply:
            assert reply.status == 200
    assert {call.principal.permissions for call in rig.neighbours.called("ListDocuments")} == {frozenset({"docs:read"})}


async def test_a_token_in_the_address_is_not_looked_at(rig: Rig) -> None:
    token = rig.issuer.token("docs:read")
    async with rig.session.get(ROUTE, params={"access_token": token, "token": token}) as reply:
        assert reply.status == 401
