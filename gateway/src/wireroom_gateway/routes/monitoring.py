"""Usage counts and the event log."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import FastAPI, Query

from wireroom_gateway.access import access
from wireroom_gateway.routes.fields import Name, Output, moment
from wireroom_gateway.services import Services
from wireroom_protos.monitoring.v1 import monitoring_pb2


class RouteStatsOutput(Output):
    """Requests of one route since the installation began, as far as gateways could report them."""

    route: str
    method: str
    requests: int
    client_errors: int
    server_errors: int
    milliseconds_sum: float


class StatsOutput(Output):
    """Counts since the installation began; `offset` is the newest event counted. `routes`: most used first."""

    documents_indexed: int
    documents_failed: int
    articles_ingested: int
    feeds_added: int
    completions: int
    tokens_in: int
    tokens_out: int
    logins_succeeded: int
    logins_failed: int
    events: dict[str, int]
    offset: int
    routes: list[RouteStatsOutput]


class EventOutput(Output):
    """One event of the log."""

    offset: int
    id: str
    type: str
    source: str
    subject: str
    time: datetime | None
    data: Any


class EventsOutput(Output):
    """Events in order; continue with `after=next_offset`."""

    events: list[EventOutput]
    next_offset: int


def add_monitoring_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/stats`, `/api/v1/events`."""

    @api.get("/api/stats", tags=["monitoring"])
    @access("monitoring:read")
    async def stats() -> StatsOutput:
        answer = await services.metrics.GetStats(monitoring_pb2.GetStatsRequest(), timeout=timeout)
        return StatsOutput(
            documents_indexed=answer.documents_indexed,
            documents_failed=answer.documents_failed,
            articles_ingested=answer.articles_ingested,
            feeds_added=answer.feeds_added,
            completions=answer.completions,
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            logins_succeeded=answer.logins_succeeded,
            logins_failed=answer.logins_failed,
            events={entry.type: entry.count for entry in answer.events},
            offset=answer.offset,
            routes=[
                RouteStatsOutput(
                    route=entry.route,
                    method=entry.method,
                    requests=entry.requests,
                    client_errors=entry.client_errors,
                    server_errors=entry.server_errors,
                    milliseconds_sum=entry.milliseconds_sum,
                )
                for entry in answer.routes
            ],
        )

    @api.get("/api/v1/events", tags=["monitoring"])
    @access("monitoring:read")
    async def events(
        after: Annotated[int, Query(ge=0, lt=2**63, description="Events after this offset")] = 0,
        page_size: Annotated[int, Query(ge=1, le=500)] = 100,
        type: Name = "",  # noqa: A002 - the field's name in CloudEvents
    ) -> EventsOutput:
        answer = await services.events.ReadEvents(
            monitoring_pb2.ReadEventsRequest(after_offset=after, page_size=page_size, type=type), timeout=timeout
        )
        return EventsOutput(events=[_event(entry) for entry in answer.events], next_offset=answer.next_offset)


def _event(event: monitoring_pb2.LoggedEvent) -> EventOutput:
    return EventOutput(
        offset=event.offset,
        id=event.id,
        type=event.type,
        source=event.source,
        subject=event.subject,
        time=moment(event, "time"),
        data=orjson.loads(event.data_json or "{}"),
    )
