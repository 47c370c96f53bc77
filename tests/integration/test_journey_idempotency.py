"""One effect for each Idempotency-Key, with the real services behind: also when the gateway has lost what it knew."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from api import Api, Reply
from conftest import PASSWORD, Installation
from harness import Deployment, Running

from wireroom_common.runtime.embedded import EmbeddedValkey

PARALLEL = 50


@pytest.fixture
def installation(served: Installation) -> Installation:
    """Without rate limits: fifty at once, several times a minute, are above them."""
    return served


def store(running: Running) -> redis.Redis:
    """The Redis or Valkey of the installation."""
    if running.deployment is Deployment.DISTRIBUTED:
        return redis.Redis.from_url(running.environment["WIREROOM_REDIS_URL"])
    return redis.Redis.from_url(EmbeddedValkey(Path(running.environment["WIREROOM_DATA_DIR"]).resolve()).start())


def forget(running: Running) -> int:
    """What a gateway leaves that was killed between the effect and the storing: a claim that runs out."""
    with store(running) as client:
        names = client.keys("idem:*")
        return int(client.delete(*names)) if names else 0


def upload(api: Api, text: str, key: str) -> Reply:
    body = f'--b\r\nContent-Disposition: form-data; name="file"; filename="once.txt"\r\n\r\n{text}\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Idempotency-Key": key}
    return api.call("POST", "/api/v1/documents", raw=body.encode(), headers=headers)


def until_answered(call: Callable[[], Reply]) -> Reply:
    """Wait as the 409 says."""
    deadline = time.monotonic() + 60
    while True:
        reply = call()
        if reply.status != 409 or reply.json["code"] != "idempotency_in_flight":
            return reply
        assert time.monotonic() < deadline
        time.sleep(0.05)


def at_once(call: Callable[[], Reply]) -> list[Reply]:
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(lambda _: until_answered(call), range(PARALLEL)))


def count(api: Api, path: str, member: str, wanted: Callable[[Any], bool]) -> int:
    found, page_token = 0, ""
    while True:
        page = api.get(f"{path}?page_size=100&page_token={page_token}")
        found += sum(wanted(entry) for entry in page[member])
        page_token = page["next_page_token"]
        if not page_token:
            return found


def test_fifty_feeds_at_once_are_one_and_a_lost_answer_makes_no_second(installation: Installation) -> None:
    admin, key = installation.admin, uuid.uuid4().hex
    name = f"once-{key[:8]}"
    installation.site.publish(name, name, "An item", "Something happened once.")
    url = installation.site.feed_url(name)

    def add() -> Reply:
        return admin.call("POST", "/api/v1/feeds", {"url": url}, headers={"Idempotency-Key": key})

    replies = at_once(add)
    assert {(reply.status, reply.body) for reply in replies} == {(201, replies[0].body)}
    assert sum(reply.headers.get("idempotency-replayed") == "true" for reply in replies) == PARALLEL - 1
    assert count(admin, "/api/v1/feeds", "feeds", lambda feed: feed["url"] == url) == 1
    other = admin.call("POST", "/api/v1/feeds", {"url": f"{url}?x"}, headers={"Idempotency-Key": key})
    assert (other.status, other.json["code"]) == (422, "idempotency_key_reused")


def test_fifty_uploads_at_once_are_one_document_and_the_service_refuses_a_second(installation: Installation) -> None:
    admin, key = installation.admin, uuid.uuid4().hex
    text = f"A text that is uploaded once: {key}. " * 2000
    replies = at_once(lambda: upload(admin, text, key))
    assert {(reply.status, reply.body) for reply in replies} == {(202, replies[0].body)}
    document = replies[0].json["id"]
    before = count(admin, "/api/v1/documents", "documents", lambda _: True)
    assert forget(installation.running) >= 1
    # The same content of the same user is the same document, with or without a key.
    again = upload(admin, text, key)
    assert (again.status, again.json["id"]) == (202, document)
    assert forget(installation.running) >= 1
    # To the gateway this is a first request; the service has the key from the first effect.
    changed = upload(admin, f"another {text}", key)
    assert (changed.status, changed.json["code"]) == (409, "idempotency_effect_exists")
    assert document in changed.json["detail"]
    assert count(admin, "/api/v1/documents", "documents", lambda _: True) == before


def test_fifty_keys_at_once_are_one_key_that_is_shown_once(installation: Installation) -> None:
    nobody = installation.anonymous
    login = nobody.post("/auth/login", {"email": "ada@example.com", "password": PASSWORD})
    user = Api(nobody.base_url, login["access_token"])
    key = uuid.uuid4().hex

    def create() -> Reply:
        return user.call("POST", "/auth/api-keys", {"name": key}, headers={"Idempotency-Key": key})

    replies = at_once(create)
    shown = [reply for reply in replies if reply.status == 201]
    assert len(shown) == 1
    assert {reply.json["code"] for reply in replies if reply.status != 201} == {"idempotency_answer_not_kept"}
    forget(installation.running)
    again = create()
    assert (again.status, again.json["code"]) == (409, "idempotency_effect_exists")
    assert shown[0].json["id"] in again.json["detail"]
    assert count(user, "/auth/api-keys", "keys", lambda entry: entry["name"] == key) == 1


def test_signing_in_with_a_key_after_a_failure_works_and_the_tokens_are_given_once(installation: Installation) -> None:
    key = uuid.uuid4().hex

    def login(password: str) -> Reply:
        credentials = {"email": "ada@example.com", "password": password}
        return installation.anonymous.call("POST", "/auth/login", credentials, headers={"Idempotency-Key": key})

    assert login("not the password at all").status == 401
    assert login(PASSWORD).status == 200
    again = login(PASSWORD)
    assert (again.status, again.json["code"]) == (409, "idempotency_answer_not_kept")


def test_a_completion_is_answered_again_word_for_word(installation: Installation) -> None:
    body = {"model": "extractive", "messages": [{"role": "user", "content": "What happened once?"}]}
    key = uuid.uuid4().hex

    def ask() -> Reply:
        return installation.admin.call("POST", "/v1/chat/completions", body, headers={"Idempotency-Key": key})

    first, second = ask(), ask()
    assert first.status == 200
    assert (second.status, second.body) == (first.status, first.body)
    assert second.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize("wanted", ["other user", "nobody"])
def test_a_key_of_somebody_else_gives_nothing(installation: Installation, wanted: str) -> None:
    key, url = uuid.uuid4().hex, installation.site.feed_url("somebody")
    installation.site.publish("somebody", "somebody", "An item", "Text.")
    path = "/api/v1/rag/query"
    mine = installation.admin.call("POST", path, {"query": url}, headers={"Idempotency-Key": key})
    assert mine.status == 200
    if wanted == "nobody":
        assert installation.anonymous.call("POST", path, {"query": url}, headers={"Idempotency-Key": key}).status == 401
        return
    login = installation.anonymous.post("/auth/login", {"email": "ada@example.com", "password": PASSWORD})
    session = Api(installation.running.base_url, login["access_token"])
    other = session.call("POST", path, {"query": url}, headers={"Idempotency-Key": key})
    assert other.status == 200
    assert "idempotency-replayed" not in other.headers
