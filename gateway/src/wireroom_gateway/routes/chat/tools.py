"""The built-in tools, called without a model, and the files they make."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import FastAPI, Response
from pydantic import Field

from wireroom_gateway.access import Bucket, access
from wireroom_gateway.routes.application import problem_responses
from wireroom_gateway.routes.fields import Input, Output
from wireroom_gateway.services import Services
from wireroom_protos.chat.v1 import tools_pb2

_USE = "chat:use"
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {"application/pdf": {"schema": {"type": "string", "contentMediaType": "application/pdf"}}},
        "headers": {"content-disposition": {"schema": {"type": "string"}}},
    }
}


class ToolOutput(Output):
    """A tool. `safe_on_untrusted`: assistants may run it when their prompt holds text of documents or news."""

    name: str
    description: str
    input_schema: dict[str, Any]
    safe_on_untrusted: bool


class ToolsOutput(Output):
    """All tools, by name."""

    tools: list[ToolOutput]


class RunToolInput(Input):
    """Arguments that fit the tool's `input_schema`."""

    input: dict[str, Any] = Field(
        description="As the tool's `input_schema` has it; numbers may be written as strings to keep them exact."
    )


class RunToolOutput(Output):
    """What the tool answered."""

    result: dict[str, Any]


def add_tool_routes(api: FastAPI, services: Services, *, timeout: float) -> None:
    """`/api/v1/tools` and `/api/v1/artefacts`."""

    @api.get("/api/v1/tools", tags=["assistants"])
    @access(_USE)
    async def list_tools() -> ToolsOutput:
        answer = await services.tools.ListTools(tools_pb2.ListToolsRequest(), timeout=timeout)
        return ToolsOutput(
            tools=[
                ToolOutput(
                    name=tool.name,
                    description=tool.description,
                    input_schema=orjson.loads(tool.input_schema),
                    safe_on_untrusted=tool.safe_on_untrusted,
                )
                for tool in answer.tools
            ]
        )

    @api.post("/api/v1/tools/{name}", tags=["assistants"], responses=problem_responses(404, 415))
    @access(_USE, bucket=Bucket.CHAT, prompt=True)
    async def run_tool(name: str, body: RunToolInput) -> RunToolOutput:
        request = tools_pb2.RunToolRequest(name=name, input=orjson.dumps(body.input))
        answer = await services.tools.RunTool(request, timeout=timeout)
        return RunToolOutput(result=orjson.loads(answer.result))

    @api.get(
        "/api/v1/artefacts/{id}", tags=["assistants"], response_class=Response, responses={**problem_responses(404), **_FILE}
    )
    @access(_USE)
    async def get_artefact(id: str) -> Response:  # noqa: A002 - the path's name for it
        found = await services.artefacts.GetArtefact(tools_pb2.GetArtefactRequest(id=id), timeout=timeout)
        # The name is the tool's, not the caller's: it needs no escaping.
        headers = {"content-disposition": f'attachment; filename="{found.name}"', "cache-control": "private, no-store"}
        return Response(found.data, media_type=found.media_type, headers=headers)
