"""Loan arithmetic in exact decimals.

Source of the formulas: S. G. Kellison, *The Theory of Interest*, chapters 3 (level payment of an annuity-immediate) and 5 (amortisation
schedules). With principal P, monthly rate r = annual rate / 12 and n months the level payment (equated monthly instalment, EMI) is

    P · r · (1 + r)^n / ((1 + r)^n - 1),  and P / n where r = 0.

Rounding: rates and factors carry 50 digits. Money is rounded to cents, half up: the EMI once, then the interest of each month. The last
payment clears what the roundings left, so the principal parts of a schedule add up to the principal to the cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Context, Decimal

MAX_MONTHS = 600
MAX_AMOUNT = Decimal("1e12")
MAX_RATE = Decimal(1000)
_CENT = Decimal("0.01")
_CONTEXT_DIGITS = 50


@dataclass(frozen=True)
class Payment:
    """One month of a schedule; `balance` is what is owed after it."""

    month: int
    payment: Decimal
    interest: Decimal
    principal: Decimal
    balance: Decimal


@dataclass(frozen=True)
class Schedule:
    """All payments. `emi` is the level payment; the last one may differ by the roundings."""

    emi: Decimal
    payments: Sequence[Payment]

    @property
    def interest(self) -> Decimal:
        """All interest."""
        return sum((entry.interest for entry in self.payments), Decimal(0))

    @property
    def paid(self) -> Decimal:
        """All payments."""
        return sum((entry.payment for entry in self.payments), Decimal(0))


def _context() -> Context:
    return Context(prec=_CONTEXT_DIGITS, rounding=ROUND_HALF_UP)


def cents(value: Decimal, rounding: str = ROUND_HALF_UP) -> Decimal:
    """The amount in whole cents."""
    return value.quantize(_CENT, rounding=rounding, context=_context())


def monthly_rate(annual_percent: Decimal) -> Decimal:
    """The rate of a month as a fraction."""
    return _context().divide(annual_percent, Decimal(1200))


def emi(principal: Decimal, annual_percent: Decimal, months: int) -> Decimal:
    """The level monthly payment in cents."""
    context = _context()
    rate = monthly_rate(annual_percent)
    if rate == 0:
        return cents(context.divide(principal, Decimal(months)))
    growth = context.power(context.add(Decimal(1), rate), months)
    # A rate so small that it is lost in 50 digits is no rate.
    if growth == 1:
        return cents(context.divide(principal, Decimal(months)))
    level = cents(
        context.divide(context.multiply(context.multiply(principal, rate), growth), context.subtract(growth, Decimal(1)))
    )
    # Rounded down it could be a cent less than the first month's interest, and the debt would grow.
    return max(level, cents(context.multiply(principal, rate)))


def schedule(principal: Decimal, annual_percent: Decimal, months: int) -> Schedule:
    """The payments month by month, until nothing is owed: at most `months`."""
    context = _context()
    rate = monthly_rate(annual_percent)
    level = emi(principal, annual_percent, months)
    payments: list[Payment] = []
    balance = principal
    for month in range(1, months + 1):
        interest = cents(context.multiply(balance, rate))
        # Never more than is owed; what is owed at the end is due then.
        repaid = balance if month == months else min(max(level - interest, Decimal(0)), balance)
        balance -= repaid
        payments.append(Payment(month, interest + repaid, interest, repaid, balance))
        if balance == 0:
            break
    return Schedule(level, payments)


def affordable_principal(payment: Decimal, annual_percent: Decimal, months: int) -> Decimal:
    """The largest principal that `payment` a month repays: its present value, rounded down to cents; 0 for no payment."""
    if payment <= 0:
        return Decimal("0.00")
    context = _context()
    rate = monthly_rate(annual_percent)
    growth = context.power(context.add(Decimal(1), rate), months)
    if growth == 1:
        return cents(context.multiply(payment, Decimal(months)), ROUND_DOWN)
    factor = context.divide(context.subtract(growth, Decimal(1)), context.multiply(rate, growth))
    return cents(context.multiply(payment, factor), ROUND_DOWN)
