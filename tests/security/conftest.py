"""One installation for the suite, run as a user would run it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from access_world import TOKEN_SECONDS, World, build
from harness import Deployment, deploy
from site_server import serving


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Everybody and everything; access tokens live for a minute and not a second longer."""
    with serving() as site:
        extra = {
            "WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": site.address,
            "WIREROOM_GATEWAY_LIMITS_ENABLED": "false",
            "WIREROOM_GATEWAY_TOKEN_LEEWAY": "0",
            "WIREROOM_RAG_PURGE_SECONDS": "0.5",
            "WIREROOM_AUTH_ACCESS_TOKEN_SECONDS": str(TOKEN_SECONDS),
        }
        with deploy(Deployment.EMBEDDED, extra) as running:
            yield build(running, site)
