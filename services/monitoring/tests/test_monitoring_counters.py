from __future__ import annotations

import pytest
from google.protobuf.message import Message

from wireroom_common.bus import Catalogue, event_type
from wireroom_monitoring.counters import NAMED_COUNTERS, increments
from wireroom_protos.events.v1 import events_pb2 as events
from wireroom_protos.monitoring.v1 import monitoring_pb2


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (events.RagDocumentIndexed(kind="document"), {"documents_indexed": 1}),
        (events.RagDocumentIndexed(), {"documents_indexed": 1}),
        (events.RagDocumentIndexed(kind="article"), {}),
        (events.RagDocumentFailed(), {"documents_failed": 1}),
        (events.RagDocumentRejected(), {"documents_failed": 1}),
        (events.NewsArticleIngested(), {"articles_ingested": 1}),
        (events.NewsArticleUpdated(), {}),
        (events.NewsFeedAdded(), {"feeds_added": 1}),
        (events.ChatCompletionCompleted(tokens_in=7, tokens_out=5), {"completions": 1, "tokens_in": 7, "tokens_out": 5}),
        (events.ChatCompletionCompleted(tokens_in=-7), {"completions": 1, "tokens_in": 0, "tokens_out": 0}),
        (events.ChatCompletionCancelled(tokens_out=5), {}),
        (events.AuthUserLoginSucceeded(), {"logins_succeeded": 1}),
        (events.AuthUserLoginFailed(), {"logins_failed": 1}),
    ],
)
def test_increments_are_named_counts_and_the_event_itself(payload: Message, expected: dict[str, int]) -> None:
    kind = event_type(payload)
    assert increments(kind, payload) == {f"event:{kind}": 1} | expected


def test_every_event_of_the_catalogue_is_counted_into_fields_of_the_response(catalogue: Catalogue) -> None:
    fields = set(monitoring_pb2.GetStatsResponse.DESCRIPTOR.fields_by_name)
    assert set(NAMED_COUNTERS) == fields - {"events", "offset", "routes"}
    reached: set[str] = set()
    for name, spec in catalogue.events.items():
        found = increments(name, spec.payload())
        assert found.pop(f"event:{name}") == 1
        assert set(found) <= set(NAMED_COUNTERS)
        reached |= set(found)
    assert reached == set(NAMED_COUNTERS)


def test_an_event_without_a_readable_payload_counts_as_itself_only() -> None:
    assert increments("future.thing.happened", None) == {"event:future.thing.happened": 1}
