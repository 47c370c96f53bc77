"""kill -9 of any process while work is under way: nothing lost, nothing doubled."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from api import Api, stable, wait_for
from conftest import EMAIL, PASSWORD, Installation, sign_up
from harness import ROLES, Deployment, Running, deploy
from site_server import Site

BATCH = 2
PACE = 0.2
# The work that asks the killed role directly; what gateway and monitoring do, they do for all of it.
WORK_OF = {"auth": ("keys",), "news": ("items",), "rag": ("documents",), "chat": ("completions",)}
# One event of each for a subject, never more.
ONCE = {
    "auth.apikey.created",
    "chat.completion.completed",
    "news.article.ingested",
    "rag.document.indexed",
    "rag.document.received",
}
QUESTION = {"model": "extractive", "messages": [{"role": "user", "content": "Where did trial number 0 take place?"}]}


@pytest.fixture(scope="module")
def victim(news_site: Site) -> Iterator[Installation]:
    extra = {
        "WIREROOM_NEWS_ALLOWED_PRIVATE_HOSTS": news_site.address,
        "WIREROOM_GATEWAY_LIMITS_ENABLED": "false",
        "WIREROOM_AUTH_MAX_API_KEYS_PER_USER": "10000",
        # What a killed process holds comes free sooner: waiting for it is not what is tested.
        "WIREROOM_NEWS_LEASE_SECONDS": "5",
        "WIREROOM_RAG_LEASE_SECONDS": "5",
        "WIREROOM_RAG_HEARTBEAT_SECONDS": "1",
    }
    with deploy(Deployment.DISTRIBUTED, extra) as running:
        yield Installation(running, news_site, sign_up(running), Api(running.base_url))


class Load:
    """Four kinds of work side by side, each one step after the other until told to end; a step that fails is tried again."""

    def __init__(self, victim: Installation, role: str, make_pdf: Callable[[Sequence[str]], bytes]) -> None:
        self._api, self._site, self._role, self._make_pdf = victim.admin, victim.site, role, make_pdf
        self._key_owner = Api(
            victim.anonymous.base_url,
            victim.anonymous.post("/auth/login", {"email": EMAIL, "password": PASSWORD})["access_token"],
        )
        self._end = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._workers: dict[str, Future[None]] = {}
        self.feed = self._publish_first()
        # The ids that were acknowledged, in the order of the steps; articles are known by their addresses.
        self.done: dict[str, list[str]] = {"documents": [], "items": [], "completions": [], "keys": []}
        self.begun = Counter[str]()
        self.failures = Counter[str]()

    def start(self) -> None:
        steps = {"documents": self._documents, "items": self._item, "completions": self._completion, "keys": self._key}
        self._workers = {kind: self._pool.submit(self._work, kind, step) for kind, step in steps.items()}

    def under_way(self) -> bool:
        """No worker has ended."""
        return not self._end.is_set() and not any(worker.done() for worker in self._workers.values())

    def finish(self) -> None:
        """Let every worker complete its step; raises what ended a worker early."""
        self._end.set()
        for worker in self._workers.values():
            worker.result(90)
        self._pool.shutdown()

    def _work(self, kind: str, step: Callable[[int], None]) -> None:
        # The pace leaves the machine room to start the killed process again.
        while not self._end.wait(PACE):
            self.begun[kind] += 1
            step(self.begun[kind])

    def _persistently(self, kind: str, call: Callable[[], Any]) -> Any:
        def attempt() -> Any:
            try:
                return (call(),)
            except (AssertionError, OSError):
                self.failures[kind] += 1
                return None

        return wait_for(attempt, within=60, every=0.1)[0]

    def _publish_first(self) -> dict[str, Any]:
        self._site.publish(f"kill-{self._role}", f"{self._role}-0", "The trial opens", "Trial number 0 took place in Vik.")
        feed: dict[str, Any] = self._api.post("/api/v1/feeds", {"url": self._site.feed_url(f"kill-{self._role}")})
        return feed

    def _documents(self, step: int) -> None:
        batch = []
        for number in range(BATCH):
            name = f"{self._role}-{step}-{number}.pdf"
            content = self._make_pdf(
                [f"Report {step}.{number} of the {self._role} trial.", f"That {self._role} trial cost {step}{number}17 crowns."]
            )

            def upload(name: str = name, content: bytes = content) -> str:
                reply = self._api.upload(name, content)
                assert reply.status == 202, reply.body[:300]
                return str(reply.json["id"])

            batch.append(self._persistently("documents", upload))
        self.done["documents"] += batch
        for document_id in batch:

            def read(document_id: str = document_id) -> dict[str, Any]:
                document: dict[str, Any] = self._api.get(f"/api/v1/documents/{document_id}")
                return document

            document = wait_for(lambda read=read: final(self._persistently("documents", read)), within=60)
            assert (document["state"], document["pages"]) == ("indexed", 2)

    def _item(self, step: int) -> None:
        slug = f"{self._role}-{step}"
        url = self._site.publish(f"kill-{self._role}", slug, f"Item {slug}", f"Trial number {step} took place in Vik.")
        self._persistently("items", lambda: self._api.post(f"/api/v1/feeds/{self.feed['id']}/refresh", {}))
        self.done["items"].append(url)

    def _completion(self, _step: int) -> None:
        answer = self._persistently("completions", lambda: self._api.post("/v1/chat/completions", QUESTION))
        self.done["completions"].append(answer["id"])

    def _key(self, step: int) -> None:
        name = {"name": f"{self._role} {step}"}
        self.done["keys"].append(self._persistently("keys", lambda: self._key_owner.post("/auth/api-keys", name))["id"])


def final(document: dict[str, Any]) -> dict[str, Any] | None:
    return document if document["state"] in {"indexed", "rejected", "failed"} else None


def steps_done(load: Load) -> dict[str, int]:
    return {kind: len(done) // (BATCH if kind == "documents" else 1) for kind, done in load.done.items()}


def all_events(api: Api) -> Counter[tuple[str, str]]:
    """How often there is an event of each (type, subject)."""
    seen = Counter[tuple[str, str]]()
    cursor = 0
    while page := api.get(f"/api/v1/events?after={cursor}&page_size=500"):
        if not page["events"]:
            break
        seen.update((event["type"], event["subject"]) for event in page["events"])
        cursor = page["next_offset"]
    return seen


def all_pages(api: Api, path: str, field: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    token = ""
    while True:
        page = api.get(f"{path}page_size=100&page_token={token}")
        found += page[field]
        token = page["next_page_token"]
        if not token:
            return found


@pytest.mark.timeout(240)
@pytest.mark.parametrize("role", ROLES)
def test_killed_process_loses_and_doubles_nothing(
    victim: Installation, make_pdf: Callable[[Sequence[str]], bytes], role: str
) -> None:
    api, site, running = victim.admin, victim.site, victim.running
    load = Load(victim, role, make_pdf)
    load.start()
    try:
        wait_for(lambda: min(steps_done(load).values()) >= 2, within=60)
        before = steps_done(load)
        failed_before = load.failures.copy()
        running.kill(role)
        assert load.under_way()
        if role == "monitoring":
            # Nobody waits for this role: its work is the events that lie there until it is back.
            logged = running.events_logged()
            wait_for(lambda: all(done > before[kind] for kind, done in steps_done(load).items()))
            assert running.events_logged() == logged
        else:
            # The kill has hit work: steps fail until the role is back.
            hit = WORK_OF.get(role, tuple(before))
            wait_for(lambda: all(load.failures[kind] > failed_before[kind] for kind in hit))
        running.start(role)
        # Everything goes on by itself, the work that was cut off first; a step that had begun before does not count.
        again = steps_done(load)
        wait_for(lambda: all(done >= again[kind] + 2 for kind, done in steps_done(load).items()), within=60)
        assert load.under_way()
    finally:
        load.finish()
    assert steps_done(load) == load.begun
    running.wait_ready()

    names = Counter(item["name"] for item in all_pages(api, "/api/v1/documents?", "documents"))
    uploads = [f"{role}-{step}-{number}.pdf" for step in range(1, load.begun["documents"] + 1) for number in range(BATCH)]
    assert {name: count for name, count in names.items() if name.startswith(f"{role}-")} == dict.fromkeys(uploads, 1)
    articles = all_pages(api, f"/api/v1/news?feed_id={load.feed['id']}&", "articles")
    assert Counter(article["url"] for article in articles) == Counter([site.article_url(f"{role}-0"), *load.done["items"]])

    expected = {(kind, article["id"]) for article in articles for kind in ("news.article.ingested", "rag.document.indexed")}
    expected |= {
        (kind, subject) for subject in load.done["documents"] for kind in ("rag.document.received", "rag.document.indexed")
    }
    expected |= {("chat.completion.completed", subject) for subject in load.done["completions"]}
    expected |= {("auth.apikey.created", subject) for subject in load.done["keys"]}

    wait_for(lambda: not expected - all_events(api).keys(), within=60)
    wait_for(lambda: running.unsettled() == 0, within=60)
    seen: Counter[tuple[str, str]] = stable(lambda: all_events(api))
    assert {key: seen[key] for key in expected} == dict.fromkeys(expected, 1)
    assert {key: count for key, count in seen.items() if key[0] in ONCE and count > 1} == {}

    audited = Counter(record["subject"] for record in api.audit_records(action="api_key.created"))
    assert {key: audited[key] for key in load.done["keys"]} == dict.fromkeys(load.done["keys"], 1)
    verdict = api.get("/api/v1/audit/verify")
    assert (verdict["intact"], verdict["problem"]) == (True, "")


def test_every_process_stops_cleanly_on_sigterm(victim: Installation) -> None:
    running: Running = victim.running
    for role in reversed(ROLES):
        assert running.terminate(role) == 0, running.log(role)[-2000:]
