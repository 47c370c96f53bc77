from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from gateway_rig import Rig
from gateway_tokens import Issuer, b64
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wireroom_common.clock import SystemClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_gateway.identity.jwks import JwksCache
from wireroom_gateway.identity.revocations import Revocations
from wireroom_gateway.identity.tokens import TokenVerifier
from wireroom_protos.auth.v1 import auth_pb2

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


def _hmac(issuer: Issuer, algorithm: str, secret: bytes) -> str:
    signed = f"{b64(json.dumps(issuer.header(alg=algorithm)).encode())}.{b64(_payload(issuer))}"
    return f"{signed}.{b64(hmac.new(secret, signed.encode(), algorithm.replace('HS', 'sha')).digest())}"


def _malleable(token: str) -> str:
    """The signature with the group's order added to its second half: the same point, another text (RFC 8032, 5.1.7 refuses it)."""
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 2**252 + 27742317777372353535851937790883648493
    grown = int.from_bytes(raw[32:], "little") + order
    return f"{signed}.{b64(raw[:32] + grown.to_bytes(32, 'little'))}"


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
    "kid a list": _header(kid=["key-1"]),
    "kid an address": _header(kid="http://127.0.0.1:1/jwks.json"),
    "kid a file": _header(kid="file:///proc/self/environ"),
    "kid a command": _header(kid="key-1|whoami"),
    "kid with NUL": _header(kid="key-1\x00"),
    "kid with a space": _header(kid="key-1 "),
    "kid in upper case": _header(kid="KEY-1"),
    "kid unicode": _header(kid="k\u0435y-1"),
    "kid a lone surrogate": lambda issuer: issuer.sign(b'{"alg":"EdDSA","typ":"at+jwt","kid":"\\ud800"}', _payload(issuer)),
    "kid huge": _header(kid="k" * 5_000),
    "kid empty": _header(kid=""),
    "alg nOnE": lambda issuer: _unsigned(issuer, "nOnE"),
    "alg NONE": lambda issuer: _unsigned(issuer, "NONE"),
    "alg empty": lambda issuer: _unsigned(issuer, ""),
    "alg none, kid missing": lambda issuer: b64(b'{"alg":"none"}') + "." + b64(_payload(issuer)) + ".",
    "alg HS512 with the public key in PEM": lambda issuer: _hmac(issuer, "HS512", issuer.pem),
    "alg HS256 with the key set": lambda issuer: _hmac(issuer, "HS256", issuer.jwks()),
    "alg HS256 with nothing": lambda issuer: _hmac(issuer, "HS256", b""),
    "alg HS256 with the kid": lambda issuer: _hmac(issuer, "HS256", issuer.kid.encode()),
    "alg RS256": _header(alg="RS256"),
    "alg ES256": _header(alg="ES256"),
    "alg Ed448": _header(alg="Ed448"),
    "alg with a space": _header(alg="EdDSA "),
    "alg twice": lambda issuer: issuer.sign(
        json.dumps(issuer.header()).replace("{", '{"alg": "none", ', 1).encode(), _payload(issuer)
    ),
    "header a list": lambda issuer: issuer.sign(b'["EdDSA"]', _payload(issuer)),
    "header empty": lambda issuer: issuer.sign(b"{}", _payload(issuer)),
    "header null": lambda issuer: issuer.sign(b"null", _payload(issuer)),
    "header with a byte order mark": lambda issuer: issuer.sign(
        b"\xef\xbb\xbf" + json.dumps(issuer.header()).encode(), _payload(issuer)
    ),
    "header in UTF-16": lambda issuer: issuer.sign(json.dumps(issuer.header()).encode("utf-16"), _payload(issuer)),
    "certificate by address in x5u": _header(x5u="https://127.0.0.1:1/cert.pem"),
    "certificate in x5c": _header(x5c=["MIIB"]),
    "thumbprint in x5t": _header(x5t="AA"),
    "zip": _header(zip="DEF"),
    "crit empty": _header(crit=[]),
    "crit of b64": _header(crit=["b64"], b64=False),
    "b64 true": _header(b64=True),
    "kid missing": _header(kid=None),
    "own key in jwk": _header(jwk={"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
    "key by address in jku": _header(jku="http://127.0.0.1/jwks"),
    "crit": _header(crit=["exp"]),
    "b64 false": _header(b64=False),
    "typ JWT": _header(typ="JWT"),
    "typ refresh": _header(typ="rt+jwt"),
    "typ missing": _header(typ=None),
    "typ a list": _header(typ=["at+jwt"]),
    "typ with its prefix": _header(typ="application/at+jwt"),
    "nested JWT": lambda issuer: issuer.sign(json.dumps(issuer.header(cty="JWT")).encode(), issuer.token("docs:read").encode()),
    "expired": _claims(exp=NOW - 3600),
    "expired beyond the leeway": _claims(exp=NOW - 61),
    "not valid yet": _claims(nbf=NOW + 3600),
    "exp missing": _claims(exp=None),
    "exp text": _claims(exp=str(NOW + 100)),
    "exp true": _claims(exp=True),
    "exp infinite": _raw_payload(lambda raw: raw.replace(b'"epoch": 0', b'"epoch": 0, "x": Infinity')),
    "exp beyond all years": _claims(exp=10**30),
    "exp negative": _claims(exp=-1),
    "exp null": _raw_payload(lambda raw: re.sub(rb'"exp": \d+', b'"exp": null', raw)),
    "exp not a number": _raw_payload(lambda raw: re.sub(rb'"exp": \d+', b'"exp": NaN', raw)),
    "exp beyond a double": _raw_payload(lambda raw: re.sub(rb'"exp": \d+', b'"exp": 1e400', raw)),
    "exp with thousands of digits": _raw_payload(lambda raw: re.sub(rb'"exp": \d+', b'"exp": ' + b"9" * 5_000, raw)),
    "exp twice": _raw_payload(lambda raw: raw.replace(b"{", b'{"exp": 99999999999, ', 1)),
    "exp a list": _claims(exp=[NOW + 100]),
    "nbf text": _claims(nbf="now"),
    "issuer a list": _claims(iss=["wireroom"]),
    "issuer in upper case": _claims(iss="Wireroom"),
    "issuer with a slash": _claims(iss="wireroom/"),
    "audience an object": _claims(aud={"wireroom": True}),
    "audience empty": _claims(aud=[]),
    "audience nested": _claims(aud=[["wireroom"]]),
    "roles an object": _claims(roles={"Admin": True}),
    "perms of numbers": _claims(perms=[1]),
    "perms null": _raw_payload(lambda raw: raw.replace(b'"perms": ["docs:read"]', b'"perms": null')),
    "epoch a fraction": _claims(epoch=0.5),
    "sub a number": _claims(sub=1),
    "sub with braces": _claims(sub="{0198a000-0000-7000-8000-0000000000aa}x"),
    "member twice by escape": _raw_payload(lambda raw: raw.replace(b"{", b'{"\\u0070erms": ["users:manage"], ', 1)),
    "payload with something after it": _raw_payload(lambda raw: raw + b"{}"),
    "payload with a comment": _raw_payload(lambda raw: raw + b"//"),
    "payload in quotes": _raw_payload(lambda raw: json.dumps(raw.decode()).encode()),
    "payload a number": _raw_payload(lambda _raw: b"1"),
    "payload objects nested deep": _raw_payload(lambda raw: raw[:-1] + b', "x": ' + b'{"a":' * 1_000 + b"1" + b"}" * 1_001),
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
    "signed, 30 kB": _claims(extra="x" * 22_000),
    "signature extended": _text(lambda token: token + "AAAA"),
    "signature of zeros": _text(lambda token: token.rsplit(".", 1)[0] + "." + "A" * 86),
    "signature with a small-order point": _text(lambda token: token.rsplit(".", 1)[0] + "." + b64(b"\x01" + b"\x00" * 63)),
    "signature made malleable": lambda issuer: _malleable(issuer.token("docs:read")),
    "line feed encoded": _text(lambda token: token + "%0a"),
    "trailing comma": _text(lambda token: token + ","),
    "two tokens": _text(lambda token: f"{token},{token}"),
    "quoted": _text(lambda token: f'"{token}"'),
    "tab inside": _text(lambda token: token.replace(".", ".\t", 1)),
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


VECTORS = Path(__file__).with_name("wycheproof_jws.txt")


async def test_published_attack_vectors_are_401(rig: Rig) -> None:
    """No JWS of another issuer is a token here, be it valid or not."""
    tokens = [line for line in VECTORS.read_text().splitlines() if not line.startswith("#")]
    assert len(tokens) > 300
    wrong = []
    for token in tokens:
        async with rig.session.get(ROUTE, headers={"authorization": f"Bearer {token}"}) as reply:
            if reply.status != 401:
                wrong.append((token, reply.status))
    assert wrong == []


@pytest.mark.parametrize("size", [8 * 1024, 30_000])
async def test_tokens_that_are_too_long_are_401(rig: Rig, size: int) -> None:
    async with rig.session.get(ROUTE, headers={"authorization": "Bearer " + "a" * size}) as reply:
        assert reply.status == 401


async def test_a_token_of_100_kb_is_refused(rig: Rig) -> None:
    """By the listener, or as no token: never by a failure."""
    reader, writer = await rig.connect()
    writer.write(rig.head("GET", ROUTE, connection="close", authorization="Bearer " + rig.issuer.token(extra="x" * 75_000)))
    status = int((await reader.readline()).split()[1])
    writer.close()
    assert status in (400, 401, 431)


class _Answers:
    """Auth's key set and nothing else: whatever else is asked for fails the test."""

    def __init__(self, issuer: Issuer) -> None:
        self.auth = self
        self._issuer = issuer

    async def GetJwks(self, _request: Any, *, timeout: float) -> auth_pb2.GetJwksResponse:  # noqa: ARG002, N802, ASYNC109
        return auth_pb2.GetJwksResponse(jwks_json=self._issuer.jwks())


def _verifier(issuer: Issuer) -> TokenVerifier:
    services: Any = _Answers(issuer)
    clock = SystemClock()
    revocations = Revocations(services, clock, remember_seconds=60, max_entries=10)
    return TokenVerifier(
        JwksCache(services, clock), revocations, clock, issuer="wireroom", audience="wireroom", leeway=60, cache_size=0
    )


_ISSUER = Issuer()
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


async def _refused(token: str) -> bool:
    try:
        await _verifier(_ISSUER).verify(token)
    except WireroomError as error:
        assert (error.kind, error.code) == (ErrorKind.UNAUTHENTICATED, "credential_invalid")  # noqa: PT017 - no other exception is right
        return True
    return False


_FUZZ = settings(max_examples=150, deadline=timedelta(seconds=5), suppress_health_check=[HealthCheck.function_scoped_fixture])


@_FUZZ
@given(data=st.data())
async def test_any_changed_byte_makes_a_good_token_bad(data: st.DataObject) -> None:
    token = _ISSUER.token("docs:read")
    assert not await _refused(token)
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters(max_codepoint=0x2FFF).filter(lambda drawn: drawn != token[place]))
    kind = data.draw(st.sampled_from(["replace", "insert", "delete", "cut"]))
    changed = {
        "replace": token[:place] + letter + token[place + 1 :],
        "insert": token[:place] + letter + token[place:],
        "delete": token[:place] + token[place + 1 :],
        "cut": token[:place],
    }[kind]
    assert await _refused(changed)


@_FUZZ
@given(
    name=st.sampled_from(["iss", "aud", "sub", "tid", "sid", "jti", "exp", "nbf", "epoch", "roles", "perms", "kind", "tepoch"]),
    value=_JSON,
)
async def test_signed_claims_of_any_kind_never_fail(name: str, value: Any) -> None:
    claims = {**_ISSUER.claims("docs:read"), name: value}
    token = _ISSUER.sign(json.dumps(_ISSUER.header()).encode(), json.dumps(claims).encode())
    refused = await _refused(token)
    if name in {"iss", "sub", "tid", "sid"}:
        assert refused


@_FUZZ
@given(name=st.sampled_from(["alg", "typ", "kid"]), value=_JSON)
async def test_signed_headers_of_any_kind_are_refused(name: str, value: Any) -> None:
    header = {**_ISSUER.header(), name: value}
    if header != _ISSUER.header():
        assert await _refused(_ISSUER.sign(json.dumps(header).encode(), json.dumps(_ISSUER.claims()).encode()))


@_FUZZ
@given(st.binary(max_size=200), st.binary(max_size=200))
async def test_signed_bytes_of_any_kind_are_refused(header: bytes, payload: bytes) -> None:
    good = json.dumps(_ISSUER.header()).encode()
    for head in (header, good):
        assert await _refused(_ISSUER.sign(head, payload))


@_FUZZ
@given(st.text(max_size=300))
async def test_text_of_any_kind_is_refused(text: str) -> None:
    assert await _refused(text)
