from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from stream_rig import OTHER_TENANT, OTHER_USER, TENANT, USER, Script, caller, replicas, rest_of, take, text_of, whole

from wireroom_chat.domain.frame_codec import pack, unpack
from wireroom_chat.domain.frames import End, Frame
from wireroom_chat.usecases.stream_opening import StreamPolicy
from wireroom_chat.usecases.streams import Streams
from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually


async def test_a_stream_is_delivered_numbered_and_can_be_read_again_on_any_replica(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        for grace in (0.0, 30.0):
            script = Script(20, free=True)
            frames = await rest_of(first.deliver(script, grace))
            whole(frames, script)
            for replica in (first, second):
                assert await rest_of(replica.resume(script)) == frames
                assert await rest_of(replica.resume(script, after=7)) == frames[7:]
                assert await rest_of(replica.resume(script, after=len(frames) - 1)) == frames[-1:]
        await eventually(lambda: first.streams.running() == 0)


async def test_a_follower_elsewhere_sees_frames_as_they_are_made(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(3)
        direct = first.deliver(script)
        assert (await anext(direct)).seq == 1
        async with aclosing(second.resume(script)) as followed:
            assert (await anext(followed)).part == script.info()
            for number in range(3):
                script.release()
                frame = await anext(direct)
                assert await anext(followed) == frame
                assert text_of([frame]) == script.words[number]
            assert (await anext(followed)).part == End("completed")
        await rest_of(direct)


async def test_streams_of_others_are_not_there(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(2)
        direct = first.deliver(script)
        await anext(direct)
        async with aclosing(second.resume(script)) as mine:
            await anext(mine)
        for replica in (first, second):
            for stranger in (caller(OTHER_USER), caller(USER, OTHER_TENANT)):
                with pytest.raises(WireroomError, match="not_found"):
                    await rest_of(replica.resume(script, who=stranger))
                with pytest.raises(WireroomError, match="not_found"):
                    await replica.streams.cancel(stranger, script.stream_id)
            with pytest.raises(WireroomError, match="permission_missing"):
                await rest_of(replica.resume(script, who=caller(USER, script.generation.tenant_id, "news:read")))
            with pytest.raises(WireroomError, match="not_found"):
                await rest_of(replica.streams.resume(caller(), "chatcmpl-*", 0))
        assert script.ended == ""
        script.release(2)
        await rest_of(direct)


async def test_without_a_grace_the_generation_ends_with_its_caller(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(5)
        direct = first.deliver(script, grace=0)
        await anext(direct)
        script.release(2)
        await take(direct, 2)
        await direct.aclose()
        assert script.ended == "cancelled"
        frames = await rest_of(second.resume(script))
        assert frames[-1].part == End("cancelled")
        assert text_of(frames) == "w0 w1 "


async def test_without_a_grace_a_cancelled_call_ends_the_generation_while_it_waits(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 1) as (only,):
        script = Script(5)
        call = asyncio.create_task(rest_of(only.deliver(script, grace=0)))
        await eventually(lambda: only.streams.running() == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert script.ended == "cancelled"


async def test_within_the_grace_a_caller_comes_back_to_a_running_generation(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(6)
        direct = first.deliver(script, grace=30)
        before = [await anext(direct)]
        script.release(2)
        before += await take(direct, 2)
        await direct.aclose()
        script.release(2)
        await eventually(lambda: script.made == 4)
        for replica in (first, second):
            async with aclosing(replica.resume(script, after=3)) as again:
                assert [frame.seq for frame in await take(again, 2)] == [4, 5]
        script.release(2)
        after = await rest_of(first.resume(script, after=3))
        whole(before + after, script)


async def test_after_the_grace_nobody_is_waited_for(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 1) as (only,):
        script = Script(6)
        direct = only.deliver(script, grace=0.05)
        await anext(direct)
        await direct.aclose()
        await eventually(lambda: script.ended == "cancelled")
        assert (await rest_of(only.resume(script)))[-1].part == End("cancelled")


@pytest.mark.parametrize("grace", [0.0, 30.0])
async def test_cancel_reaches_the_generation_from_any_replica(clean_valkey_url: str, grace: float) -> None:
    async with replicas(clean_valkey_url) as made:
        for replica in made:
            script = Script(6)
            direct = made[0].deliver(script, grace)
            await anext(direct)
            async with aclosing(made[1].resume(script)) as known:
                await anext(known)
            ending = asyncio.create_task(rest_of(direct))
            await replica.streams.cancel(caller(), script.stream_id)
            assert (await ending)[-1].part == End("cancelled")
            assert script.ended == "cancelled"
            # It has ended: nothing to do.
            await replica.streams.cancel(caller(), script.stream_id)


@pytest.mark.parametrize("grace", [0.0, 30.0])
async def test_errors_before_the_first_frame_are_raised_and_later_ones_are_frames(clean_valkey_url: str, grace: float) -> None:
    async with replicas(clean_valkey_url, 1) as (only,):
        error = WireroomError(ErrorKind.UNAVAILABLE, "provider_unavailable", "Away.", retry_after=3)
        script = Script(2, free=True)
        script.error = error
        frames = await rest_of(only.deliver(script, grace))
        assert text_of(frames) == script.text
        end = frames[-1].part
        assert isinstance(end, End)
        assert (end.status, end.error_kind, end.error_code, end.retry_after) == (
            "failed",
            "unavailable",
            "provider_unavailable",
            3,
        )

        async def refused():  # type: ignore[no-untyped-def]  # noqa: ANN202 - an asynchronous generator that never yields
            for part in ():
                yield part
            raise error

        with pytest.raises(WireroomError) as caught:
            await rest_of(only.streams.deliver(Script(1).opening(grace), refused()))
        assert caught.value is error
        assert only.streams.running() == 0


async def test_what_was_trimmed_is_said_to_be_gone(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 2, max_bytes=2_000, window_bytes=1_000) as (first, second):
        script = Script(400)
        direct = first.deliver(script)
        kept = [await anext(direct)]
        for _ in range(40):
            script.release(10)
            kept += await take(direct, 10)
            await eventually(partial(first.buffer.inner.read, TENANT, script.stream_id, kept[-1].seq - 1))
        for replica in (first, second):
            with pytest.raises(WireroomError, match="stream_trimmed"):
                await rest_of(replica.resume(script))
        kept += await rest_of(direct)
        whole(kept, script)
        near = len(kept) - 3
        assert await rest_of(second.resume(script, after=near)) == kept[near:]


async def test_a_stream_that_outruns_the_buffer_goes_on_without_it(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 2, window_bytes=1_000) as (first, second):
        script = Script(400)
        direct = first.deliver(script)
        frames = [await anext(direct)]
        await eventually(partial(second.buffer.inner.read, TENANT, script.stream_id, 0))
        following = asyncio.create_task(rest_of(second.resume(script)))
        first.buffer.severed = True
        script.release(400)
        frames += await rest_of(direct)
        whole(frames, script)
        first.buffer.severed = False
        other = Script(1, free=True)
        await rest_of(first.deliver(other))
        with pytest.raises(WireroomError, match="stream_trimmed"):
            await following
        with pytest.raises(WireroomError, match="stream_not_found"):
            await rest_of(second.resume(script))


async def test_a_slow_caller_holds_the_generation_up_and_a_second_reader_frees_it(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 1, window_bytes=2_000) as (only,):
        script = Script(500, free=True)
        slow = only.deliver(script)
        await anext(slow)
        await eventually(lambda: script.made >= 20)
        other = Script(300, free=True)
        whole(await rest_of(only.deliver(other)), other)
        assert script.made < 60
        whole(await rest_of(only.resume(script)), script)
        # The slow one gets what it has missed from the buffer.
        whole([Frame(1, script.info()), *await rest_of(slow)], script)


async def test_without_a_buffer_streams_work_and_are_resumed_from_memory_only() -> None:
    streams = Streams(policy=StreamPolicy())
    await streams.start()
    script = Script(3)
    direct = streams.deliver(script.opening(30), script.produce())
    first = await anext(direct)
    await direct.aclose()
    script.release(3)
    whole([first, *await rest_of(streams.resume(caller(), script.stream_id, 1))], script)
    with pytest.raises(WireroomError, match="not_found"):
        await rest_of(streams.resume(caller(), Script(1).stream_id, 0))
    await streams.stop()


async def test_a_buffer_that_goes_away_and_comes_back_misses_nothing(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(6)
        direct = first.deliver(script)
        frames = [await anext(direct)]
        await eventually(partial(second.buffer.inner.read, TENANT, script.stream_id, 0))
        first.buffer.severed = True
        script.release(3)
        frames += await take(direct, 3)
        first.buffer.severed = False
        script.release(3)
        frames += await rest_of(direct)
        whole(frames, script)
        assert await rest_of(second.resume(script, after=2)) == frames[2:]


async def test_nothing_of_a_stream_is_readable_in_the_store(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 1) as (only,):
        script = Script(3)
        script.words = ["confidential "] * 3
        direct = only.deliver(script)
        await anext(direct)
        script.release(2)
        await take(direct, 2)
        client = Redis.from_url(clean_valkey_url)

        async def stored() -> list[bytes]:
            return [await client.dump(key) or b"" async for key in client.scan_iter("wireroom:chat:stream:*")]

        values = await eventually(lambda: _if_two(stored))
        assert not any(b"confidential" in value or b"choices" in value or b"continuable" in value for value in values)
        assert [await client.ttl(key) > 0 async for key in client.scan_iter("wireroom:chat:stream:*")] == [True, True]
        await client.aclose()
        script.release()
        await rest_of(direct)


async def _if_two(stored):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - a small helper of the test above
    values = await stored()
    return values if len(values) == 2 else None


frames_of_all_kinds = st.lists(
    st.one_of(st.binary(max_size=300), st.builds(End, st.text(max_size=9), st.text(max_size=9))), min_size=1
)


@given(frames_of_all_kinds, st.integers(1, 2**40))
def test_packed_frames_come_out_as_they_went_in(parts: list[bytes | End], first: int) -> None:
    frames = [Frame(first + place, part) for place, part in enumerate(parts)]
    assert unpack(pack(frames)) == frames


@given(st.binary(max_size=200))
def test_unpacking_anything_else_is_a_value_error_or_frames(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(isinstance(frame, Frame) for frame in unpack(data))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.integers(1, 30),
    steps=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(0, 8)), max_size=8),
    grace=st.sampled_from([30.0]),
)
async def test_any_course_of_disconnections_gives_the_same_text(
    valkey_url: str, words: int, steps: list[tuple[int, int, int]], grace: float
) -> None:
    """Each step: which replica is asked, how many words are released before, how many frames are read before the connection breaks."""
    async with replicas(valkey_url) as made:
        script = Script(words)
        seen = []
        stream = made[0].deliver(script, grace)
        seen.append(await anext(stream))
        for replica, released, read in steps:
            script.release(released)
            made_words = min(words, released + len(seen) - 1)
            seen += await take(stream, max(0, min(read, made_words - (len(seen) - 1))))
            await stream.aclose()
            stream = made[replica].resume(script, after=len(seen))
        script.release(words)
        seen += await rest_of(stream)
        whole(seen, script)
