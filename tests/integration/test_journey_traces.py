"""One trace from the HTTP request over the RPC to the consumer of the event."""

from __future__ import annotations

from api import wait_for
from collector import Collector
from conftest import Installation


def test_trace_runs_from_request_over_rpc_to_event_consumer(installation: Installation, collector: Collector) -> None:
    name = f"traced-{installation.running.deployment.value}"
    installation.site.publish(name, name, "A traced item", "The traced item tells of a lighthouse near Vik.")
    reply = installation.admin.call("POST", "/api/v1/feeds", {"url": installation.site.feed_url(name)})
    assert reply.status in (200, 201)

    roles = {"gateway", "news", "rag", "monitoring"} if len(installation.running.processes) > 1 else {"all"}
    wanted = {
        "POST /api/v1/feeds",
        "wireroom_protos.news.v1.FeedService/AddFeed",
        "rag.articles process",
        "monitoring.log process",
    }

    def whole_trace() -> bool:
        return any(
            wanted <= {span.name for span in spans} and {f"wireroom-{role}" for role in roles} <= {span.service for span in spans}
            for spans in collector.traces().values()
        )

    assert wait_for(whole_trace, within=30)
