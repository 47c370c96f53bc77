"""kill -9 of any process while work is under way: nothing lost, nothing doubled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from api import Api, wait_for
from conftest import Installation, sign_up
from harness import ROLES, Deployment, Running, deploy
from site_server import Site

DOCUMENTS = 6
ITEMS = 12


@pytest.fixture(scope="module")
def victim(news_site: Site) -> Iterator[Installation]:
    with deploy(Deployment.DISTRIBUTED, {"WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": news_site.address}) as running:
        yield Installation(running, news_site, sign_up(running), Api(running.base_url))


def persistently(call: Callable[[], Any]) -> Any:
    """The result of an idempotent call, repeated while processes are down."""

    def attempt() -> Any:
        try:
            return (call(),)
        except (AssertionError, OSError):
            return None

    return wait_for(attempt, within=60, every=0.1)[0]


def all_events(api: Api) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    cursor = 0
    while True:
        page = api.get(f"/api/v1/events?after={cursor}&page_size=500")
        if not page["events"]:
            return events
        events += page["events"]
        cursor = page["next_offset"]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("role", ROLES)
def test_killed_process_loses_and_doubles_nothing(
    victim: Installation, make_pdf: Callable[[Sequence[str]], bytes], role: str
) -> None:
    api, site, running = victim.admin, victim.site, victim.running
    feed_name = f"kill-{role}"
    for number in range(ITEMS):
        site.publish(
            feed_name, f"{role}-{number}", f"{role} item {number}", f"The {role} trial number {number} took place in Vik."
        )

    uploaded: dict[str, str] = {}

    def work() -> None:
        for number in range(DOCUMENTS):
            name = f"{role}-{number}.pdf"
            content = make_pdf([f"Report {number} of the {role} trial.", f"The {role} trial cost {number}17 crowns."])

            def upload(name: str = name, content: bytes = content) -> str:
                reply = api.upload(name, content)
                assert reply.status == 202, reply.body[:300]
                return str(reply.json["id"])

            uploaded[name] = persistently(upload)
        persistently(lambda: api.post("/api/v1/feeds", {"url": site.feed_url(feed_name)}))

    worker = threading.Thread(target=work)
    worker.start()
    wait_for(lambda: len(uploaded) >= 2 or not worker.is_alive(), within=90)
    running.kill(role)
    running.start(role)
    worker.join(150)
    assert not worker.is_alive()
    running.wait_ready()

    for document_id in uploaded.values():
        assert persistently(lambda document_id=document_id: api.settled(document_id, expect="indexed"))["pages"] == 2
    names = Counter(item["name"] for item in persistently(lambda: api.get("/api/v1/documents?page_size=100"))["documents"])
    assert {name: names[name] for name in uploaded} == dict.fromkeys(uploaded, 1)

    feed = next(item for item in api.get("/api/v1/feeds?page_size=100")["feeds"] if item["url"] == site.feed_url(feed_name))
    articles = api.get(f"/api/v1/news?feed_id={feed['id']}&page_size=100")["articles"]
    assert Counter(article["url"] for article in articles) == Counter(
        site.article_url(f"{role}-{number}") for number in range(ITEMS)
    )

    expected = {("news.article.ingested", article["id"]) for article in articles}
    expected |= {("rag.document.indexed", article["id"]) for article in articles}
    expected |= {("rag.document.indexed", document_id) for document_id in uploaded.values()}

    def complete() -> Counter[tuple[str, str]] | None:
        seen = Counter((event["type"], event["subject"]) for event in all_events(api))
        return seen if all(seen[key] for key in expected) else None

    seen: Counter[tuple[str, str]] = wait_for(complete, within=60)
    assert {key: seen[key] for key in expected} == dict.fromkeys(expected, 1)


def test_every_process_stops_cleanly_on_sigterm(victim: Installation) -> None:
    running: Running = victim.running
    for role in reversed(ROLES):
        assert running.terminate(role) == 0, running.log(role)[-2000:]
