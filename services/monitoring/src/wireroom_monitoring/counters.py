"""What an event adds to which count. Pure: the same function serves the live projection and its rebuild."""

from __future__ import annotations

from google.protobuf.message import Message

from wireroom_protos.events.v1 import events_pb2

# Fields of GetStatsResponse that are counts; a counter bears its field's name.
NAMED_COUNTERS = (
    "documents_indexed",
    "documents_failed",
    "articles_ingested",
    "feeds_added",
    "completions",
    "tokens_in",
    "tokens_out",
    "logins_succeeded",
    "logins_failed",
)
EVENT_PREFIX = "event:"


def increments(event_type: str, payload: Message | None) -> dict[str, int]:
    """Counter → how much the event adds to it. Without a payload only the event itself is counted."""
    found = {EVENT_PREFIX + event_type: 1}
    match payload:
        case events_pb2.RagDocumentIndexed():
            # Articles pass through the same index; they are counted when they are ingested.
            if payload.kind != "article":
                found["documents_indexed"] = 1
        case events_pb2.RagDocumentRejected() | events_pb2.RagDocumentFailed():
            found["documents_failed"] = 1
        case events_pb2.NewsArticleIngested():
            found["articles_ingested"] = 1
        case events_pb2.NewsFeedAdded():
            found["feeds_added"] = 1
        case events_pb2.ChatCompletionCompleted():
            found["completions"] = 1
            # A producer's nonsense must not make a count go back.
            found["tokens_in"] = max(0, payload.tokens_in)
            found["tokens_out"] = max(0, payload.tokens_out)
        case events_pb2.AuthUserLoginSucceeded():
            found["logins_succeeded"] = 1
        case events_pb2.AuthUserLoginFailed():
            found["logins_failed"] = 1
        case _:
            pass
    return found
