"""Replicas that die without a word: dropped by the others, cut off from the buffer, or killed for good."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_rig import Replica, Script, caller, replicas, rest_of, take, text_of, whole

from wireroom_chat.domain.frames import End, Frame
from wireroom_common.errors import WireroomError
from wireroom_common.testing import eventually


async def _begun(replica: Replica, script: Script, words: int, grace: float = 30.0) -> list[Frame]:
    """A stream with some words, all of them buffered; its connection is open."""
    direct = replica.deliver(script, grace)
    script.release(words)
    frames = await take(direct, words + 1)
    script.notes.append(direct)
    await eventually(lambda: _is_buffered(replica, script, frames[-1].seq))
    return frames


async def _is_buffered(replica: Replica, script: Script, seq: int) -> bool:
    return bool(await replica.buffer.inner.read(script.generation.tenant_id, script.stream_id, seq - 1))


async def test_a_caller_who_comes_back_gets_the_rest_from_another_replica(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(8)
        second.scripts[script.stream_id] = script
        seen = await _begun(first, script, 3)
        first.buffer.severed = True
        resumed = second.resume(script, after=seen[-1].seq, tail=seen[-2:])
        fifth = await anext(resumed)
        assert fifth == Frame(5, script.info("b"))
        assert second.taken[0][0] == ("a/m",)
        assert text_of([Frame(1, part) for part in second.taken[0][1]]) == "w0 w1 w2 "
        script.release(20)
        whole([*seen, fifth, *await rest_of(resumed)], script)


async def test_frames_that_only_the_caller_has_are_taken_over_from_it(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(8)
        second.scripts[script.stream_id] = script
        seen = await _begun(first, script, 3)
        first.buffer.severed = True
        script.release(2)
        seen += await take(script.notes[0], 2)
        script.release(20)
        seen += await rest_of(second.resume(script, after=seen[-1].seq, tail=seen))
        whole(seen, script)
        assert await rest_of(second.resume(script)) == seen


async def test_a_caller_that_has_more_than_anybody_is_told_so(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(8)
        second.scripts[script.stream_id] = script
        seen = await _begun(first, script, 3)
        first.buffer.severed = True
        with pytest.raises(WireroomError, match="stream_diverged"):
            await rest_of(second.resume(script, after=seen[-1].seq + 2))
        script.release(20)
        whole(await rest_of(second.resume(script)), script)
        # One whose frames differ from those that count gets no more of them.
        other = [Frame(4, b'{"choices": []}')]
        with pytest.raises(WireroomError, match="stream_diverged"):
            await rest_of(second.resume(script, after=4, tail=other))


async def test_a_replica_that_was_only_paused_writes_no_more_and_stops(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script, going_on = Script(8), Script(8)
        going_on.generation, second.scripts[script.stream_id] = script.generation, going_on
        seen = await _begun(first, script, 3)
        first.buffer.severed = True
        resumed = second.resume(script, after=4)
        assert await anext(resumed) == Frame(5, script.info("b"))
        first.buffer.severed = False
        script.release(1)
        with pytest.raises(WireroomError, match="stream_moved"):
            await rest_of(script.notes[0])
        await eventually(lambda: script.ended == "cancelled")
        going_on.release(8)
        whole([*seen, Frame(5, script.info("b")), *await rest_of(resumed)], script)
        assert len(second.taken) == 1
        # And it serves what the other one wrote.
        assert text_of(await rest_of(first.resume(script))) == script.text


async def test_without_a_grace_the_paused_one_stops_as_well(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script, going_on = Script(8), Script(8, free=True)
        going_on.generation, second.scripts[script.stream_id] = script.generation, going_on
        seen = await _begun(first, script, 3, grace=0)
        first.buffer.severed = True
        seen += await rest_of(second.resume(script, after=4))
        whole(seen, script)
        first.buffer.severed = False
        script.release(1)
        with pytest.raises(WireroomError, match="stream_moved"):
            await rest_of(script.notes[0])
        assert script.ended == "cancelled"


async def test_one_of_several_takes_it_up(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 4) as (first, *others):
        script = Script(6, free=True)
        script.released = asyncio.Semaphore(0)
        for replica in others:
            replica.scripts[script.stream_id] = script
        seen = await _begun(first, script, 2)
        first.buffer.severed = True
        reading = [asyncio.create_task(rest_of(replica.resume(script, after=3))) for replica in others]
        await eventually(lambda: any(replica.taken for replica in others))
        # The one that is cut off goes on as well.
        script.release(12)
        rests = await asyncio.gather(*reading)
        assert rests[0] == rests[1] == rests[2]
        whole(seen + rests[0], script)
        assert sum(len(replica.taken) for replica in others) == 1


async def test_what_cannot_be_continued_ends_as_failed(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(8)
        await _begun(first, script, 3)
        first.buffer.severed = True
        frames = await rest_of(second.resume(script))
        assert text_of(frames) == "w0 w1 w2 "
        end = frames[-1].part
        assert isinstance(end, End)
        assert (end.status, end.error_kind, end.error_code) == ("failed", "unavailable", "stream_lost")
        assert await rest_of(second.resume(script)) == frames


async def test_those_that_nobody_comes_back_for_are_settled(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, take_up_after=0.5) as (first, second):
        kept, left = Script(8), Script(8)
        for script in (kept, left):
            second.scripts[script.stream_id] = script
        await _begun(first, kept, 3, grace=30)
        await _begun(first, left, 3, grace=0)
        first.buffer.severed = True

        async def both_taken() -> bool:
            await second.streams.take_up_orphans()
            return len(second.taken) == 2

        await eventually(both_taken)
        kept.release(20)
        whole(await rest_of(second.resume(kept)), kept)
        end = (await rest_of(second.resume(left)))[-1].part
        assert isinstance(end, End)
        assert end.status == "failed"
        assert left.made == 3
        assert sorted(checkpoint["continuable"] for _, _, checkpoint in second.taken) == [False, True]


async def test_cancelling_the_stream_of_a_dead_replica_settles_it(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url) as (first, second):
        script = Script(8)
        second.scripts[script.stream_id] = script
        await _begun(first, script, 3)
        first.buffer.severed = True

        async def cancelled() -> bool:
            await second.streams.cancel(caller(), script.stream_id)
            return bool(second.taken)

        await eventually(cancelled)
        assert (await rest_of(second.resume(script)))[-1].part == End("cancelled")
        assert not second.taken[0][2]["continuable"]


_DOOMED = """
import asyncio, sys
sys.path.insert(0, sys.argv[2])
from stream_rig import Script, replicas
from uuid import UUID
from dataclasses import replace

