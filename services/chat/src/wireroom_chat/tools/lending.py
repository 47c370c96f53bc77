"""The loan tools: instalment, schedule, eligibility, comparison."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema, field_validator

from wireroom_chat.tools import loans
from wireroom_chat.tools.contract import Tool, ToolCaller, ToolInput, ToolResult, tool
from wireroom_common.errors import invalid

# Plain schemas: some providers refuse the patterns with which pydantic describes decimals.
_MONEY: dict[str, Any] = {"type": "number", "maximum": 1e12, "description": "An amount of money, at most two decimals."}
Amount = Annotated[
    Decimal,
    Field(gt=0, le=loans.MAX_AMOUNT, decimal_places=2, allow_inf_nan=False),
    WithJsonSchema({**_MONEY, "exclusiveMinimum": 0}),
]
NoNegative = Annotated[
    Decimal,
    Field(ge=0, le=loans.MAX_AMOUNT, decimal_places=2, allow_inf_nan=False),
    WithJsonSchema({**_MONEY, "minimum": 0}),
]
Rate = Annotated[
    Decimal,
    Field(ge=0, le=loans.MAX_RATE, decimal_places=6, allow_inf_nan=False),
    WithJsonSchema(
        {"type": "number", "minimum": 0, "maximum": 1000, "description": "Nominal annual rate in percent, for example 7.5."}
    ),
]
Months = Annotated[int, Field(ge=1, le=loans.MAX_MONTHS, description="Number of monthly payments.")]

_ROUNDING = "Amounts are rounded to cents, half up; the last payment clears what rounding left."
_INDICATIVE = "An indication by arithmetic only: no decision on credit."


class EmiInput(ToolInput):
    """A loan."""

    principal: Amount
    annual_rate_percent: Rate
    months: Months


class AmortisationInput(EmiInput):
    """A loan, and which months of its schedule to show."""

    first_month: Months = 1
    rows: Annotated[int, Field(ge=1, le=loans.MAX_MONTHS, description="How many months to show.")] = 24


class EligibilityInput(ToolInput):
    """What somebody earns, owes and wants."""

    monthly_income: Amount
    monthly_obligations: Annotated[NoNegative, Field(description="What is paid for other debts each month.")] = Decimal(0)
    annual_rate_percent: Rate
    months: Months
    requested_principal: Annotated[Amount | None, Field(description="The loan that is wanted, if known.")] = None
    max_obligation_percent: Annotated[
        Decimal,
        Field(gt=0, le=100, decimal_places=2, allow_inf_nan=False),
        WithJsonSchema(
            {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": 100,
                "description": "Share of the income in percent that all instalments together may take.",
            }
        ),
    ] = Decimal(50)


class Offer(ToolInput):
    """One of the loans to compare."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    annual_rate_percent: Rate
    months: Months
    fees: Annotated[NoNegative, Field(description="One-off costs.")] = Decimal(0)


class CompareInput(ToolInput):
    """Offers for the same principal."""

    principal: Amount
    offers: Annotated[list[Offer], Field(min_length=2, max_length=10)]

    @field_validator("offers")
    @classmethod
    def _names_differ(cls, offers: list[Offer]) -> list[Offer]:
        if len({offer.name for offer in offers}) != len(offers):
            raise ValueError("each offer needs a name of its own")
        return offers


def _money(value: Decimal) -> str:
    return f"{value:.2f}"


async def _emi(given: EmiInput, _caller: ToolCaller) -> ToolResult:
    plan = loans.schedule(given.principal, given.annual_rate_percent, given.months)
    return ToolResult(_summary(plan, given.principal) | {"months": given.months, "rounding": _ROUNDING})


async def _amortisation(given: AmortisationInput, _caller: ToolCaller) -> ToolResult:
    plan = loans.schedule(given.principal, given.annual_rate_percent, given.months)
    if given.first_month > len(plan.payments):
        raise invalid("month_out_of_range", f"The schedule ends after month {len(plan.payments)}.", field="first_month")
    shown = plan.payments[given.first_month - 1 : given.first_month - 1 + given.rows]
    return ToolResult(
        _summary(plan, given.principal)
        | {
            "months": len(plan.payments),
            "schedule": [
                {
                    "month": entry.month,
                    "payment": _money(entry.payment),
                    "interest": _money(entry.interest),
                    "principal": _money(entry.principal),
                    "balance": _money(entry.balance),
                }
                for entry in shown
            ],
            "rounding": _ROUNDING,
        }
    )


async def _eligibility(given: EligibilityInput, _caller: ToolCaller) -> ToolResult:
    share = loans.cents(given.monthly_income * given.max_obligation_percent / 100)
    available = max(share - given.monthly_obligations, Decimal(0))
    ceiling = loans.affordable_principal(available, given.annual_rate_percent, given.months)
    data: dict[str, Any] = {
        "available_for_instalment": _money(available),
        "max_principal": _money(ceiling),
        "note": _INDICATIVE,
    }
    if given.requested_principal is not None:
        wanted = loans.emi(given.requested_principal, given.annual_rate_percent, given.months)
        fits = given.requested_principal <= ceiling
        reason = (
            "The instalment stays within the share of the income."
            if fits
            else f"The instalment of {_money(wanted)} is above the {_money(available)} that the share of the income leaves."
        )
        data |= {"requested_instalment": _money(wanted), "within_limits": fits, "reason": reason}
    return ToolResult(data)


async def _compare(given: CompareInput, _caller: ToolCaller) -> ToolResult:
    rows = []
    for offer in given.offers:
        plan = loans.schedule(given.principal, offer.annual_rate_percent, offer.months)
        rows.append((plan.paid + offer.fees, offer, plan))
    rows.sort(key=lambda row: (row[0], row[1].name))
    cheapest = rows[0][0]
    return ToolResult(
        {
            "offers": [
                {
                    "name": offer.name,
                    "months": offer.months,
                    "fees": _money(offer.fees),
                    "total_cost": _money(total),
                    "more_than_cheapest": _money(total - cheapest),
                    **_summary(plan, given.principal),
                }
                for total, offer, plan in rows
            ],
            "cheapest": rows[0][1].name,
            "rounding": _ROUNDING,
            "note": "Ordered by the sum of all payments and fees; the time value of money is left out.",
        }
    )


def _summary(plan: loans.Schedule, principal: Decimal) -> dict[str, Any]:
    return {
        "principal": _money(principal),
        "instalment": _money(plan.emi),
        "last_payment": _money(plan.payments[-1].payment),
        "total_interest": _money(plan.interest),
        "total_paid": _money(plan.paid),
    }


def loan_tools() -> list[Tool]:
    """All of them: arithmetic on the arguments only."""
    return [
        tool("loan_emi", "Monthly instalment, interest and total of a loan.", EmiInput, _emi, safe_on_untrusted=True),
        tool(
            "loan_amortisation",
            "The months of a loan's repayment: payment, interest, principal, balance.",
            AmortisationInput,
            _amortisation,
            safe_on_untrusted=True,
        ),
        tool(
            "loan_eligibility",
            "How large a loan an income carries, by the share of it that instalments may take. An indication, not a decision.",
            EligibilityInput,
            _eligibility,
            safe_on_untrusted=True,
        ),
        tool(
            "loan_compare",
            "Two to ten loan offers for the same principal, cheapest first.",
            CompareInput,
            _compare,
            safe_on_untrusted=True,
        ),
    ]
