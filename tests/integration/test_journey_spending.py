"""Many callers at once: what was spent, what was left running, what stays reachable, and what goes on when a process is killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import psycopg
import pytest
from api import Api, wait_for
from conftest import sign_up
from harness import Deployment, Running, deploy, free_port, listens
from psycopg.rows import dict_row

QUESTION = "What is the capital of France?"
PROMPT_TOKENS = 7
# Micro-units for a token, in and out.
PRICE = 200
TOKENS = [f" word{number}" for number in range(100)]
PLENTY = 10_000_000
SCOPES = ("ip", "user", "key", "tenant", "global")
POOL = 5


@dataclass(frozen=True)
class World:
    """Six processes, chat with a pool of five connections, and two scripted providers, `a` and `b`, behind the alias `pair`."""

    running: Running
    caller: Api
    a: Api
    b: Api

    def script(self, **members: Any) -> None:
        """How both answer from now on; what they have counted is forgotten."""
        for provider in (self.a, self.b):
            provider.post("/reset", {})
            provider.post("/script", {"prompt_tokens": PROMPT_TOKENS, **members})

    def bill(self) -> list[dict[str, Any]]:
        """What both ask for, refused requests left out."""
        return [item for provider in (self.a, self.b) for item in provider.get("/state")["bill"] if item["status"] != "refused"]

    def live(self) -> int:
        """Generations that the providers still work on."""
        return sum(int(provider.get("/state")["live"]) for provider in (self.a, self.b))

    def rows(self, statement: str) -> list[dict[str, Any]]:
        """Rows as an administrator sees them."""
        with psycopg.connect(self.running.environment["WIREROOM_DATABASE_ADMIN_URL"], connect_timeout=10) as connection:
            return connection.cursor(row_factory=dict_row).execute(statement).fetchall()  # type: ignore[arg-type]  # of this file

    def usage(self) -> list[dict[str, Any]]:
        """The ledger, once every generation has ended."""
        wait_for(lambda: not self.rows("SELECT 1 FROM chat.generations WHERE status = 'running'"))
        return self.rows("SELECT * FROM chat.usage ORDER BY generation_id, number")

    def forget(self) -> None:
        """Empty the ledger, once every generation has ended."""
        self.usage()
        with psycopg.connect(self.running.environment["WIREROOM_DATABASE_ADMIN_URL"], connect_timeout=10) as connection:
            connection.execute(
                "TRUNCATE chat.usage, chat.generations, chat.usage_daily, chat.budgets, chat.budget_periods, chat.reservations"
            )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    ports = {"a": free_port(), "b": free_port()}
    providers = [
        subprocess.Popen([sys.executable, "-m", "wireroom_common.testing.scripted_provider", "--port", str(port)])
        for port in ports.values()
    ]
    price = {"input_micros": PRICE * 1_000_000, "output_micros": PRICE * 1_000_000, "max_output_tokens": 200}
    configured = {name: {"base_url": f"http://127.0.0.1:{port}/v1", "models": {"m": price}} for name, port in ports.items()}
    path = tmp_path_factory.mktemp("providers") / "providers.yaml"
    # JSON is YAML.
    aliases = {"pair": {"strategy": "ordered", "candidates": ["a/m", "b/m"]}}
    path.write_text(json.dumps({"version": 1, "providers": configured, "aliases": aliases}))
    overrides = {f"{bucket}.{scope}": PLENTY for bucket in ("api", "auth", "chat") for scope in SCOPES}
    extra = {
        "WIREROOM_GATEWAY_LIMIT_OVERRIDES": json.dumps(overrides),
        "WIREROOM_CHAT_PROVIDERS_FILE": str(path),
        "WIREROOM_CHAT_MAX_GENERATIONS_PER_USER": "1000",
        "WIREROOM_CHAT_MAX_GENERATIONS_PER_TENANT": "1000",
        "WIREROOM_DATABASE_POOL_SIZE": str(POOL),
        "WIREROOM_DATABASE_MAX_OVERFLOW": "0",
    }
    try:
        a, b = (Api(f"http://127.0.0.1:{port}") for port in ports.values())
        for provider in (a, b):
            wait_for(lambda provider=provider: provider.call("GET", "/state").status == 200)
        with deploy(Deployment.DISTRIBUTED, extra) as running:
            yield World(running, sign_up(running), a, b)
    finally:
        for process in providers:
            process.terminate()
        for process in providers:
            process.wait(10)


def _session(world: World) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        world.running.base_url,
        headers={"authorization": f"Bearer {world.caller.key}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=120),
    )


def _question(**members: Any) -> dict[str, Any]:
    return {"model": "pair", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 200, **members}


def _texts(events: bytes) -> str:
    chunks = [json.loads(line[6:]) for line in events.split(b"\n") if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_five_hundred_callers_never_spend_more_than_the_budget(world: World) -> None:
    world.forget()
    world.script(tokens=TOKENS[:20])
    cap = 1_000_000
    world.caller.post("/api/v1/admin/budgets", {"scope": "tenant", "period": "month", "cap_micros": cap})
    wait_for(lambda: world.caller.get("/api/v1/usage/budget")["budgets"])

    async def ask(session: aiohttp.ClientSession, number: int) -> int:
        body = _question(stream=number % 2 == 0, max_tokens=20)
        async with session.post("/v1/chat/completions", json=body) as response:
            content = await response.read()
            if response.status == 429:
                assert json.loads(content)["error"]["code"] == "insufficient_quota"
                assert response.headers["x-should-retry"] == "false"
            return response.status

    async def storm() -> list[int]:
        async with _session(world) as session:
            return await asyncio.gather(*(ask(session, number) for number in range(500)))

    statuses = asyncio.run(storm())
    assert set(statuses) == {200, 429}
    usage = world.usage()
    spent = sum(row["micros"] for row in usage)
    billed = sum((item["prompt_tokens"] + item["completion_tokens"]) * PRICE for item in world.bill())
    assert spent == billed
    assert 0 < spent <= cap
    [period] = world.rows("SELECT spent, reserved FROM chat.budget_periods")
    assert (period["spent"], period["reserved"]) == (spent, 0)
    # What is left is less than one more call might cost.
    while world.caller.call("POST", "/v1/chat/completions", _question(max_tokens=20)).status == 200:
        pass
    assert cap - sum(row["micros"] for row in world.usage()) < 100 * PRICE


def test_ledger_is_the_providers_bill_whatever_happens(world: World) -> None:
    world.forget()
    world.script(tokens=TOKENS[:30])
    ask = lambda **members: world.caller.call("POST", "/v1/chat/completions", _question(**members))  # noqa: E731 - a name for the test's verb
    assert ask().status == 200
    assert ask(stream=True).status == 200
    # Retry and failover: refused, then cut in the middle.
    world.a.post("/script", {"queue": True, "status": 500})
    assert ask().headers["x-provider-path"] == "a/m,b/m"
    world.a.post("/script", {"queue": True, "tokens": TOKENS[:30], "cut_after": 11, "prompt_tokens": PROMPT_TOKENS})
    assert ask(stream=True).status == 200
    # The second time nobody is asked.
    kept = [ask(temperature=0).headers["x-cache"] for _ in range(2)]
    assert kept == ["miss", "hit"]
    usage = world.usage()
    booked = sorted((row["provider"], row["tokens_out"]) for row in usage if row["tokens_in"])
    billed = sorted(
        (name, item["completion_tokens"])
        for name, provider in (("a", world.a), ("b", world.b))
        for item in provider.get("/state")["bill"]
        if item["status"] != "refused"
    )
    assert booked == billed
    assert len(billed) == 6
    # The continuation's prompt is longer, and so is the provider's bill for it; both sides count alike where the prompt is the question.
    assert all(row["micros"] == (row["tokens_in"] + row["tokens_out"]) * PRICE for row in usage)


def test_a_thousand_callers_that_leave_stop_a_thousand_generations(world: World) -> None:
    world.forget()
    # Long answers: on a slow machine a short one may be complete before its caller has read that far.
    world.script(tokens=TOKENS * 20, token_delay=0.01)
    leaving, together = 1_000, 40
    chance = random.Random(7)  # noqa: S311 - chooses when callers leave

    async def leave(session: aiohttp.ClientSession, gate: asyncio.Semaphore, chunks: int) -> None:
        async with gate, session.post("/v1/chat/completions", json=_question(stream=True)) as response:
            assert response.status == 200
            for _ in range(chunks):
                await response.content.readany()
            response.close()

    async def crowd() -> None:
        gate = asyncio.Semaphore(together)
        async with _session(world) as session:
            await asyncio.gather(*(leave(session, gate, chance.randrange(12)) for _ in range(leaving)))

    asyncio.run(crowd())
    # Sooner than any of them would end by itself.
    wait_for(lambda: world.live() == 0, within=10, every=0.02)
    usage = world.usage()
    assert len({row["generation_id"] for row in usage}) == leaving
    ended = Counter(row["status"] for row in usage)
    assert set(ended) <= {"cancelled", "completed"}
    assert ended["cancelled"] > leaving * 0.9
    billed = sum(item["completion_tokens"] for item in world.bill())
    booked = sum(row["tokens_out"] for row in usage)
    # What was under way when a caller left is billed, and may not have arrived.
    assert booked <= billed <= booked + 4 * leaving


def test_open_streams_hold_no_database_connections(world: World) -> None:
    world.forget()
    world.script(tokens=TOKENS[:40], token_delay=0.2)
    streams = 500

    async def follow(session: aiohttp.ClientSession) -> str:
        async with session.post("/v1/chat/completions", json=_question(stream=True)) as response:
            assert response.status == 200
            return _texts(await response.read())

    async def crowd() -> list[str]:
        async with _session(world) as session:
            tasks = [asyncio.create_task(follow(session)) for _ in range(streams)]
            answers = 0
            while not all(task.done() for task in tasks):
                async with session.get("/health/ready", timeout=aiohttp.ClientTimeout(total=5)) as response:
                    assert response.status == 200, await response.text()
                    answers += 1
                await asyncio.sleep(0.1)
            assert answers > 10
            return [task.result() for task in tasks]

    texts = asyncio.run(crowd())
    assert texts == ["".join(TOKENS[:40])] * streams
    assert len(world.usage()) == streams
    used = world.rows(
        "SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'wireroom-chat' AND usename = 'chat_app'"
    )
    assert used[0]["n"] <= POOL
    assert "QueuePool" not in world.running.log("chat")


def test_native_stream_goes_on_at_another_gateway_when_its_own_is_killed(world: World) -> None:
    world.script(tokens=TOKENS, token_delay=0.03)
    running = world.running
    port = free_port()
    running.start("gateway", name="gateway-2", extra={"WIREROOM_GATEWAY_PORT": str(port), "WIREROOM_GATEWAY_TLS_PORT": "0"})
    other = Api(f"http://127.0.0.1:{port}", world.caller.key)
    wait_for(lambda: other.call("GET", "/health/ready").status == 200)

    async def cut_off() -> tuple[str, str, int]:
        asked = {"message": QUESTION, "model": "pair"}
        async with _session(world) as session, session.post("/api/v1/chat/stream", json=asked) as response:
            assert response.status == 200
            text, last = "", 0
            with contextlib.suppress(aiohttp.ClientError):
                async for name, seq, data in _native_events(response):
                    last = seq or last
                    text += data.get("text", "") if name == "token" else ""
                    if text.count("word") >= 20:
                        running.kill("gateway")
            return response.headers["x-stream-id"], text, last

    async def go_on(stream_id: str, last: int) -> tuple[str, list[str]]:
        headers = {"authorization": f"Bearer {world.caller.key}", "Last-Event-ID": str(last)}
        async with (
            aiohttp.ClientSession(other.base_url, headers=headers) as session,
            session.get(f"/api/v1/chat/streams/{stream_id}") as response,
        ):
            assert response.status == 200
            events = [(name, data) async for name, _, data in _native_events(response)]
            return "".join(data["text"] for name, data in events if name == "token"), [name for name, _ in events]

    try:
        stream_id, begun, last = asyncio.run(cut_off())
        assert 20 <= begun.count("word") < len(TOKENS)
        rest, names = asyncio.run(go_on(stream_id, last))
        assert begun + rest == "".join(TOKENS)
        assert names.count("done") == 1
    finally:
        running.start("gateway")
        running.wait_ready()
        running.terminate("gateway-2")
        del running.processes["gateway-2"]


def test_openai_stream_goes_on_when_its_chat_process_is_killed(world: World) -> None:
    world.forget()
    # Long enough for a process to start meanwhile.
    tokens = [f"word{number} " for number in range(1200)]
    world.script(tokens=tokens, token_delay=0.05)
    running = world.running
    first, second, port = free_port(), free_port(), free_port()
    targets = f"grpc:ipv4:127.0.0.1:{first},127.0.0.1:{second}"
    running.start("chat", name="chat-2", extra={"WIREROOM_RPC_LISTEN": f"grpc://127.0.0.1:{first}"})
    running.start(
        "gateway",
        name="gateway-2",
        extra={"WIREROOM_GATEWAY_PORT": str(port), "WIREROOM_GATEWAY_TLS_PORT": "0", "WIREROOM_RPC_CHAT_URL": targets},
    )
    other = Api(f"http://127.0.0.1:{port}", world.caller.key)
    try:
        wait_for(lambda: other.call("GET", "/v1/models").status == 200, within=60)

        async def follow() -> bytes:
            received = b""
            async with (
                aiohttp.ClientSession(other.base_url, headers={"authorization": f"Bearer {other.key}"}) as session,
                session.post("/v1/chat/completions", json=_question(stream=True)) as response,
            ):
                assert response.status == 200
                async for data in response.content.iter_any():
                    received += data
                    if "chat-3" not in running.processes and received.count(b"word") >= 5:
                        # What goes on must be continued by somebody: from here on the provider has the rest only.
                        running.start("chat", name="chat-3", extra={"WIREROOM_RPC_LISTEN": f"grpc://127.0.0.1:{second}"})
                    if "chat-2" in running.processes and received.count(b"word") >= 60 and listens(second):
                        for provider in (world.a, world.b):
                            provider.post("/script", {"tokens": ["<rest>"], "prompt_tokens": PROMPT_TOKENS})
                        running.kill("chat-2")
                        del running.processes["chat-2"]
            return received

        received = asyncio.run(follow())
        text = _texts(received)
        assert received.count(b"data: [DONE]") == 1, received[-500:]
        assert received.count(b'"finish_reason":"stop"') == 1
        written, _, rest = text.partition("<rest>")
        assert rest == ""
        assert written == "".join(tokens[: written.count("word")])
        assert 60 <= written.count("word") < len(tokens)
        [generation] = list(world.rows("SELECT * FROM chat.generations WHERE origin_kind = 'openai'"))
        assert generation["status"] == "completed"
        parts = [row for row in world.usage() if row["generation_id"] == generation["id"]]
        assert [(part["status"], part["error_code"]) for part in parts] == [("failed", "process_lost"), ("completed", "")]
    finally:
        for name in ("chat-2", "chat-3", "gateway-2"):
            if name in running.processes:
                running.kill(name)
                del running.processes[name]


async def _native_events(response: aiohttp.ClientResponse) -> Any:
    """Name, seq (0 without one) and data of each event."""
    name, seq = "", 0
    async for raw in response.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("id: "):
            seq = int(line[4:])
        elif line.startswith("data: "):
            yield name, seq, json.loads(line[6:])
        elif not line:
            name, seq = "", 0
