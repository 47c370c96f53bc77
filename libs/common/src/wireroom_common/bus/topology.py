"""The broker's side of the catalogue. Every process declares all of it before it publishes or consumes.

An event published before a consumer's queue exists would be confirmed and lost: `mandatory` notices only that no queue at all matched.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractQueue, FieldValue

from wireroom_common.bus.catalogue import Catalogue
from wireroom_common.bus.port import Subscription

EVENTS_EXCHANGE = "wireroom.events"
DEAD_EXCHANGE = "wireroom.dlx"
# Counts only deliveries that end with the consumer's process or connection; failed handlers are counted in a header.
DELIVERY_LIMIT = 20
# From here on the queue refuses, and events wait in the producers' outboxes.
MAX_QUEUED = 1_000_000
# Looking at dead letters returns them each time; newer brokers drop a message after 20 returns unless told otherwise.
DEAD_DELIVERY_LIMIT = 1_000_000_000

_DURABLE: dict[str, FieldValue] = {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-max-length": MAX_QUEUED}


def dead_queue(consumer: str) -> str:
    """Where the dead letters of a consumer are."""
    return f"{consumer}.dead"


def retry_queue(consumer: str, delay: float) -> str:
    """Where a consumer's events wait `delay` seconds."""
    return f"{consumer}.retry.{round(delay * 1000)}"


async def declare_catalogue(channel: AbstractChannel, catalogue: Catalogue, retry_delays: Sequence[float]) -> None:
    """Exchanges, and each consumer's work, retry and dead-letter queue with their bindings. Idempotent."""
    events = await channel.declare_exchange(EVENTS_EXCHANGE, ExchangeType.TOPIC, durable=True)
    dead = await channel.declare_exchange(DEAD_EXCHANGE, ExchangeType.DIRECT, durable=True)
    for consumer, types in sorted(catalogue.consumers().items()):
        graveyard = await channel.declare_queue(
            dead_queue(consumer), durable=True, arguments={**_DURABLE, "x-delivery-limit": DEAD_DELIVERY_LIMIT}
        )
        await graveyard.bind(dead, consumer)
        # A fixed delay per queue: a short one never waits behind a long one. Expired messages go to this consumer alone,
        # through the default exchange; through the topic exchange they would reach the others again.
        for delay in retry_delays:
            await channel.declare_queue(
                retry_queue(consumer, delay),
                durable=True,
                arguments={
                    **_DURABLE,
                    "x-message-ttl": round(delay * 1000),
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": consumer,
                    "x-dead-letter-strategy": "at-least-once",
                },
            )
        queue = await channel.declare_queue(
            consumer,
            durable=True,
            arguments={
                **_DURABLE,
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": DEAD_EXCHANGE,
                "x-dead-letter-routing-key": consumer,
                "x-dead-letter-strategy": "at-least-once",
            },
        )
        for event in sorted(types):
            await queue.bind(events, event)


async def declare_broadcast(channel: AbstractChannel, subscription: Subscription) -> AbstractQueue:
    """A queue of this process alone, which ends with its connection."""
    queue = await channel.declare_queue(
        f"broadcast.{subscription.consumer}.{uuid4()}", durable=False, exclusive=True, auto_delete=True
    )
    for event in sorted(subscription.types):
        await queue.bind(EVENTS_EXCHANGE, event)
    return queue
