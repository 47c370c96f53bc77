"""One installation, run as a user would run it, with a scripted provider behind it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from api import Api, wait_for
from harness import Deployment, deploy, free_port

ACCOUNT = {"email": "ada@example.com", "password": "correct horse battery staple"}
TOKENS = ["One ", "two ", "three."]
# A provider that has failed is not asked for a while: whatever is to fail needs one of its own.
FAILING = [f"failing-{number}" for number in range(20)]


@dataclass(frozen=True)
class Served:
    """`api` calls with a key, `colleague` is another user of the same tenant."""

    api: Api
    colleague: Api
    provider: Api
    failures: Iterator[int] = field(default_factory=itertools.count)

    def sdk(self, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.api.base_url}/v1", api_key=self.api.key, timeout=30, max_retries=0, **options)

    def script(self, **members: Any) -> None:
        self.provider.post("/script", members)

    def failing(self, model: str = "writer") -> str:
        """A model whose provider has not failed yet."""
        return f"{FAILING[next(self.failures)]}/{model}"

    def asked(self) -> dict[str, Any]:
        """The body of the last request that the provider got."""
        body: dict[str, Any] = self.provider.get("/state")["requests"][-1]["body"]
        return body

    def raw_stream(self, path: str, body: dict[str, Any], **headers: str) -> tuple[Any, bytes]:
        """Headers and bytes of a stream as they are on the wire."""
        reply = self.api.call("POST", path, body, headers=headers)
        assert reply.status == 200, reply.body
        assert reply.headers["content-type"].startswith("text/event-stream")
        return reply.headers, reply.body


@pytest.fixture(scope="session")
def provider() -> Iterator[Api]:
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "wireroom_common.testing.scripted_provider", "--port", str(port)])
    api = Api(f"http://127.0.0.1:{port}")
    try:
        wait_for(lambda: api.call("GET", "/state").status == 200)
        yield api
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="session")
def served(provider: Api) -> Iterator[Served]:
    entries = [
        {"name": name, "base_url": f"{provider.base_url}/v1", "models": ["writer", "embedder"], "api_key": "sk-test"}
        for name in ("scripted", "failing-node", *FAILING)
    ]
    extra = {"WIREROOM_CHAT_PROVIDERS": json.dumps(entries), "WIREROOM_GATEWAY_LIMITS_ENABLED": "false"}
    with deploy(Deployment.EMBEDDED, extra) as running:
        nobody = Api(running.base_url)
        nobody.post("/auth/register", ACCOUNT | {"admin_token": running.admin_token()})
        admin = Api(running.base_url, nobody.post("/auth/login", ACCOUNT)["access_token"])
        other = {"email": "bob@example.com", "password": ACCOUNT["password"]}
        admin.post("/api/v1/admin/users", other | {"name": "Bob", "roles": ["Analyst"]})
        colleague = Api(running.base_url, nobody.post("/auth/login", other)["access_token"])
        key = admin.post("/auth/api-keys", {"name": "clients"})["secret"]
        yield Served(Api(running.base_url, key), colleague, provider)


@pytest.fixture(autouse=True)
def fresh_script(provider: Api) -> None:
    provider.post("/reset", {})
    provider.post("/script", {"tokens": TOKENS})
