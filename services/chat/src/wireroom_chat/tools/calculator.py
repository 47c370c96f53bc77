"""The calculator."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wireroom_chat.tools.contract import Tool, ToolCaller, ToolInput, ToolResult, tool
from wireroom_chat.tools.expressions import MAX_LENGTH, evaluate, written


class CalculatorInput(ToolInput):
    """An expression such as `(1200 * 0.07) / 12`, or `round(2/3, 2)`."""

    expression: Annotated[str, Field(min_length=1, max_length=MAX_LENGTH)]


async def _run(given: CalculatorInput, _caller: ToolCaller) -> ToolResult:
    return ToolResult({"expression": given.expression, "value": written(evaluate(given.expression))})


def calculator() -> Tool:
    """Exact decimal arithmetic."""
    return tool(
        "calculator",
        "Decimal arithmetic: + - * / // ^, parentheses, abs, min, max, sqrt, round(x, places). No percent sign: write 0.15*x.",
        CalculatorInput,
        _run,
        safe_on_untrusted=True,
    )
