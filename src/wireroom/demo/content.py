"""The sample feed. Names, figures and events are invented."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from xml.sax.saxutils import escape


@dataclass(frozen=True)
class Item:
    """One article of the sample feed; `age` is how long before now it was published."""

    slug: str
    title: str
    age: timedelta
    text: str


ITEMS = (
    Item(
        "rate-decision",
        "Northland central bank holds its policy rate at 4.25 percent",
        timedelta(hours=2),
        "The Northland central bank kept its policy rate at 4.25 percent on Thursday. Governor Mira Halvorsen said that inflation"
        " had slowed to 2.6 percent in October. The bank expects the first cut no earlier than March. Small-business lenders had"
        " asked for an earlier cut because demand for working-capital loans fell in the third quarter.",
    ),
    Item(
        "harbour-lending-results",
        "Harbour Lending reports a rise in small-business loans",
        timedelta(hours=5),
        "Harbour Lending granted 1,840 small-business loans in the third quarter, 12 percent more than a year before. The share of"
        " loans more than 90 days overdue fell to 1.9 percent. Chief executive Tomas Lindqvist said that the new instant decision"
        " for amounts up to 15,000 crowns brought in most of the growth. The company did not change its forecast for the year.",
    ),
    Item(
        "disclosure-rule",
        "Regulator wants the full cost of a loan on the first page",
        timedelta(hours=9),
        "The Northland Financial Conduct Office published a rule that requires lenders to state the full cost of a loan on the first"
        " page of the contract. The rule takes effect on 1 February. Lenders that break it face fines of up to 2 percent of their"
        " annual turnover. Consumer groups welcomed the rule; the lenders' association asked for a longer transition.",
    ),
    Item(
        "port-strike",
        "Dock workers at Eastport end their strike after nine days",
        timedelta(hours=14),
        "Dock workers at Eastport went back to work on Wednesday after a strike of nine days. The union accepted a pay rise of"
        " 5.5 percent over two years. About 60 ships were waiting outside the harbour. Importers expect the backlog to clear within"
        " three weeks.",
    ),
)


def rss(base_url: str, now: datetime | None = None) -> str:
    """The feed as RSS 2.0, with links below `base_url`."""
    moment = now or datetime.now(UTC)
    items = "".join(
        f"<item><title>{escape(item.title)}</title><link>{base_url}/articles/{item.slug}</link>"
        f'<guid isPermaLink="false">wireroom-demo-{item.slug}</guid>'
        f"<pubDate>{format_datetime(moment - item.age)}</pubDate><description>{escape(item.text)}</description></item>"
        for item in ITEMS
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><rss version="2.0"><channel><title>Northland Business Wire (sample)</title>'
        f"<link>{base_url}/</link><description>Invented news for the Wireroom tour</description>{items}</channel></rss>"
    )
