"""A stream of many calls whose client sends more at once than any client would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from rpc_contract_rig import Kind, opened, who_am_i

from wireroom_common.rpc.multiplex.outbox import MAX_ENVELOPES
from wireroom_protos.auth.v1 import auth_pb2
from wireroom_protos.common.v1 import multiplex_pb2, multiplex_pb2_grpc


def _opens(count: int) -> multiplex_pb2.ConnectRequest:
    opened_call = multiplex_pb2.OpenCall(method="/nowhere/Nothing")
    return multiplex_pb2.ConnectRequest(
        envelopes=[multiplex_pb2.ClientEnvelope(call=call, open=opened_call) for call in range(1, count + 1)]
    )


async def test_batch_of_too_many_envelopes_ends_its_stream_alone(tmp_path: Path) -> None:
    async with opened(Kind.MULTIPLEXED, tmp_path) as rig:
        rig.servicers.get_me = who_am_i
        channel = grpc.aio.insecure_channel(rig.target.removeprefix("grpc:"))
        stream: Any = multiplex_pb2_grpc.MultiplexServiceStub(channel).Connect()
        assert [entry.WhichOneof("content") for entry in (await stream.read()).envelopes] == ["hello"]
        await stream.write(_opens(MAX_ENVELOPES))
        answered = 0
        while answered < MAX_ENVELOPES:
            answered += sum(entry.HasField("end") for entry in (await stream.read()).envelopes)
        await stream.write(_opens(MAX_ENVELOPES + 1))
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stream.read()
        assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await channel.close()
        assert (await rig.auth().GetMe(auth_pb2.GetMeRequest())).user.id
