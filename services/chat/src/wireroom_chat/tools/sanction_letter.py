"""The sanction letter: a PDF drawn up from figures, kept as an artefact of the user."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from decimal import Decimal
from importlib.resources import files
from typing import Annotated

from pydantic import Field

from wireroom_chat.letters.rendering import LetterRenderer
from wireroom_chat.ports.artefacts import ArtefactStore
from wireroom_chat.tools import loans
from wireroom_chat.tools.contract import Tool, ToolCaller, ToolInput, ToolResult, tool
from wireroom_chat.tools.lending import Amount, Months, Rate
from wireroom_common.clock import Clock

# Rendering holds a core; more of them at once would only take it from everybody else.
_AT_ONCE = 2
# No line breaks: a value must not begin a heading or a row of its own.
_Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*$")]


class SanctionLetterInput(ToolInput):
    """Who is to get the letter, and the loan."""

    lender: _Line
    applicant: _Line
    address: Annotated[
        list[_Line], Field(max_length=6, default_factory=list, description="The applicant's address, line by line.")
    ]
    purpose: _Line
    principal: Amount
    annual_rate_percent: Rate
    months: Months
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217 code.")] = "EUR"
    reference: _Line = "none"
    conditions: Annotated[
        list[_Line], Field(max_length=20, default_factory=list, description="What must be fulfilled before the loan is paid out.")
    ]
    valid_days: Annotated[int, Field(ge=1, le=365, description="For how many days the terms stand.")] = 30


def sanction_letter(store: ArtefactStore, clock: Clock) -> Tool:
    """It leaves a file behind, so it does not run on untrusted text without permission."""
    renderer: list[LetterRenderer] = []
    room = asyncio.Semaphore(_AT_ONCE)
    template = (files("wireroom_chat.letters") / "sanction_letter.txt").read_text(encoding="utf-8")

    def render(given: SanctionLetterInput) -> bytes:
        if not renderer:
            renderer.append(LetterRenderer())
        now = clock.now()
        plan = loans.schedule(given.principal, given.annual_rate_percent, given.months)
        values = {
            "lender": given.lender,
            "date": f"{now:%Y-%m-%d}",
            "reference": given.reference,
            "applicant": given.applicant,
            "address": "\n".join(given.address),
            "purpose": given.purpose,
            "currency": given.currency,
            "principal": _money(given.principal),
            "annual_rate_percent": f"{given.annual_rate_percent:f}",
            "months": str(len(plan.payments)),
            "instalment": _money(plan.emi),
            "last_payment": _money(plan.payments[-1].payment),
            "total_interest": _money(plan.interest),
            "total_paid": _money(plan.paid),
            "valid_until": f"{now + timedelta(days=given.valid_days):%Y-%m-%d}",
            "conditions": "\n".join(f"{number}. {line}" for number, line in enumerate(given.conditions, start=1)) or "None.",
        }
        return renderer[0].render(template, values, title="Sanction letter (draft)", created=now)

    async def run(given: SanctionLetterInput, caller: ToolCaller) -> ToolResult:
        async with room:
            data = await asyncio.to_thread(render, given)
        kept = await store.keep(caller.tenant_id, caller.user_id, "sanction-letter.pdf", "application/pdf", data)
        return ToolResult(
            {
                "artefact_id": str(kept.id),
                "name": kept.name,
                "download": f"/api/v1/artefacts/{kept.id}",
                "expires_at": kept.expires_at.isoformat(),
            }
        )

    return tool(
        "sanction_letter",
        "Draw up a draft sanction letter (PDF) for a loan; answers with the path under which the user can download it.",
        SanctionLetterInput,
        run,
        safe_on_untrusted=False,
    )


def _money(value: Decimal) -> str:
    return f"{value:,.2f}"
