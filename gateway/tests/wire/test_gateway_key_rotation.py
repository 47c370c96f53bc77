"""Rotation of the keys that sign access tokens, seen from callers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from gateway_rig import Rig, running
from gateway_tokens import Issuer, b64

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_gateway.identity.jwks import parse
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.events.v1 import events_pb2

ROUTE = "/api/v1/documents"


class Ring:
    """Keys as auth publishes them: what signs, what comes next, what is replaced."""

    def __init__(self, first: Issuer) -> None:
        self.current = first
        self.next = Issuer("key-2")
        self.old: list[Issuer] = []
        self.number = 2

    async def jwks(self, _request: Any) -> auth_pb2.GetJwksResponse:
        keys = [key for one in (self.current, self.next, *self.old) for key in json.loads(one.jwks())["keys"]]
        return auth_pb2.GetJwksResponse(jwks_json=json.dumps({"keys": keys}).encode())

    def rotate(self) -> events_pb2.AuthSigningKeyRotated:
        self.number += 1
        self.old.append(self.current)
        self.current, self.next = self.next, Issuer(f"key-{self.number}")
        return events_pb2.AuthSigningKeyRotated(kid=self.current.kid)


async def status(rig: Rig, token: str) -> int:
    async with rig.session.get(ROUTE, headers={"authorization": f"Bearer {token}"}) as reply:
        return reply.status


async def test_no_valid_token_is_refused_during_rotations_under_load(rig: Rig) -> None:
    ring = Ring(rig.issuer)
    rig.neighbours.answers["GetJwks"] = ring.jwks
    await rig.publish(events_pb2.AuthSigningKeyRotated(kid=ring.current.kid))
    refused: list[str] = []
    served = {ring.current.kid: 0}
    done = asyncio.Event()

    async def caller(number: int) -> None:
        count = 0
        while not done.is_set():
            count += 1
            signer = ring.current
            # Every second request with a token that has not been seen yet.
            token = signer.token("docs:read", jti=f"{number}-{count - count % 2}")
            if await status(rig, token) != 200:
                refused.append(signer.kid)
            served[signer.kid] = served.get(signer.kid, 0) + 1

    async def rubbish() -> None:
        # Unknown key ids use up the looks at auth that they are given: valid tokens must not depend on those.
        while not done.is_set():
            assert await status(rig, Issuer("no-such-key").token("docs:read")) == 401

    callers = [asyncio.create_task(caller(number)) for number in range(8)] + [asyncio.create_task(rubbish())]
    for _ in range(4):
        await eventually(lambda: served.get(ring.current.kid, 0) >= 40, within=60, what="requests with the present key")
        event = ring.rotate()
        # Some callers come before the event does.
        await eventually(lambda: served.get(ring.current.kid, 0) >= 10, within=60, what="requests before the event")
        await rig.publish(event)
    done.set()
    await asyncio.gather(*callers)
    assert refused == []
    assert len(served) == 5


async def test_withdrawn_key_is_refused_from_the_event_on(rig: Rig) -> None:
    ring = Ring(rig.issuer)
    rig.neighbours.answers["GetJwks"] = ring.jwks
    token = ring.current.token("docs:read")
    fresh = ring.current.token("docs:read", jti="another")
    assert await status(rig, token) == 200
    event = ring.rotate()
    ring.old.clear()
    await rig.publish(event)
    assert await status(rig, fresh) == 401
    # A token that was verified is not checked again with a key that is gone: it ends by its time or by revocation.
    assert await status(rig, ring.current.token("docs:read")) == 200


async def test_rotation_route_needs_the_operator(rig: Rig) -> None:
    async def rotated(_request: Any) -> auth_pb2.RotateSigningKeyResponse:
        return auth_pb2.RotateSigningKeyResponse(kid="key-2")

    rig.neighbours.answers["RotateSigningKey"] = rotated
    path = "/api/v1/admin/signing-keys/rotate"
    async with rig.session.post(path, headers=rig.bearer("docs:read")) as reply:
        assert reply.status == 403
    async with rig.session.post(path, headers=rig.bearer("config:manage")) as reply:
        assert (reply.status, (await reply.json())["kid"]) == (200, "key-2")

    async def too_new(_request: Any) -> Any:
        raise WireroomError(ErrorKind.CONFLICT, "signing_key_too_new", "Try again in 100 s.", retry_after=100)

    rig.neighbours.answers["RotateSigningKey"] = too_new
    async with rig.session.post(path, headers=rig.bearer("config:manage")) as reply:
        assert (reply.status, reply.headers["retry-after"]) == (409, "100")


def test_ambiguous_and_foreign_keys_are_not_used() -> None:
    good, twin, other = Issuer("a"), Issuer("a"), Issuer("b")

    def entry(issuer: Issuer, **changes: Any) -> dict[str, Any]:
        (key,) = json.loads(issuer.jwks())["keys"]
        return {**key, **changes}

    def kids(*entries: Any) -> set[str]:
        return set(parse(json.dumps({"keys": list(entries)}).encode()))

    assert kids(entry(good), entry(other)) == {"a", "b"}
    assert kids(entry(good), entry(twin), entry(other)) == {"b"}
    assert kids(entry(good, kty="oct", k=b64(b"s" * 32)), entry(other)) == {"b"}
    assert kids(entry(good, use="enc"), entry(other)) == {"b"}
    assert kids(entry(good, alg="HS256"), entry(other)) == {"b"}
    assert kids(entry(good, crv="X25519"), entry(good, x="AA"), entry(good, x=1), "text", None, 7) == set()


async def test_keys_are_kept_while_auth_is_away(work_dir: Path) -> None:
    async with running(work_dir) as rig:

        async def away(_request: Any) -> Any:
            raise WireroomError(ErrorKind.UNAVAILABLE, "database_unavailable", "Try again.")

        rig.neighbours.answers["GetJwks"] = away
        await rig.publish(events_pb2.AuthSigningKeyRotated(kid="x"))
        assert await status(rig, rig.issuer.token("docs:read")) == 200
