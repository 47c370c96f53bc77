from __future__ import annotations

import asyncio
import sys

import aiohttp
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from wireroom_common.testing import eventually
from wireroom_common.testing.scripted_provider import ScriptedProvider

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


async def _chunks(response: aiohttp.ClientResponse) -> list[str]:
    return [line[6:] for line in (await response.text()).splitlines() if line.startswith("data: ")]


async def test_answers_are_valid_completions() -> None:
    async with ScriptedProvider() as provider, aiohttp.ClientSession() as session:
        provider.script(tokens=["a", "b"])
        async with session.post(f"{provider.base_url}/chat/completions", json=BODY) as response:
            assert ChatCompletion.model_validate(await response.json()).choices[0].message.content == "ab"
        body = {**BODY, "stream": True, "stream_options": {"include_usage": True}}
        async with session.post(f"{provider.base_url}/chat/completions", json=body) as response:
            *chunks, done = await _chunks(response)
        assert done == "[DONE]"
        parsed = [ChatCompletionChunk.model_validate_json(chunk) for chunk in chunks]
        assert "".join(choice.delta.content or "" for chunk in parsed for choice in chunk.choices) == "ab"
        assert parsed[-1].usage is not None
        assert (provider.started, provider.completed, provider.cancelled, provider.live) == (2, 2, 0, 0)
        assert [item.body["model"] for item in provider.requests] == ["m", "m"]


async def test_queued_script_serves_one_request_and_unknown_members_are_refused() -> None:
    async with ScriptedProvider() as provider, aiohttp.ClientSession() as session:
        provider.enqueue(status=429, headers={"Retry-After": "3"})
        async with session.post(f"{provider.base_url}/chat/completions", json=BODY) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "3")
        async with session.post(f"{provider.base_url}/chat/completions", json=BODY) as response:
            assert response.status == 200
        with pytest.raises(ValueError, match="tokenz"):
            provider.script(tokenz=[])


async def test_client_that_leaves_is_counted_as_cancelled() -> None:
    async with ScriptedProvider() as provider, aiohttp.ClientSession() as session:
        provider.script(stall_after=1)
        response = await session.post(f"{provider.base_url}/chat/completions", json={**BODY, "stream": True})
        await response.content.readline()
        assert provider.live == 1
        response.close()
        await eventually(lambda: (provider.live, provider.cancelled) == (0, 1), within=1)


async def test_process_is_controlled_over_http() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wireroom_common.testing.scripted_provider", "--port", "0", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        base_url = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
        root = base_url.removesuffix("/v1")
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{root}/script", json={"tokens": ["x"], "queue": True}) as response:
                assert response.status == 200
            async with session.post(f"{root}/script", json={"tokenz": []}) as response:
                assert response.status == 400
            async with session.post(f"{base_url}/chat/completions", json=BODY) as response:
                assert (await response.json())["choices"][0]["message"]["content"] == "x"
            async with session.get(f"{base_url}/models") as response:
                assert (await response.json())["data"][0]["id"] == "scripted-model"
            async with session.get(f"{root}/state") as response:
                state = await response.json()
            assert (state["started"], state["completed"], state["live"]) == (1, 1, 0)
    finally:
        process.terminate()
        await process.wait()