async def main():
    async with replicas(sys.argv[1], 1) as (only,):
        script = Script(8)
        stream = UUID(sys.argv[3])
        script.generation = replace(script.generation, id=stream, completion_id=f"chatcmpl-{stream.hex}")
        script.release(4)
        async for frame in only.deliver(script):
            print(frame.seq, flush=True)

asyncio.run(main())
"""


async def test_a_killed_process_loses_nothing_that_a_caller_has_seen(clean_valkey_url: str) -> None:
    async with replicas(clean_valkey_url, 1) as (only,):
        script = Script(8)
        only.scripts[script.stream_id] = script
        arguments = [clean_valkey_url, str(Path(__file__).parent), str(script.generation.id)]
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-c", _DOOMED, *arguments], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        lines = [await asyncio.to_thread(process.stdout.readline) for _ in range(5)]
        await eventually(lambda: only.buffer.inner.state(script.generation.tenant_id, script.stream_id))
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.wait)
        process.stdout.close()
        assert [int(line) for line in lines] == [1, 2, 3, 4, 5]
        seen = [Frame(1, script.info()), *(Frame(2 + place, part) for place, part in enumerate(script.chunks(4)))]
        script.release(20)
        seen += await rest_of(only.resume(script, after=5, tail=seen))
        whole(seen, script)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.integers(2, 20), before=st.integers(0, 20), unseen=st.integers(0, 3), resumers=st.integers(1, 3))
async def test_a_death_anywhere_in_an_answer_gives_the_same_text(
    valkey_url: str, words: int, before: int, unseen: int, resumers: int
) -> None:
    """`unseen` words were sent after the last one that was buffered."""
    async with replicas(valkey_url) as (first, second):
        script = Script(words)
        second.scripts[script.stream_id] = script
        # The last word is still to come: it would not be a death in the middle of the answer.
        before = min(before, words - 1)
        seen = await _begun(first, script, before)
        first.buffer.severed = True
        more = min(unseen, words - 1 - before)
        script.release(more)
        seen += await take(script.notes[0], more)
        readers = [asyncio.create_task(rest_of(second.resume(script, seen[-1].seq, seen))) for _ in range(resumers)]
        await eventually(lambda: second.taken)
        script.release(2 * words)
        for rest in await asyncio.gather(*readers):
            whole(seen + rest, script)
