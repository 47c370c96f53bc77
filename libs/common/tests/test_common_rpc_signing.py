"""Signed principals, key files and the pipe of local calls, by themselves."""

from __future__ import annotations

import asyncio
import stat
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from wireroom_common.clock import ManualClock
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.principal import ANONYMOUS, Principal, PrincipalKind
from wireroom_common.rpc import LocalNetwork, PrincipalSigner, PrincipalVerifier, ensure_key, load_trusted, open_channel
from wireroom_common.rpc.exchange import Pipe
from wireroom_common.rpc.keys import load_key, trust

KEY = Ed25519PrivateKey.generate()
USER = Principal(PrincipalKind.USER, subject=str(uuid4()), tenant_id=uuid4())

principals = st.builds(
    Principal,
    kind=st.sampled_from(PrincipalKind),
    subject=st.text(min_size=1, max_size=40),
    tenant_id=st.none() | st.uuids(),
    roles=st.frozensets(st.text(max_size=10), max_size=4),
    permissions=st.frozensets(st.text(max_size=10), max_size=8),
    credential_id=st.text(max_size=40),
    epoch=st.integers(0, 2**40),
)


def verifier_for(issuer: str, clock: ManualClock) -> PrincipalVerifier:
    return PrincipalVerifier({issuer: [KEY.public_key()]}, clock)


def refusal(verifier: PrincipalVerifier, signed: bytes) -> str:
    with pytest.raises(WireroomError) as caught:
        verifier.verify(signed)
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    return caught.value.code


@given(principals)
def test_gateway_principal_survives_the_wire(principal: Principal) -> None:
    clock = ManualClock()
    signed = PrincipalSigner("gateway", KEY, clock).sign(principal)
    assert verifier_for("gateway", clock).verify(signed) == principal


@given(st.data())
def test_any_changed_byte_is_refused(data: st.DataObject) -> None:
    clock = ManualClock()
    signed = bytearray(PrincipalSigner("gateway", KEY, clock).sign(USER))
    position = data.draw(st.integers(0, len(signed) - 1))
    signed[position] ^= data.draw(st.integers(1, 255))
    assert refusal(verifier_for("gateway", clock), bytes(signed)) in {"principal_malformed", "principal_signature_invalid"}


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    assert refusal(verifier_for("gateway", ManualClock()), noise).startswith("principal_")


def test_principal_is_void_after_its_lifetime_even_when_it_was_verified_before() -> None:
    clock = ManualClock()
    signed = PrincipalSigner("gateway", KEY, clock, lifetime=60).sign(USER)
    verifier = verifier_for("gateway", clock)
    assert verifier.verify(signed) == USER
    clock.advance(59)
    assert verifier.verify(signed) == USER
    clock.advance(1)
    assert refusal(verifier, signed) == "principal_expired"


def test_signature_is_reused_until_half_life_and_outlives_the_call() -> None:
    clock = ManualClock()
    signer = PrincipalSigner("gateway", KEY, clock, lifetime=60)
    first = signer.sign(USER)
    clock.advance(30)
    assert signer.sign(USER) == first
    clock.advance(1)
    assert signer.sign(USER) != first
    long = signer.sign(USER, outlives=600)
    clock.advance(600)
    assert verifier_for("gateway", clock).verify(long) == USER


def test_signer_keeps_a_bounded_number_of_signatures() -> None:
    clock = ManualClock()
    signer = PrincipalSigner("gateway", KEY, clock, capacity=2)
    first = signer.sign(USER)
    clock.advance(1)
    for number in range(2):
        signer.sign(Principal(PrincipalKind.USER, subject=str(number)))
    assert signer.sign(USER) != first


def test_service_signs_itself_and_anonymous_only() -> None:
    clock = ManualClock()
    signer = PrincipalSigner("rag", KEY, clock)
    verifier = verifier_for("rag", clock)
    assert verifier.verify(signer.sign(ANONYMOUS)) == ANONYMOUS
    assert verifier.verify(signer.sign(Principal(PrincipalKind.SERVICE))).subject == "rag"
    for foreign in (USER, Principal(PrincipalKind.SERVICE, subject="chat")):
        with pytest.raises(WireroomError) as caught:
            signer.sign(foreign)
        assert caught.value.code == "principal_not_signable"


