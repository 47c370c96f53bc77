from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rag_scripted_models import ScriptedModels

from wireroom_common.errors import WireroomError
from wireroom_common.principal import set_current_principal
from wireroom_common.testing import eventually
from wireroom_protos.events.v1 import events_pb2
from wireroom_protos.news.v1 import news_pb2
from wireroom_protos.rag.v1 import rag_pb2
from wireroom_rag.domain.diversity import diversified
from wireroom_rag.domain.document import Chunk
from wireroom_rag.domain.headings import heads
from wireroom_rag.domain.neighbours import with_neighbours
from wireroom_rag.domain.passage import FoundPassage, Widened
from wireroom_rag.domain.scope import SourceKind

CONTENT = "".join(chr(97 + place % 26) for place in range(600))
DOCUMENT = uuid4()


def passage(number: int, start: int, end: int, *, score: float = 0.0, vector: list[float] | None = None) -> FoundPassage:
    return FoundPassage(
        id=number,
        document_id=DOCUMENT,
        version=1,
        kind=SourceKind.DOCUMENT,
        title="t",
        url="",
        page=0,
        start=start,
        end=end,
        text=CONTENT[start:end],
        published_at=None,
        score=score,
        dense_score=0.0,
        lexical_score=0.0,
        vector=None if vector is None else np.array(vector, dtype=np.float32),
    )


@given(
    order=st.permutations(range(10)),
    count=st.integers(1, 10),
    widths=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), min_size=10, max_size=10),
)
def test_passages_with_their_neighbours_are_disjoint_parts_of_the_text(
    order: list[int], count: int, widths: list[tuple[int, int]]
) -> None:
    found = [passage(number, 60 * number, 60 * number + 60) for number in order[:count]]
    wide = {}
    for number, (before, behind) in enumerate(widths):
        start, end = max(0, 60 * number - before), min(600, 60 * number + 60 + behind)
        wide[number] = Widened(start, end, CONTENT[start:end])
    joined = with_neighbours(found, wide)
    assert joined[0].id == found[0].id
    for place, one in enumerate(joined):
        assert one.text == CONTENT[one.start : one.end]
        assert all(any(one.start <= mine.start and mine.end <= one.end for one in joined) for mine in found), place


def test_diversity_prefers_a_different_passage_to_a_repetition_and_names_the_penalty() -> None:
    same, other = [1.0, 0.0], [0.0, 1.0]
    found = [
        passage(1, 0, 10, score=0.9, vector=same),
        passage(2, 10, 20, score=0.8, vector=same),
        passage(3, 20, 30, score=0.5, vector=other),
        passage(4, 30, 40, score=0.1, vector=other),
    ]
    assert [one.id for one in diversified(found, 3, 0.0)] == [1, 2, 3]
    chosen = diversified(found, 3, 0.5)
    assert [one.id for one in chosen] == [1, 3, 2]
    assert [round(one.mmr_penalty, 3) for one in chosen] == [0.0, 0.0, 0.5]
    assert diversified([], 3, 0.5) == []


def test_heads_are_the_title_the_headings_above_and_those_inside() -> None:
    content = "# Port\nIntro.\n## Cranes\nThey lift.\n## Tides\nThey turn.\n# Staff\nMany."
    cuts = [content.index(mark) for mark in ("Intro", "They lift", "They turn", "# Staff")]
    chunks = [Chunk(start, end, 0, content[start:end]) for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True)]
    assert heads("handbook.md", content, chunks) == [
        "handbook.md\nPort\nCranes",
        "handbook.md\nPort\nCranes\nTides",
        "handbook.md\nPort\nTides",
        "handbook.md\nPort\nTides\nStaff",
    ]


