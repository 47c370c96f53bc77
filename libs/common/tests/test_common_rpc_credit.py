"""Flow control between the two ends of a pipe: everything arrives in order, nothing stalls, memory is bounded."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from wireroom_common.rpc.multiplex.outbox import Outbox
from wireroom_common.rpc.multiplex.pipes import IncomingPipe, OutgoingPipe
from wireroom_common.rpc.multiplex.wire import ENVELOPE_COST, PART_BYTES, WINDOW_BYTES
from wireroom_protos.common.v1.multiplex_pb2 import ConnectResponse

SIZES = st.one_of(
    st.integers(0, 200), st.sampled_from([PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, WINDOW_BYTES, 3 * WINDOW_BYTES])
)


@given(sizes=st.lists(SIZES, max_size=30), pauses=st.lists(st.integers(0, 5), min_size=30, max_size=30))
@settings(max_examples=60, deadline=None)
def test_all_messages_arrive_within_the_credit(sizes: list[int], pauses: list[int]) -> None:
    messages = [bytes([number]) * size for number, size in enumerate(sizes)]
    most = 0

    async def run() -> list[bytes]:
        nonlocal most
        outbox = Outbox(ConnectResponse, capacity=1 << 20)
        outgoing, incoming = OutgoingPipe(outbox, 1, WINDOW_BYTES), IncomingPipe()
        incoming.grant = outgoing.grant

        async def deliver(batch: ConnectResponse) -> None:
            nonlocal most
            await asyncio.sleep(0)
            for envelope in batch.envelopes:
                assert incoming.add_end(envelope.data) if envelope.HasField("data") else incoming.add_part(envelope.part)
            most = max(most, incoming.waiting_bytes)

        async def write() -> None:
            for message in messages:
                assert await outgoing.put(message)

        moving, writing = asyncio.create_task(outbox.write_all(deliver)), asyncio.create_task(write())
        received = []
        for _, pause in zip(messages, pauses, strict=False):
            for _ in range(pause):
                await asyncio.sleep(0)
            received.append(await incoming.get())
        await writing
        moving.cancel()
        return received

    async def limited() -> list[bytes]:
        async with asyncio.timeout(20):
            return await run()

    assert asyncio.run(limited()) == messages
    # What the window lets through, and one message.
    assert most <= WINDOW_BYTES + PART_BYTES + ENVELOPE_COST + max(sizes, default=0)


async def test_what_comes_without_credit_is_refused() -> None:
    incoming = IncomingPipe()
    incoming.grant = lambda _credit: None
    taken = 0
    while incoming.add_end(bytes(PART_BYTES)):
        taken += PART_BYTES
    assert WINDOW_BYTES <= taken <= 2 * WINDOW_BYTES