@pytest.mark.parametrize(
    "principal", [USER, Principal(PrincipalKind.API_KEY, subject="x"), Principal(PrincipalKind.SERVICE, "chat")]
)
def test_verifier_refuses_what_a_service_may_not_sign(principal: Principal, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    with monkeypatch.context() as patch:
        # A compromised service does not ask its own library for permission.
        patch.setattr("wireroom_common.rpc.signing._may_sign", lambda _issuer, _principal: True)
        signed = PrincipalSigner("rag", KEY, clock).sign(principal)
    assert refusal(verifier_for("rag", clock), signed) == "principal_issuer_not_allowed"


def test_issuer_cannot_be_swapped_for_another_with_the_same_key() -> None:
    clock = ManualClock()
    signed = PrincipalSigner("rag", KEY, clock).sign(ANONYMOUS)
    both = PrincipalVerifier({"rag": [KEY.public_key()], "aaa": [KEY.public_key()]}, clock)
    assert refusal(both, signed.replace(b"\x12\x03rag", b"\x12\x03aaa")) == "principal_signature_invalid"


def test_unknown_issuer_is_looked_up_again_but_not_on_every_call() -> None:
    clock = ManualClock()
    reads = 0
    known: dict[str, list[object]] = {}

    def reload() -> dict[str, list[object]]:
        nonlocal reads
        reads += 1
        return dict(known)

    verifier = PrincipalVerifier({}, clock, reload=reload, reload_interval=1)  # type: ignore[arg-type]  # keys as object
    signed = PrincipalSigner("rag", KEY, clock).sign(ANONYMOUS)
    assert {refusal(verifier, signed) for _ in range(5)} == {"principal_signature_invalid"}
    assert reads == 1
    known["rag"] = [KEY.public_key()]
    clock.advance(1)
    assert verifier.verify(signed) == ANONYMOUS


def test_key_files_are_private_and_kept(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    first = ensure_key(directory, "rag")
    assert ensure_key(directory, "rag").private_bytes_raw() == first.private_bytes_raw()
    assert stat.S_IMODE((directory / "rag.key").stat().st_mode) == 0o600
    assert [key.public_bytes_raw() for key in load_trusted(directory)["rag"]] == [first.public_key().public_bytes_raw()]
    assert {path.name for path in directory.iterdir()} == {"rag.key", "trusted.json", "trusted.lock"}


def test_processes_that_start_together_agree_on_the_keys(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from wireroom_common.rpc import ensure_key\n"
        "for name in ('auth', 'chat', 'rag'):\n"
        "    print(ensure_key(Path(sys.argv[1]), name).private_bytes_raw().hex())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "keys")], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    outputs = {process.communicate(timeout=60)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(outputs) == 1
    assert {issuer: len(keys) for issuer, keys in load_trusted(tmp_path / "keys").items()} == {"auth": 1, "chat": 1, "rag": 1}


def test_old_keys_stay_trusted_up_to_four(tmp_path: Path) -> None:
    keys = [Ed25519PrivateKey.generate().public_key() for _ in range(6)]
    for key in keys:
        trust(tmp_path, "rag", key)
    assert [key.public_bytes_raw() for key in load_trusted(tmp_path)["rag"]] == [key.public_bytes_raw() for key in keys[2:]]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"rag": "x"}', b'{"rag": ["x"]}', b'{"rag": ["AAAA"]}'])
def test_broken_trust_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trusted.json").write_bytes(content)
    with pytest.raises(WireroomError, match=r"trusted\.json"):
        load_trusted(tmp_path)


def test_missing_and_broken_key_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WireroomError, match=r"rag\.key is missing"):
        load_key(tmp_path, "rag")
    (tmp_path / "rag.key").write_text("nonsense")
    with pytest.raises(WireroomError, match=r"rag\.key holds no"):
        load_key(tmp_path, "rag")
    with pytest.raises(ValueError, match="process role"):
        ensure_key(tmp_path, "../evil")


@pytest.mark.parametrize(
    "target", ["", "rag", "local:", "grpc://", "grpc://rag", "grpc:unix:relative", "http://rag:1", "grpc://rag:x"]
)
def test_malformed_target_is_invalid(target: str) -> None:
    with pytest.raises(WireroomError) as caught:
        open_channel(target, LocalNetwork())
    assert caught.value.code == "rpc_target_malformed"


@given(st.lists(st.binary(max_size=40), max_size=30), st.integers(1, 4), st.integers(1, 64))
def test_pipe_keeps_order_and_its_bounds(messages: list[bytes], max_messages: int, max_bytes: int) -> None:
    async def run() -> list[bytes]:
        pipe = Pipe(max_messages=max_messages, max_bytes=max_bytes)
        peak = 0

        async def write() -> None:
            nonlocal peak
            for message in messages:
                assert await pipe.put(message)
                peak = max(peak, pipe.waiting_bytes)
            pipe.close()

        writer = asyncio.create_task(write())
        received = []
        while (message := await pipe.get()) is not None:
            received.append(message)
        await writer
        # One message always fits, whatever its size.
        assert peak <= max(max_bytes, 40)
        return received

    assert asyncio.run(run()) == messages


async def test_writer_of_an_abandoned_pipe_is_released() -> None:
    pipe = Pipe(max_messages=1)
    assert await pipe.put(b"1")
    writer = asyncio.create_task(pipe.put(b"2"))
    await asyncio.sleep(0)
    assert not writer.done()
    pipe.discard()
    assert await writer is False
    assert await pipe.get() is None