async def test_heading_finds_what_stands_below_it_and_neighbours_come_along(rag: Any) -> None:
    user = rag.user()
    sentence = "Gulls circle above the boats while the crew mends nets and paints the hull in fading light. "
    data = f"# Lighthouse\n\n{sentence * 40}\n\n# Bakery\n\n{sentence * 40}\n"
    document = await rag.index(user, "notes.md", data.encode())
    set_current_principal(user.principal())
    answer = await rag.retrieval.Retrieve(rag_pb2.RetrieveRequest(query="bakery", top_k=20, explain=True))
    assert answer.degraded == []
    under = [entry for entry in answer.passages if entry.explanation.field_scores.get("title")]
    assert len(under) >= 2
    assert min(entry.end for entry in under) > data.index("Bakery") - 10
    for entry in answer.passages:
        explained = entry.explanation
        ranks = [rank for rank in (explained.dense_rank, explained.lexical_rank) if rank]
        assert explained.fused_score == pytest.approx(sum(1 / (60 + rank) for rank in ranks))
        assert (explained.dense_score, explained.lexical_score) == (entry.dense_score, entry.lexical_score)

    (alone,) = await rag.retrieve(user, "bakery", top_k=1)
    assert not alone.HasField("explanation")
    (wide,) = await rag.retrieve(user, "bakery", top_k=1, neighbours=True)
    assert wide.start < alone.start or wide.end > alone.end
    assert wide.start <= alone.start < alone.end <= wide.end
    rows = await rag.rows(
        user.tenant_id,
        "SELECT substr(content, :first, :size) FROM document_versions",
        first=wide.start + 1,
        size=wide.end - wide.start,
    )
    assert rows[0][0] == wide.text
    assert wide.document_id == document.id
    varied = await rag.retrieve(user, "bakery", top_k=5, diversity=0.5, explain=True)
    assert varied[0].id == alone.id
    # The passages repeat each other: all but the first are like one that was chosen before.
    assert all(entry.explanation.mmr_penalty > 0.1 for entry in varied[1:])
    with pytest.raises(WireroomError, match="diversity"):
        await rag.retrieve(user, "bakery", diversity=1.5)


async def test_newer_article_goes_before_an_older_one_that_says_the_same(rag: Any) -> None:
    user = rag.user()
    now = datetime.now(UTC)
    ids = {}
    for name, age in (("old", 400), ("new", 1)):
        article = uuid4()
        ids[name] = str(article)
        message = news_pb2.Article(id=str(article), version=1, title="Ferry", text="The ferry to Hollin leaves at nine.", url="u")
        message.published_at.FromDatetime(now - timedelta(days=age))
        rag.news.articles[user.tenant_id, article, 1] = message
        event = events_pb2.NewsArticleIngested(article_id=str(article), version=1, feed_id=str(uuid4()), title="Ferry", url="u")
        event.published_at.FromDatetime(now - timedelta(days=age))
        await rag.deliver(user.tenant_id, event)

    async def both() -> bool:
        return len(await rag.retrieve(user, "ferry")) == 2

    await eventually(both, what="two articles in the index")
    first, second = await rag.retrieve(user, "ferry to Hollin", explain=True)
    assert (first.document_id, second.document_id) == (ids["new"], ids["old"])
    assert first.explanation.recency_score == pytest.approx(0.5 / 61 * 2 ** (-1 / 14), rel=1e-3)
    assert second.explanation.recency_score < 1e-8


async def test_reranker_decides_and_without_it_the_answer_says_so(start_rag: Any) -> None:
    async with ScriptedModels() as models:
        rag = await start_rag(reranker={"model": "judge", "base_url": models.base_url})
        user = rag.user()
        short = await rag.index(user, "short.txt", b"The ferry leaves at nine.")
        long = await rag.index(
            user, "long.txt", b"On some mornings, as everybody in Hollin knows, there is a boat, and it is late."
        )
        set_current_principal(user.principal())
        request = rag_pb2.RetrieveRequest(query="When does the ferry leave?", explain=True)
        ranked = await rag.retrieval.Retrieve(request)
        assert [entry.document_id for entry in ranked.passages] == [long.id, short.id]
        assert ranked.passages[0].explanation.rerank_score == pytest.approx(0.08, abs=0.01)
        assert (models.requests[-1]["query"], len(models.requests[-1]["documents"])) == (request.query, 2)
        models.status = 500
        unranked = await rag.retrieval.Retrieve(request)
        assert [entry.document_id for entry in unranked.passages] == [short.id, long.id]
        assert unranked.degraded == ["unranked"]
