"""Each journey runs against both deployments."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

sys.path.insert(0, str(Path(__file__).parent))

from api import Api, wait_for
from collector import Collector, collecting
from harness import Deployment, Running, deploy, free_port
from inbox import Inbox
from site_server import Site, serving

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"
PROVIDER_KEY = "sk-canary-51f2"


@dataclass(frozen=True)
class Installation:
    """A running Wireroom with its first user."""

    running: Running
    site: Site
    admin: Api
    anonymous: Api


def sign_up(running: Running) -> Api:
    """The first user, with an API key."""
    nobody = Api(running.base_url)
    account = {"email": EMAIL, "password": PASSWORD}
    nobody.post("/auth/register", account | {"admin_token": running.admin_token()})
    login = nobody.post("/auth/login", account)
    key = Api(running.base_url, login["access_token"]).post("/auth/api-keys", {"name": "tests"})
    return Api(running.base_url, key["secret"])


@pytest.fixture(scope="session")
def news_site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="session", params=list(Deployment), ids=lambda deployment: deployment.value)
def installation(request: pytest.FixtureRequest, news_site: Site, collector: Collector) -> Iterator[Installation]:
    extra = {
        "WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": news_site.address,
        "WIREROOM_OTLP_ENDPOINT": collector.endpoint,
        # All journeys sign in from one address, more often than five times a minute.
        "WIREROOM_GATEWAY_LIMIT_OVERRIDES": json.dumps({"auth.ip": 500}),
    }
    with deploy(request.param, extra) as running:
        yield Installation(running, news_site, sign_up(running), Api(running.base_url))


@pytest.fixture(scope="session")
def provider() -> Iterator[Api]:
    """A scripted language model in a process of its own; whoever uses it resets it first."""
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
def inbox() -> Iterator[Inbox]:
    with Inbox.receiving() as receiving:
        yield receiving


@pytest.fixture(scope="session", params=list(Deployment), ids=lambda deployment: deployment.value)
def served(request: pytest.FixtureRequest, news_site: Site, provider: Api, inbox: Inbox) -> Iterator[Installation]:
    """With a language model and a mail server, open to newcomers, without rate limits.

    Shared by the journeys that leave it as they found it; those that change a person's access do so as a newcomer of their own.
    """
    providers = [{"name": "scripted", "base_url": f"{provider.base_url}/v1", "models": ["writer"], "api_key": PROVIDER_KEY}]
    extra = {
        "WIREROOM_CHAT_PROVIDERS": json.dumps(providers),
        "WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": news_site.address,
        "WIREROOM_GATEWAY_LIMITS_ENABLED": "false",
        "WIREROOM_AUTH_OPEN_REGISTRATION": "true",
        "WIREROOM_AUTH_MAIL_INTERVAL_SECONDS": "0.2",
        **inbox.settings(),
    }
    with deploy(request.param, extra) as running:
        yield Installation(running, news_site, sign_up(running), Api(running.base_url))


@pytest.fixture(scope="session")
def make_pdf() -> Callable[[Sequence[str]], bytes]:
    """A PDF with one page for each text."""

    def make(pages: Sequence[str]) -> bytes:
        buffer = io.BytesIO()
        canvas = Canvas(buffer, pagesize=A4, invariant=1)
        for page in pages:
            text = canvas.beginText(50, 780)
            words = page.split()
            for start in range(0, len(words), 12):
                text.textLine(" ".join(words[start : start + 12]))
            canvas.drawText(text)
            canvas.showPage()
        canvas.save()
        return buffer.getvalue()

    return make
