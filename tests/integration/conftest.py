"""Each journey runs against both deployments."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from reportlab.lib.pagesizes import A4
from reportlab.pdfgen.canvas import Canvas

sys.path.insert(0, str(Path(__file__).parent))

from api import Api
from collector import Collector, collecting
from harness import Deployment, Running, deploy
from site_server import Site, serving

EMAIL = "ada@example.com"
PASSWORD = "correct horse battery staple"


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
