"""What ends a session ends it everywhere: on every gateway, within two seconds, by event."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
from api import Api
from conftest import EMAIL, PASSWORD, sign_up
from harness import Deployment, Running, deploy, free_port

LIMIT_SECONDS = 2.0
ROUNDS = 5
NEW_PASSWORD = "seven lamps on a quiet hill"


@contextlib.contextmanager
def _second_gateway(running: Running) -> Iterator[str]:
    """The address of another replica of the gateway."""
    port, tls_port = free_port(), free_port()
    environment = running.environment | {"WIREROOM_GATEWAY_PORT": str(port), "WIREROOM_GATEWAY_TLS_PORT": str(tls_port)}
    other = Running(running.deployment, running.folder, environment, f"http://127.0.0.1:{port}", f"https://127.0.0.1:{tls_port}")
    other.start("gateway")
    try:
        other.wait_ready()
        yield other.base_url
    finally:
        other.stop()


def _seconds_until_refused(urls: list[str], token: str) -> float:
    started = time.monotonic()
    waiting = set(urls)
    while waiting:
        waiting = {url for url in waiting if Api(url, token).call("GET", "/auth/me").status != 401}
        assert time.monotonic() - started < 30, f"still accepted by {waiting}"
    return time.monotonic() - started


@pytest.mark.timeout(240)
@pytest.mark.parametrize("deployment", Deployment, ids=lambda deployment: deployment.value)
def test_every_gateway_refuses_what_was_ended(deployment: Deployment) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(deploy(deployment, {"WIREROOM_GATEWAY_LIMITS_ENABLED": "false"}))
        sign_up(running)
        urls = [running.base_url]
        if deployment is Deployment.DISTRIBUTED:
            urls.append(stack.enter_context(_second_gateway(running)))
        password = PASSWORD

        def signed_in() -> Api:
            answer = Api(running.base_url).post("/auth/login", {"email": EMAIL, "password": password})
            api = Api(running.base_url, answer["access_token"])
            # Every gateway has it in its cache.
            assert [Api(url, api.key).call("GET", "/auth/me").status for url in urls] == [200] * len(urls)
            return api

        latencies: dict[str, list[float]] = {}
        for number in range(ROUNDS):
            api = signed_in()
            assert api.call("POST", "/auth/logout").status == 204
            latencies.setdefault("logout", []).append(_seconds_until_refused(urls, api.key))

            other, api = signed_in(), signed_in()
            assert api.post("/auth/logout-all", None)["sessions_ended"] >= 2
            latencies.setdefault("logout_all", []).append(_seconds_until_refused(urls, api.key))
            latencies["logout_all"].append(_seconds_until_refused(urls, other.key))

            other, api = signed_in(), signed_in()
            change = {"current_password": password, "new_password": f"{NEW_PASSWORD} {number}"}
            kept = api.post("/auth/password/change", change)
            password = change["new_password"]
            latencies.setdefault("password", []).append(_seconds_until_refused(urls, other.key))
            latencies["password"].append(_seconds_until_refused(urls, api.key))
            assert [Api(url, kept["access_token"]).call("GET", "/auth/me").status for url in urls] == [200] * len(urls)

            current = Api(running.base_url, kept["access_token"])
            other = signed_in()
            listed = current.get("/auth/sessions")["sessions"]
            (elsewhere,) = [session for session in listed if not session["current"]][:1]
            assert current.call("DELETE", f"/auth/sessions/{elsewhere['id']}").status == 204
            latencies.setdefault("session", []).append(_seconds_until_refused(urls, other.key))
        for action, seconds in latencies.items():
            assert max(seconds) <= LIMIT_SECONDS, (action, seconds)
