"""Signed requests, with the code that the documentation gives to clients."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
import pytest_asyncio
from gateway_rig import Rig, running
from gateway_tokens import TENANT, USER
from hypothesis import given
from hypothesis import strategies as st

from wireroom_common.clock import ManualClock
from wireroom_gateway.identity.request_signatures import signature_base
from wireroom_gateway.identity.signature_fields import (
    UnreadableSignatureError,
    parse_content_digest,
    parse_signature,
    parse_signature_input,
)
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

GUIDE = Path(__file__).parents[3] / "docs/how-to/sign-requests.md"
KEY_ID = "0198a000-0000-7000-8000-0000000000dd"
SECRET = "wr_sig_" + "s" * 43
ROUTE = "/api/v1/documents"
FEEDS = "/api/v1/feeds"
BODY = b'{"url": "https://example.org/feed.xml"}'
Headers = dict[str, str]


def snippet() -> str:
    found = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found
    return found[1]


def client() -> Callable[[str, str, bytes, str, str], Headers]:
    namespace: dict[str, Any] = {"__name__": "client"}
    exec(snippet(), namespace)  # noqa: S102 - the documentation's own code
    return cast("Callable[[str, str, bytes, str, str], Headers]", namespace["signature_headers"])


sign = client()


class Key:
    """What auth says of the key."""

    def __init__(self) -> None:
        self.answer = auth_pb2.VerifyKeyResponse(
            key_id=KEY_ID,
            tenant_id=str(TENANT),
            user_id=str(USER),
            permissions=["docs:read", "feeds:manage"],
            signature_required=True,
            signing_secret=SECRET.encode(),
        )

    async def __call__(self, request: auth_pb2.VerifyKeyRequest) -> auth_pb2.VerifyKeyResponse:
        assert request.key_id in ("", KEY_ID)
        return self.answer


@pytest.fixture
def key() -> Key:
    return Key()


@pytest_asyncio.fixture
async def rig(work_dir: Path, clean_valkey_url: str, key: Key) -> AsyncIterator[Rig]:
    async with running(work_dir, redis_url=clean_valkey_url, limits_enabled=False, answers={"VerifyKey": key}) as started:
        yield started


async def ask(rig: Rig, headers: Headers, method: str = "GET", path: str = ROUTE, body: bytes = b"") -> tuple[int, Any]:
    async with rig.session.request(method, path, headers=headers, data=body or None) as reply:
        return reply.status, await reply.json(content_type=None)


def signed(rig: Rig, method: str = "GET", path: str = ROUTE, body: bytes = b"", secret: str = SECRET) -> Headers:
    headers = sign(method, rig.url + path, body, KEY_ID, secret)
    return {**headers, "content-type": "application/json"} if body else headers


async def test_the_guides_program_gets_an_answer(rig: Rig) -> None:
    environment = {**os.environ, "WIREROOM_URL": rig.url, "WIREROOM_KEY_ID": KEY_ID, "WIREROOM_SIGNING_SECRET": SECRET}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", snippet()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    (call,) = rig.neighbours.called("ListDocuments")
    assert (call.principal.kind, call.principal.credential_id, call.principal.subject) == ("api_key", KEY_ID, str(USER))


async def test_signed_body_and_query_pass(rig: Rig) -> None:
    assert (await ask(rig, signed(rig, "POST", FEEDS, BODY), "POST", FEEDS, BODY))[0] == 201
    assert (await ask(rig, signed(rig, path=ROUTE + "?page_size=3"), path=ROUTE + "?page_size=3"))[0] == 200


async def test_replay_is_refused_by_every_replica(rig: Rig, work_dir: Path, clean_valkey_url: str, key: Key) -> None:
    headers = signed(rig)
    assert (await ask(rig, headers))[0] == 200
    assert (await ask(rig, headers))[0] == 401
    async with running(
        work_dir / "other", redis_url=clean_valkey_url, limits_enabled=False, answers={"VerifyKey": key}
    ) as second:
        assert (await ask(second, headers))[0] == 401
        assert (await ask(second, signed(rig)))[0] == 200


async def test_of_parallel_replays_one_passes(rig: Rig) -> None:
    headers = signed(rig)
    answers = await asyncio.gather(*(ask(rig, headers) for _ in range(20)))
    assert sorted(status for status, _ in answers) == [200] + [401] * 19


async def test_another_body_reaches_no_service(rig: Rig) -> None:
    headers = signed(rig, "POST", FEEDS, BODY)
    status, problem = await ask(rig, headers, "POST", FEEDS, BODY.replace(b"example.org", b"example.net"))
    assert (status, problem["code"]) == (401, "credential_invalid")
    assert "digest" in problem["detail"]
    without = dict(signed(rig, "POST", FEEDS).items())
    status, problem = await ask(rig, {**without, "content-type": "application/json"}, "POST", FEEDS, BODY)
    assert (status, problem["code"]) == (401, "credential_invalid")
    assert rig.neighbours.called("AddFeed") == []


async def test_changed_requests_are_refused(rig: Rig) -> None:
    def but(**changes: str) -> Headers:
        return {**signed(rig), **{name.replace("_", "-"): value for name, value in changes.items()}}

    good = signed(rig)
    stale = re.sub(r"created=\d+", f"created={int(time.time()) - 61}", good["Signature-Input"])
    cases: dict[str, tuple[Headers, str, str]] = {
        "method": (signed(rig, "DELETE"), "GET", ROUTE),
        "path": (signed(rig), "GET", "/api/v1/documents/0198a000-0000-7000-8000-0000000000ff"),
        "query added": (signed(rig), "GET", ROUTE + "?page_size=5"),
        "query changed": (signed(rig, path=ROUTE + "?page_size=5"), "GET", ROUTE + "?page_size=6"),
        "secret": (signed(rig, secret=SECRET[:-1] + "t"), "GET", ROUTE),
        "the key's text as nothing": (signed(rig, secret=""), "GET", ROUTE),
        "nonce changed": ({**good, "Signature-Input": re.sub('nonce="', 'nonce="x', good["Signature-Input"])}, "GET", ROUTE),
        "too old": ({**good, "Signature-Input": stale}, "GET", ROUTE),
        "no signature": (but(Signature=""), "GET", ROUTE),
        "another label": ({**good, "Signature": good["Signature"].replace("sig1", "sig2")}, "GET", ROUTE),
        "two labels": ({**good, "Signature-Input": f"{good['Signature-Input']}, {good['Signature-Input']}"}, "GET", ROUTE),
        "unknown algorithm": ({**good, "Signature-Input": good["Signature-Input"].replace("hmac-sha256", "none")}, "GET", ROUTE),
        "with a token": ({**good, **rig.bearer("docs:read")}, "GET", ROUTE),
        "input alone": ({"Signature-Input": good["Signature-Input"]}, "GET", ROUTE),
        "rubbish": ({"Signature-Input": "é\x01" * 50, "Signature": "=" * 50}, "GET", ROUTE),
        "keyid rubbish": ({**good, "Signature-Input": good["Signature-Input"].replace(KEY_ID, "../x")}, "GET", ROUTE),
    }
    wrong = {}
    for name, (headers, method, path) in cases.items():
        if name == "rubbish":
            reader, writer = await rig.connect()
            head = rig.head("GET", ROUTE, connection="close", signature_input="INPUT", signature="x")
            writer.write(head.replace(b"INPUT", b"\xe9(" * 50))
            status = int((await reader.readline()).split()[1])
            writer.close()
        else:
            status, _ = await ask(rig, headers, method, path)
        if status != 401:
            wrong[name] = status
    assert wrong == {}
    assert rig.neighbours.called("ListDocuments") == []


async def test_what_must_be_covered(rig: Rig) -> None:
    def with_components(*names: str, path: str = ROUTE) -> Headers:
        covered = " ".join(f'"{name}"' for name in names)
        parameters = f'({covered});created={int(time.time())};nonce="{os.urandom(12).hex()}";keyid="{KEY_ID}"'
        values = {"@method": "GET", "@path": path, "@query": "?", "@authority": rig.url.removeprefix("http://"), "x-a": "1, 2"}
        base = "\n".join([*(f'"{name}": {values.get(name, "")}' for name in names), f'"@signature-params": {parameters}'])
        mac = base64.b64encode(hmac.new(SECRET.encode(), base.encode(), hashlib.sha256).digest()).decode()
        return {"Signature-Input": f"s={parameters}", "Signature": f"s=:{mac}:", "x-a": "1, 2"}

    answers = {
        names: (await ask(rig, with_components(*names)))[0]
        for names in (
            ("@method", "@path"),
            ("@method", "@path", "@authority", "x-a", "@query"),
            ("@method",),
            ("@path",),
            (),
            ("@method", "@path", "@target-uri"),
            ("@method", "@path", "@method"),
            ("@method", "@path", "x-not-sent"),
            ("@method", "@path", "content-digest"),
        )
    }
    assert list(answers.values()) == [200, 200, *[401] * 7]


async def test_without_the_store_nothing_is_accepted(work_dir: Path, key: Key) -> None:
    async with running(work_dir, answers={"VerifyKey": key}) as rig:
        status, problem = await ask(rig, signed(rig))
        assert (status, problem["code"]) == (503, "nonce_store_unavailable")
        assert (await ask(rig, signed(rig, secret="other")))[0] == 401
        assert rig.neighbours.called("ListDocuments") == []


async def test_replaced_secret_is_accepted_until_its_end(work_dir: Path, clean_valkey_url: str, key: Key) -> None:
    clock = ManualClock(datetime.now(UTC))
    key.answer.previous_signing_secret = b"wr_sig_old"
    key.answer.previous_until.FromDatetime(clock.now() + timedelta(seconds=10))
    async with running(
        work_dir, redis_url=clean_valkey_url, clock=clock, limits_enabled=False, answers={"VerifyKey": key}
    ) as rig:
        assert (await ask(rig, signed(rig, secret="wr_sig_old")))[0] == 200
        assert (await ask(rig, signed(rig)))[0] == 200
        clock.advance(10)
        assert (await ask(rig, signed(rig, secret="wr_sig_old")))[0] == 401
        assert (await ask(rig, signed(rig)))[0] == 200


async def test_signing_callers_behind_a_blocked_address_work_on(rig: Rig) -> None:
    block = events_pb2.GatewayIpBlocked(block_id=str(UUID(int=1)), network="127.0.0.1")
    block.until.FromDatetime(datetime.now(UTC) + timedelta(hours=1))
    await rig.publish(block)
    assert (await ask(rig, {}))[0] == 429
    assert (await ask(rig, signed(rig)))[0] == 200
    # What merely looks like a signature shows nobody.
    assert (await ask(rig, signed(rig, secret="wr_sig_" + "x" * 43)))[0] == 429


async def test_key_that_must_sign_is_not_accepted_bare(rig: Rig) -> None:
    status, problem = await ask(rig, {"authorization": "Bearer wr_abcdefgh_" + "x" * 43})
    assert (status, problem["code"]) == (401, "credential_invalid")
    assert "signed" in problem["detail"]


async def test_changed_key_is_asked_for_again(rig: Rig, key: Key) -> None:
    assert (await ask(rig, signed(rig)))[0] == 200
    key.answer.signing_secret = b"wr_sig_new"
    assert (await ask(rig, signed(rig)))[0] == 200
    await rig.publish(events_pb2.AuthApiKeyChanged(key_id=KEY_ID, owner_id=str(USER), change="rotated"))
    assert (await ask(rig, signed(rig)))[0] == 401
    assert (await ask(rig, signed(rig, secret="wr_sig_new")))[0] == 200
    assert len(rig.neighbours.called("VerifyKey")) == 2


def test_vector_of_the_rfc() -> None:
    """RFC 9421, appendix B.2.5."""
    text = 'sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    described = parse_signature_input(text)
    scope = {
        "scheme": "https",
        "headers": [
            (b"host", b"example.com"),
            (b"date", b"Tue, 20 Apr 2021 02:07:55 GMT"),
            (b"content-type", b"application/json"),
        ],
    }
    base = signature_base(scope, described)
    assert base.decode().splitlines()[1] == '"@authority": example.com'
    secret = base64.b64decode("uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==")
    expected = parse_signature("sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:", "sig-b25")
    assert hmac.new(secret, base, hashlib.sha256).digest() == expected


@given(st.text(max_size=80))
def test_fields_are_read_or_refused(text: str) -> None:
    for parse in (parse_signature_input, parse_content_digest, lambda value: parse_signature(value, "sig1")):
        try:
            parse(text)
        except UnreadableSignatureError as error:
            assert str(error)  # noqa: PT017 - either outcome is right, another exception is not


@given(
    st.lists(st.sampled_from(["@method", "@path", "@query", "date", "x-y"]), unique=True),
    st.integers(0, 10**12),
    st.from_regex(r"[A-Za-z0-9_ -]{0,30}", fullmatch=True),
)
def test_what_is_written_is_read_back(components: list[str], created: int, nonce: str) -> None:
    names = " ".join(f'"{name}"' for name in components)
    written = f'({names});created={created};nonce="{nonce}"'
    assert parse_signature_input(f"sig1={written}").serialized() == written
