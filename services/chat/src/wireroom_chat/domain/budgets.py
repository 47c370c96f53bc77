"""Budgets: who may spend how much in which period. Money is in micro-units (millionths of the currency unit), periods are UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from uuid import UUID

from wireroom_common.errors import ErrorKind, WireroomError, invalid

ANYBODY = "*"
LARGEST_CAP = 10**15
# What is left when no budget binds: the largest number that travels.
NO_LIMIT = 2**63 - 1
# Per cent of a cap whose passing is told, once per period.
THRESHOLDS = (80, 100)
# The period that has no end, as its start is stored.
ALL_TIME = date(1970, 1, 1)


class Scope(StrEnum):
    """Whose spending a budget bounds."""

    TENANT = "tenant"
    USER = "user"
    KEY = "key"


class Period(StrEnum):
    """Over which time spending is summed up."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"

    def start(self, moment: datetime) -> date:
        """The first day of the period in which `moment` lies."""
        day = moment.astimezone(UTC).date()
        if self is Period.DAY:
            return day
        return day.replace(day=1) if self is Period.MONTH else ALL_TIME


@dataclass(frozen=True)
class BudgetTerms:
    """What an administrator sets. `subject`: the id of a user or key, or `*` (the tenant; the default of each user or key)."""

    scope: Scope
    subject: str
    period: Period
    cap: int
    enabled: bool = True

    def checked(self) -> BudgetTerms:
        """With the subject in its one written form; INVALID when something does not fit."""
        if not 0 <= self.cap <= LARGEST_CAP:
            raise invalid("budget_out_of_range", f"A budget is 0 to {LARGEST_CAP} millionths.", field="cap_micros")
        if self.scope is Scope.TENANT or self.subject == ANYBODY:
            if self.subject not in ("", ANYBODY):
                raise invalid("budget_subject_invalid", "A budget of the tenant has no subject: leave it out.", field="subject")
            return BudgetTerms(self.scope, ANYBODY, self.period, self.cap, self.enabled)
        try:
            subject = str(UUID(self.subject))
        except ValueError:
            raise invalid(
                "budget_subject_invalid",
                "The subject is the id of a user or API key, or '*' for the default of each of them.",
                field="subject",
            ) from None
        return BudgetTerms(self.scope, subject, self.period, self.cap, self.enabled)


@dataclass(frozen=True)
class Budget:
    """A budget as it is stored. `source` "auth": it came with an API key and is changed there."""

    id: UUID
    terms: BudgetTerms
    source: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Spending:
    """A budget that binds somebody, in the running period."""

    budget: Budget
    subject: str
    period_start: date
    spent: int
    reserved: int

    @property
    def remaining(self) -> int:
        """What may still be set aside; never below 0."""
        return max(0, self.budget.terms.cap - self.spent - self.reserved)


def insufficient_quota(scope: str, period: str, cap: int) -> WireroomError:
    """The refusal of a call that might pass a cap. Repeating it is of no use before the period ends or the budget is raised."""
    whose = {"tenant": "your organisation", "user": "your account", "key": "this API key"}[scope]
    span = {"day": "for today (UTC)", "month": "for this month (UTC)", "total": "in total"}[period]
    return WireroomError(
        ErrorKind.RATE_LIMITED,
        "insufficient_quota",
        f"The budget of {whose} {span} does not allow this request: its cap is {cap} millionths, and what is spent or set aside for"
        " running requests leaves too little. Lower max_tokens, wait for the period to end, or have the budget raised.",
    )
