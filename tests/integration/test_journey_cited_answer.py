"""The main job: upload a document, add a feed, ask with the unmodified `openai` SDK, follow the citations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import openai
import pytest
from api import Api, events_of, wait_for
from conftest import Installation

PAGES = (
    "Handbook of the Meridian cooperative. This page introduces the handbook and its authors.",
    "Members of the Meridian cooperative may withdraw their deposit with a notice period of 45 days. The withdrawal fee is 12 crowns.",
    "The annual assembly of the Meridian cooperative takes place in April.",
)
NEWS_TITLE = "Meridian cooperative raises its interest rate"
NEWS_TEXT = (
    "The Meridian cooperative raised the interest rate for deposits to 3.75 percent on Monday. The board named higher income from loans"
    " as the reason."
)
QUESTION = "What is the notice period to withdraw a deposit from the Meridian cooperative, and what interest rate does it pay for deposits?"
_numbers = itertools.count()


def feed_name(installation: Installation) -> str:
    """A feed for each deployment: the site is shared, and one journey publishes further items."""
    return f"meridian-{installation.running.deployment.value}"


@pytest.fixture(scope="module")
def sources(installation: Installation, make_pdf: Callable[[Sequence[str]], bytes]) -> tuple[str, str]:
    """The PDF's document id and the article's URL, both searchable."""
    article_url = installation.site.publish(feed_name(installation), "rate", NEWS_TITLE, NEWS_TEXT)
    document = installation.admin.indexed("handbook.pdf", make_pdf(PAGES))
    feed = installation.admin.post("/api/v1/feeds", {"url": installation.site.feed_url(feed_name(installation))})
    assert feed["articles"] == 1
    wait_for(lambda: article_url in str(installation.admin.post("/api/v1/rag/query", {"query": NEWS_TITLE})))
    return document["id"], article_url


def sdk(api: Api) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{api.base_url}/v1", api_key=api.key, timeout=60, max_retries=0)


def urls_of(annotations: Sequence[Any]) -> list[str]:
    return [annotation.url_citation.url for annotation in annotations]


def check_citations(api: Api, text: str, annotations: Sequence[Any], document_id: str, article_url: str) -> None:
    """Both sources are cited, spans lie in the text, and the permalink shows the page and the words."""
    for annotation in annotations:
        citation = annotation.url_citation
        assert annotation.type == "url_citation"
        assert 0 <= citation.start_index < citation.end_index <= len(text)
    urls = urls_of(annotations)
    assert article_url in urls
    permalinks = [url for url in urls if url != article_url]
    resolved = [api.get(url.removeprefix(api.base_url)) for url in permalinks]
    pages = [(item["document_id"], item["page"]) for item in resolved]
    assert (document_id, 2) in pages
    assert any("45 days" in item["text"] for item in resolved)


@pytest.mark.parametrize("model", ["grounded", "extractive"])
def test_answer_cites_pdf_page_and_article_json(installation: Installation, sources: tuple[str, str], model: str) -> None:
    completion = sdk(installation.admin).chat.completions.create(model=model, messages=[{"role": "user", "content": QUESTION}])
    message = completion.choices[0].message
    assert message.content
    assert "45 days" in message.content
    assert "3.75 percent" in message.content
    assert completion.choices[0].finish_reason == "stop"
    check_citations(installation.admin, message.content, message.annotations or [], *sources)


def test_answer_cites_pdf_page_and_article_streamed(installation: Installation, sources: tuple[str, str]) -> None:
    stream = sdk(installation.admin).chat.completions.create(
        model="grounded", messages=[{"role": "user", "content": QUESTION}], stream=True, stream_options={"include_usage": True}
    )
    text, annotations, finish, usage = "", [], [], []
    for chunk in stream:
        if chunk.usage is not None:
            usage.append(chunk.usage)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            annotations += (choice.delta.model_extra or {}).get("annotations") or []
            finish += [choice.finish_reason] if choice.finish_reason else []
    assert finish == ["stop"]
    assert len(usage) == 1
    parsed = [
        openai.types.chat.chat_completion_message.Annotation.model_validate(item) if isinstance(item, dict) else item
        for item in annotations
    ]
    assert "45 days" in text
    check_citations(installation.admin, text, parsed, *sources)


def test_question_without_evidence_is_not_answered(installation: Installation, sources: tuple[str, str]) -> None:
    completion = sdk(installation.admin).chat.completions.create(
        model="grounded", messages=[{"role": "user", "content": "Who won the chess world championship in 1972?"}]
    )
    assert not completion.choices[0].message.annotations


def test_rag_answer_names_its_sources_and_what_is_missing(installation: Installation, sources: tuple[str, str]) -> None:
    document_id, article_url = sources
    answered = installation.admin.post("/api/v1/rag/answer", {"question": QUESTION})
    assert answered["answer_mode"] == "extractive"
    assert "45 days" in answered["answer"]
    cited = answered["citations"]
    assert (document_id, 2) in [(entry["document_id"], entry["page"]) for entry in cited]
    assert article_url in [entry["url"] for entry in cited]
    for entry in cited:
        resolved = installation.admin.get(f"/api/v1/citations/{entry['id']}")
        assert (resolved["text"], resolved["sha256"]) == (entry["quote"], entry["sha256"])
        assert f"[{entry['marker']}]" in answered["answer"]

    question = "What does the Meridian cooperative charge for a safe deposit box in Tromso?"
    abstained = installation.admin.post("/api/v1/rag/answer", {"question": question})
    assert (abstained["answer_mode"], abstained["citations"], abstained["annotations"]) == ("abstained", [], [])
    assert "tromso" in " ".join(abstained["missing"]).lower()


def test_rag_answer_streamed_is_the_same(installation: Installation, sources: tuple[str, str]) -> None:
    whole = installation.admin.post("/api/v1/rag/answer", {"question": QUESTION})
    streamed = events_of(installation.admin.call("POST", "/api/v1/rag/answer/stream", {"question": QUESTION}))
    names = [name for name, _ in streamed]
    assert names[0] == "ready"
    assert names[-1] == "done"
    assert "".join(data["text"] for name, data in streamed if name == "token") == whole["answer"]
    assert names.count("citation") == len(whole["citations"])


def test_published_item_becomes_citable_by_a_refresh(installation: Installation, sources: tuple[str, str]) -> None:
    number = next(_numbers)
    site, admin = installation.site, installation.admin
    url = site.publish(
        feed_name(installation),
        f"branch-{number}",
        f"Branch {number} opens",
        f"The Meridian cooperative opens branch number 9{number}7 in Vik.",
    )
    feed = next(item for item in admin.get("/api/v1/feeds")["feeds"] if item["url"] == site.feed_url(feed_name(installation)))
    assert admin.post(f"/api/v1/feeds/{feed['id']}/refresh", {})["new_articles"] == 1

    def answered() -> bool:
        completion = sdk(admin).chat.completions.create(
            model="news",
            messages=[{"role": "user", "content": f"Where does the Meridian cooperative open branch number 9{number}7?"}],
        )
        return url in urls_of(completion.choices[0].message.annotations or [])

    assert wait_for(answered, within=20)


def test_https_and_statistics_and_health(installation: Installation, sources: tuple[str, str]) -> None:
    secure = Api(installation.running.tls_url, installation.admin.key)
    reply = secure.call("GET", "/health")
    assert reply.status == 200
    assert "max-age" in reply.headers["Strict-Transport-Security"]
    wait_for(lambda: installation.admin.get("/api/stats")["documents_indexed"] >= 1)
    detailed = installation.admin.get("/health/detailed")
    assert {service["service"] for service in detailed["services"]} >= {"auth", "chat", "monitoring", "news", "rag"}
    assert all(service["ready"] for service in detailed["services"])
    assert all(service["checks"] for service in detailed["services"])
