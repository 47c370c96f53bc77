"""`ToolService` and `ArtefactService`: tools called by people and programs, and the files they made."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import orjson

from wireroom_chat.ports.artefacts import ArtefactStore
from wireroom_chat.tools.contract import Toolbox, ToolCaller, ToolResult
from wireroom_common.errors import ErrorKind, WireroomError, invalid, not_found
from wireroom_common.ids import parse_id
from wireroom_common.principal import current_principal
from wireroom_protos.chat.v1 import tools_pb2, tools_pb2_grpc

USE = "chat:use"
_MAX_INPUT = 100_000


class ToolServicer(tools_pb2_grpc.ToolServiceServicer):
    """`seconds`: how long a tool may take."""

    def __init__(self, toolbox: Toolbox, *, seconds: float) -> None:
        self._toolbox = toolbox
        self._seconds = seconds

    async def ListTools(self, request: tools_pb2.ListToolsRequest, context: Any) -> tools_pb2.ListToolsResponse:  # noqa: N802 - rpc name
        del request, context
        current_principal().require(USE)
        return tools_pb2.ListToolsResponse(
            tools=[
                tools_pb2.Tool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=orjson.dumps(tool.schema),
                    safe_on_untrusted=tool.safe_on_untrusted,
                )
                for tool in self._toolbox.all()
            ]
        )

    async def RunTool(self, request: tools_pb2.RunToolRequest, context: Any) -> tools_pb2.RunToolResponse:  # noqa: N802 - rpc name
        del context
        principal = current_principal()
        principal.require(USE)
        tool = self._toolbox.find(request.name)
        if tool is None:
            raise not_found("tool")
        if len(request.input) > _MAX_INPUT:
            raise WireroomError(ErrorKind.TOO_LARGE, "tool_input_too_long", f"The input has more than {_MAX_INPUT} bytes.")
        try:
            arguments = json.loads(request.input or b"{}")
        except ValueError:
            raise invalid("tool_input_invalid", "The input is not valid JSON.") from None
        checked = tool.parse(arguments)
        try:
            async with asyncio.timeout(self._seconds):
                result = await tool.run(checked, ToolCaller(principal.tenant(), principal.user_id()))
        except TimeoutError:
            raise WireroomError(
                ErrorKind.DEADLINE, "tool_timeout", f"The tool did not answer within {self._seconds:g} seconds."
            ) from None
        return tools_pb2.RunToolResponse(result=orjson.dumps(_result(result)))


class ArtefactServicer(tools_pb2_grpc.ArtefactServiceServicer):
    """Only the owner gets them."""

    def __init__(self, store: ArtefactStore) -> None:
        self._store = store

    async def GetArtefact(self, request: tools_pb2.GetArtefactRequest, context: Any) -> tools_pb2.GetArtefactResponse:  # noqa: N802 - rpc name
        del context
        principal = current_principal()
        principal.require(USE)
        found = await self._store.get(principal.tenant(), principal.user_id(), parse_id(request.id, "artefact"))
        response = tools_pb2.GetArtefactResponse(id=str(found.id), name=found.name, media_type=found.media_type, data=found.data)
        response.created_at.FromDatetime(found.created_at)
        response.expires_at.FromDatetime(found.expires_at)
        return response


def _result(result: ToolResult) -> dict[str, Any]:
    if not result.passages:
        return dict(result.data)
    return {
        **result.data,
        "passages": [
            {
                "number": number,
                "document_id": passage.document_id,
                "kind": passage.kind.value,
                "title": passage.title,
                "url": passage.url,
                "page": passage.page or None,
                "published_at": passage.published_at.isoformat() if passage.published_at else None,
                "text": passage.text,
            }
            for number, passage in enumerate(result.passages, start=1)
        ],
    }
