"""Two whole chat services as two replicas: one database, one buffer; each has a provider of its own, so that it shows who wrote what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from chat_harness import ChatUnderTest, ask, chat_under_test
from redis.exceptions import ConnectionError as RedisConnectionError

from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_common.testing.plugin import MigratedDatabase
from wireroom_protos.chat.v1 import chat_pb2, conversation_pb2, conversation_pb2_grpc

WORDS = [f"word{number} " for number in range(12)]


def cut_off(chat: ChatUnderTest) -> None:
    """To the others the replica is gone: nothing of it reaches the buffer any more."""
    assert chat.infra is not None
    client = chat.infra.redis()

    async def away(*_: Any, **__: Any) -> Any:
        raise RedisConnectionError("cut off")

    client.evalsha = client.eval = client.xrange = away


def text_of(frames: list[Any]) -> str:
    chunks = [orjson.loads(frame.data) for frame in frames if frame.WhichOneof("part") == "data"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def test_another_replica_goes_on_with_the_answer_and_it_is_settled_once(
    migrated_database: MigratedDatabase, clean_valkey_url: str, tmp_path: Path
) -> None:
    database = await migrated_database("chat")
    shared: dict[str, Any] = {"redis_url": clean_valkey_url, "stream_lease": 2.0}
    async with (
        chat_under_test(database, tmp_path, "local", (), **shared) as first,
        chat_under_test(database, tmp_path, "local", (), **shared) as second,
    ):
        first.provider.script(tokens=WORDS, stall_after=5)
        second.provider.script(tokens=WORDS[5:])
        set_current_principal(first.principal)
        body = orjson.dumps({"model": "scripted/scripted-model", "messages": ask("Go on."), "stream": True})
        call = first.stub.StreamComplete(chat_pb2.StreamCompleteRequest(body=body), timeout=30)
        parts = aiter(call)
        frames: list[conversation_pb2.StreamFrame] = []
        # Info, the role, five words.
        while len(frames) < 7:
            part = await anext(parts)
            if part.HasField("info"):
                frames.append(conversation_pb2.StreamFrame(seq=part.seq, info=part.info))
            else:
                chunks = enumerate((part.data, *part.more), part.seq)
                frames += [conversation_pb2.StreamFrame(seq=seq, data=data) for seq, data in chunks]
        assert [frame.seq for frame in frames] == list(range(1, 8))
        stream = frames[0].info.completion_id
        streams = conversation_pb2_grpc.StreamServiceStub(second.channel)

        async def buffered() -> bool:
            resumed = streams.Resume(conversation_pb2.ResumeRequest(stream_id=stream, after_seq=6), timeout=5)
            found = (await anext(aiter(resumed))).frame == frames[6]
            resumed.cancel()
            return found

        await eventually(buffered)
        cut_off(first)
        request = conversation_pb2.ResumeRequest(stream_id=stream, after_seq=7, tail=frames[-3:])
        rest = [response.frame async for response in streams.Resume(request, timeout=30)]
        assert [frame.seq for frame in rest] == list(range(8, 8 + len(rest)))
        assert text_of(frames + rest) == "".join(WORDS), rest
        assert rest[-1].end.status == "completed"
        asked = second.provider.requests[0].body["messages"]
        assert any("word4" in str(message["content"]) for message in asked)
        # The one that was cut off is given up in the end, and that changes nothing.
        call.cancel()
        await eventually(lambda: first.provider.live == 0)
        (row,) = await first.rows()
        assert (row.status, row.completion_id) == ("completed", stream)
        assert [name for name, _ in await first.events() if name.startswith("chat.completion.")] == ["chat.completion.completed"]
