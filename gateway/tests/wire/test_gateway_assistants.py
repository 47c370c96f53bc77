"""Routes of assistants and tools: what goes to the chat service and what comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from gateway_rig import Rig

from wireroom_protos.chat.v1 import assistants_pb2, tools_pb2

CONFIG = {"title": "Clerk", "prompt": "You are a clerk.", "disclaimer": "No advice."}


async def assistant(request: Any) -> Any:
    version = assistants_pb2.AssistantVersion(number=2, config=json.dumps(CONFIG).encode(), created_by="u")
    answer = assistants_pb2.Assistant(name=request.name, weights={2: 5, 0: 1}, versions=[version])
    return assistants_pb2.GetAssistantResponse(assistant=answer)


async def test_an_assistant_is_shown_with_weights_and_versions(rig: Rig) -> None:
    rig.neighbours.answers["GetAssistant"] = assistant
    async with rig.session.get("/api/v1/admin/assistants/clerk", headers=rig.bearer("assistants:manage")) as reply:
        body = await reply.json()
    assert body["weights"] == {"0": 1, "2": 5}
    assert body["versions"] == [{"number": 2, "config": CONFIG, "created_at": None, "created_by": "u"}]


async def test_weights_and_configurations_arrive_as_written(rig: Rig) -> None:
    headers = rig.bearer("assistants:manage")

    async def version(request: Any) -> Any:
        return assistants_pb2.CreateAssistantVersionResponse(
            version=assistants_pb2.AssistantVersion(number=1, config=request.config)
        )

    rig.neighbours.answers["CreateAssistantVersion"] = version
    path = "/api/v1/admin/assistants/clerk"
    async with rig.session.post(f"{path}/versions", json={"config": CONFIG}, headers=headers) as reply:
        assert (reply.status, (await reply.json())["config"]) == (201, CONFIG)
    async with rig.session.put(f"{path}/weights", json={"weights": {"0": 80, "1": 20}}, headers=headers) as reply:
        assert reply.status == 200
    assert dict(rig.neighbours.called("SetAssistantWeights")[0].request.weights) == {0: 80, 1: 20}


@pytest.mark.parametrize("weights", [{}, {"x": 1}, {"-1": 1}, {"01": 1}, {"1": -1}, {"1": 10_001}, {"1": 0.5}])
async def test_weights_that_do_not_fit_go_no_further(rig: Rig, weights: dict[str, Any]) -> None:
    headers = rig.bearer("assistants:manage")
    async with rig.session.put("/api/v1/admin/assistants/clerk/weights", json={"weights": weights}, headers=headers) as reply:
        assert reply.status == 422
    assert not rig.neighbours.called("SetAssistantWeights")


async def test_a_tool_gets_its_input_and_answers_with_data(rig: Rig) -> None:
    async def ran(request: Any) -> Any:
        return tools_pb2.RunToolResponse(result=json.dumps({"name": request.name, "got": json.loads(request.input)}).encode())

    rig.neighbours.answers["RunTool"] = ran
    given = {"principal": "0.1", "months": 12, "rate": 7.1}
    async with rig.session.post("/api/v1/tools/loan_emi", json={"input": given}, headers=rig.bearer("chat:use")) as reply:
        assert (await reply.json()) == {"result": {"name": "loan_emi", "got": given}}


async def test_a_file_is_an_attachment_that_nobody_keeps(rig: Rig) -> None:
    async def found(request: Any) -> Any:
        return tools_pb2.GetArtefactResponse(
            id=request.id, name="sanction-letter.pdf", media_type="application/pdf", data=b"%PDF-"
        )

    rig.neighbours.answers["GetArtefact"] = found
    async with rig.session.get("/api/v1/artefacts/a1", headers=rig.bearer("chat:use")) as reply:
        assert (reply.status, await reply.read()) == (200, b"%PDF-")
        assert reply.headers["content-type"] == "application/pdf"
        assert reply.headers["content-disposition"] == 'attachment; filename="sanction-letter.pdf"'
        assert reply.headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize("path", ["/api/v1/admin/assistants", "/api/v1/tools", "/api/v1/artefacts/a1", "/api/v1/assistants"])
async def test_others_get_nothing(rig: Rig, path: str) -> None:
    async with rig.session.get(path, headers=rig.bearer("news:read")) as reply:
        assert reply.status == 403
    async with rig.session.get(path) as reply:
        assert reply.status == 401
