from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from gateway_rig import Rig, running

from wireroom_common.errors import ErrorKind, WireroomError
from wireroom_common.testing import eventually
from wireroom_protos.chat.v1 import chat_pb2

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "extractive", "messages": [{"role": "user", "content": "What is it?"}]}
COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "created": 1,
    "model": "extractive",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "It is."}}],
}
INFO = chat_pb2.CompletionInfo(completion_id="c1", model="extractive", answer_mode="extractive", provider="wireroom")


def chunk(text: str) -> chat_pb2.StreamCompleteResponse:
    body = {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "extractive",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return chat_pb2.StreamCompleteResponse(data=json.dumps(body).encode())


class Script:
    """An answer whose course the test decides: it waits at `go` after the first part, and shows how it ended."""

    def __init__(self, *texts: str, error: Exception | None = None) -> None:
        self.texts = texts
        self.error = error
        self.started = asyncio.Event()
        self.go = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def stream(self, _request: Any) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        try:
            yield chat_pb2.StreamCompleteResponse(info=INFO)
            for text in self.texts:
                yield chunk(text)
                self.started.set()
                await self.go.wait()
            if self.error is not None:
                raise self.error
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def complete(self, _request: Any) -> chat_pb2.CompleteResponse:
        self.started.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return chat_pb2.CompleteResponse(body=json.dumps(COMPLETION).encode(), info=INFO)


def script(rig: Rig, *texts: str, waits: bool = False, error: Exception | None = None) -> Script:
    made = Script(*texts, error=error)
    if not waits:
        made.go.set()
    rig.neighbours.answers |= {"StreamComplete": made.stream, "Complete": made.complete}
    return made


def sdk(rig: Rig, *permissions: str, token: str = "") -> openai.AsyncOpenAI:
    key = token or rig.issuer.token(*permissions)
    return openai.AsyncOpenAI(base_url=f"{rig.url}/v1", api_key=key, max_retries=0)


async def test_the_sdk_reads_answers_and_streams(rig: Rig) -> None:
    script(rig, "It ", "is.")
    async with sdk(rig, "llm:invoke") as client:
        answer = await client.chat.completions.with_raw_response.create(**ASK)
        assert answer.headers["x-answer-mode"] == "extractive"
        assert float(answer.headers["x-overhead-ms"]) >= 0
        assert answer.parse().choices[0].message.content == "It is."
        stream = await client.chat.completions.create(**ASK, stream=True)
        assert [part.choices[0].delta.content async for part in stream] == ["It ", "is."]
    assert json.loads(rig.neighbours.called("Complete")[0].request.body)["messages"] == ASK["messages"]


async def test_the_sdk_recognises_each_error(rig: Rig) -> None:
    async def fail(_request: Any) -> Any:
        raise error

    rig.neighbours.answers["Complete"] = fail
    for kind, expected in (
        (ErrorKind.INVALID, openai.BadRequestError),
        (ErrorKind.NOT_FOUND, openai.NotFoundError),
        (ErrorKind.RATE_LIMITED, openai.RateLimitError),
        (ErrorKind.UNAVAILABLE, openai.InternalServerError),
        (ErrorKind.DEADLINE, openai.InternalServerError),
        (ErrorKind.INTERNAL, openai.InternalServerError),
    ):
        error = WireroomError(kind, "some_code", "Some detail.")
        async with sdk(rig, "llm:invoke") as client:
            with pytest.raises(expected) as caught:
                await client.chat.completions.create(**ASK)
            assert caught.value.code == ("internal" if kind is ErrorKind.INTERNAL else "some_code")
            assert caught.value.request_id
    async with sdk(rig, token="nonsense") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
    async with sdk(rig, "news:read") as client:
        with pytest.raises(openai.PermissionDeniedError):
            await client.models.list()


async def test_an_error_before_the_first_part_has_its_status(rig: Rig) -> None:
    async def fail(_request: Any) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        raise WireroomError(ErrorKind.UNAVAILABLE, "provider_unavailable", "The provider is away.", retry_after=3)
        yield

    rig.neighbours.answers["StreamComplete"] = fail
    async with rig.session.post(PATH, json={**ASK, "stream": True}, headers=rig.bearer("llm:invoke")) as reply:
        assert reply.status == 503
        assert reply.headers["retry-after"] == "3"
        assert (await reply.json())["error"]["code"] == "provider_unavailable"


async def test_frames_of_an_event_stream(rig: Rig) -> None:
    script(rig, "It ", "is.")
    async with rig.session.post(PATH, json={**ASK, "stream": True}, headers=rig.bearer("llm:invoke")) as reply:
        assert reply.status == 200
        assert reply.content_type == "text/event-stream"
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"
        assert reply.headers["x-answer-mode"] == "extractive"
        frames = (await reply.text()).split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    contents = [json.loads(frame.removeprefix("data: "))["choices"][0]["delta"]["content"] for frame in frames[:-2]]
    assert contents == ["It ", "is."]


async def test_line_breaks_inside_a_chunk_do_not_end_the_frame(rig: Rig) -> None:
    async def pretty(_request: Any) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        yield chat_pb2.StreamCompleteResponse(data=b'{\r\n "a":\n 1\n}')

    rig.neighbours.answers["StreamComplete"] = pretty
    async with rig.session.post(PATH, json={**ASK, "stream": True}, headers=rig.bearer("llm:invoke")) as reply:
        frames = (await reply.text()).split("\n\n")
    assert json.loads(frames[0].removeprefix("data: ")) == {"a": 1}
    assert frames[1:] == ["data: [DONE]", ""]


async def test_an_error_in_mid_stream_is_told_as_data(rig: Rig) -> None:
    for error, code in (
        (WireroomError(ErrorKind.UNAVAILABLE, "provider_unavailable", "The provider went away."), "provider_unavailable"),
        (RuntimeError("password=hunter2"), "internal"),
    ):
        made = script(rig, "It ", waits=True, error=error)
        async with rig.session.post(PATH, json={**ASK, "stream": True}, headers=rig.bearer("llm:invoke")) as reply:
            first = await reply.content.readuntil(b"\n\n")
            assert b"It " in first
            made.go.set()
            rest = await reply.text()
        assert json.loads(rest.split("\n\n")[0].removeprefix("data: "))["error"]["code"] == code
        assert "[DONE]" not in rest
        assert "hunter2" not in rest
    made = script(rig, "It ", waits=True, error=WireroomError(ErrorKind.UNAVAILABLE, "some_code", "The provider went away."))
    async with sdk(rig, "llm:invoke") as client:
        stream = await client.chat.completions.create(**ASK, stream=True)
        parts = aiter(stream)
        assert (await anext(parts)).choices[0].delta.content == "It "
        made.go.set()
        with pytest.raises(openai.APIError, match="went away"):
            await anext(parts)


async def test_silence_is_filled_with_comments(work_dir: Path) -> None:
    async with running(work_dir, keepalive_seconds=0.05) as rig:
        made = script(rig, "It ", "is.", waits=True)
        async with rig.session.post(PATH, json={**ASK, "stream": True}, headers=rig.bearer("llm:invoke")) as reply:
            assert b"It " in await reply.content.readuntil(b"\n\n")
            assert await reply.content.readuntil(b"\n\n") == b": keepalive\n\n"
            assert await reply.content.readuntil(b"\n\n") == b": keepalive\n\n"
            made.go.set()
            assert "[DONE]" in await reply.text()


async def test_an_answer_that_is_slow_to_begin_gets_its_headers(work_dir: Path) -> None:
    release = asyncio.Event()

    async def slow(_request: Any) -> AsyncIterator[chat_pb2.StreamCompleteResponse]:
        await release.wait()
        yield chunk("It is.")

    async with (
        running(work_dir, stream_headers_seconds=0.05, answers={"StreamComplete": slow}) as rig,
        rig.session.post(PATH, json={**ASK, "stream": True}, headers=rig.bearer("llm:invoke")) as reply,
    ):
        assert reply.status == 200
        release.set()
        assert "It is." in await reply.text()


async def test_event_streams_are_never_compressed_and_answers_are(rig: Rig) -> None:
    script(rig, "x" * 5_000)
    headers = {**rig.bearer("llm:invoke"), "accept-encoding": "gzip"}
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        async with session.post(rig.url + PATH, json={**ASK, "stream": True}, headers=headers) as reply:
            assert "content-encoding" not in reply.headers
            assert (await reply.read()).startswith(b"data: {")

        async def large(_request: Any) -> chat_pb2.CompleteResponse:
            return chat_pb2.CompleteResponse(body=json.dumps({**COMPLETION, "x": "y" * 5_000}).encode())

        rig.neighbours.answers["Complete"] = large
        async with session.post(rig.url + PATH, json=ASK, headers=headers) as reply:
            assert reply.headers["content-encoding"] == "gzip"
            assert len(await reply.read()) < 1_000


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_cancels_the_call(rig: Rig, stream: bool) -> None:  # noqa: FBT001
    made = script(rig, "It ", "is.", waits=True)
    body = json.dumps({**ASK, "stream": stream}).encode()
    _, writer = await rig.connect()
    head = rig.head("POST", PATH, content_type="application/json", content_length=str(len(body)), **rig.bearer("llm:invoke"))
    writer.write(head + body)
    async with asyncio.timeout(10):
        await made.started.wait()
        assert not made.cancelled.is_set()
        writer.close()
        await made.cancelled.wait()

    async def counted() -> bool:
        async with rig.session.get("/metrics") as reply:
            return f'method="POST",route="{PATH}",status=' in await reply.text()

    await eventually(counted)


@pytest.mark.parametrize("value", ["yes", 1, [], {}], ids=str)
async def test_stream_must_be_true_or_false(rig: Rig, value: Any) -> None:
    async with rig.session.post(PATH, json={**ASK, "stream": value}, headers=rig.bearer("llm:invoke")) as reply:
        assert reply.status == 400
        assert (await reply.json())["error"]["code"] == "stream_invalid"


async def test_models_have_openais_form_and_names_with_slashes(rig: Rig) -> None:
    async def models(_request: Any) -> chat_pb2.ListModelsResponse:
        kinds = {"extractive": "chat", "vendor/large": "embedding"}
        entries = [chat_pb2.Model(id=name, owned_by="wireroom", created=1, type=kind) for name, kind in kinds.items()]
        return chat_pb2.ListModelsResponse(models=entries)

    rig.neighbours.answers["ListModels"] = models
    async with sdk(rig, "llm:invoke") as client:
        assert [model.id async for model in client.models.list()] == ["extractive", "vendor/large"]
    async with rig.session.get("/v1/models/vendor/large", headers=rig.bearer("llm:invoke")) as reply:
        found = await reply.json()
        assert (found["id"], found["type"]) == ("vendor/large", "embedding")
    async with rig.session.get("/v1/models/none", headers=rig.bearer("llm:invoke")) as reply:
        assert reply.status == 404
        assert (await reply.json())["error"]["code"] == "model_not_found"
