"""Decimal arithmetic on a written expression, with a parser of its own: nothing in it can name or call anything but what is listed here.

Grammar, by rising precedence: `+ -`, `* / //`, unary sign, `^` or `**` (to the right; whole exponents only), then numbers, parentheses and
`abs(x)`, `min(a, b, …)`, `max(a, b, …)`, `sqrt(x)`, `round(x, digits)`. Precision is that of IEEE 754 decimal128: 34 digits, round half
even, except that `round` rounds half up, as money is rounded. `//` and `/` truncate and divide as `decimal.Decimal` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal, DivisionByZero, InvalidOperation, Overflow
from types import MappingProxyType

from wireroom_common.errors import WireroomError, invalid

MAX_LENGTH = 500
MAX_DEPTH = 30
MAX_DIGITS = 34
MAX_EXPONENT = 1000
MAX_ARGUMENTS = 50
_MAX_PLACES = 30
_PLAIN = 40

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4})?)|(?P<name>[a-z]+)|(?P<sign>\*\*|//|[-+*/^(),]))"
)


def new_context() -> Context:
    """The context of all arithmetic here; overflow, division by zero and undefined results are errors."""
    return Context(
        prec=MAX_DIGITS, rounding=ROUND_HALF_EVEN, Emin=-6143, Emax=6144, traps=[Overflow, DivisionByZero, InvalidOperation]
    )


def evaluate(expression: str) -> Decimal:
    """The value; INVALID `expression_invalid` says where the expression cannot be read, `expression_undefined` what has no value."""
    if len(expression) > MAX_LENGTH:
        raise _bad(f"it has more than {MAX_LENGTH} characters")
    try:
        value = _Parser(_tokens(expression)).value()
    except DivisionByZero:
        raise _undefined("it divides by zero") from None
    except Overflow:
        raise _undefined("a value in it is too large") from None
    except InvalidOperation:
        raise _undefined("an operation in it has no defined value") from None
    return value


def written(value: Decimal) -> str:
    """The value without exponent where it is short enough, without trailing zeros."""
    if value == 0:
        return "0"
    value = value.normalize(new_context())
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and abs(exponent) + len(value.as_tuple().digits) <= _PLAIN:
        return f"{value:f}"
    return str(value)


def _tokens(expression: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    text = expression.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or not match.lastgroup:
            found = text[position:].lstrip()[:1]
            hint = "; write 15 percent of x as 0.15*x" if found == "%" else ""
            raise _bad(f"'{found}' is not understood{hint}")
        tokens.append((match.lastgroup, match.group(match.lastgroup)))
        position = match.end()
    return tokens


class _Parser:
    """Recursive descent; evaluates as it reads."""

    def __init__(self, tokens: Sequence[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._context = new_context()

    def value(self) -> Decimal:
        result = self._sum()
        if self._next < len(self._tokens):
            raise _bad(f"'{self._tokens[self._next][1]}' stands where an operator is expected")
        return result

    def _take(self, *signs: str) -> str:
        """The next sign if it is one of these, else nothing."""
        if self._next < len(self._tokens):
            kind, text = self._tokens[self._next]
            if kind == "sign" and text in signs:
                self._next += 1
                return text
        return ""

    def _expect(self, sign: str) -> None:
        if not self._take(sign):
            raise _bad(f"a '{sign}' is missing")

    def _sum(self) -> Decimal:
        value = self._product()
        while sign := self._take("+", "-"):
            right = self._product()
            value = self._context.add(value, right) if sign == "+" else self._context.subtract(value, right)
        return value

    def _product(self) -> Decimal:
        value = self._signed()
        while sign := self._take("*", "/", "//"):
            right = self._signed()
            if sign == "*":
                value = self._context.multiply(value, right)
            elif sign == "/":
                value = self._context.divide(value, right)
            else:
                value = self._context.divide_int(value, right)
        return value

    def _signed(self) -> Decimal:
        if sign := self._take("+", "-"):
            self._enter()
            value = self._signed()
            self._depth -= 1
            return self._context.minus(value) if sign == "-" else value
        return self._power()

    def _power(self) -> Decimal:
        value = self._atom()
        if not self._take("^", "**"):
            return value
        self._enter()
        exponent = self._signed()
        self._depth -= 1
        if exponent != exponent.to_integral_value() or abs(exponent) > MAX_EXPONENT:
            raise _bad(f"an exponent must be a whole number from -{MAX_EXPONENT} to {MAX_EXPONENT}")
        return self._context.power(value, int(exponent))

    def _atom(self) -> Decimal:
        if self._next >= len(self._tokens):
            raise _bad("it ends too early")
        kind, text = self._tokens[self._next]
        self._next += 1
        if kind == "number":
            digits = text.replace("_", "")
            if sum(character.isdigit() for character in re.split("[eE]", digits)[0]) > MAX_DIGITS:
                raise _bad(f"a number has more than {MAX_DIGITS} digits")
            return self._context.create_decimal(digits)
        if kind == "name":
            return self._call(text)
        if text != "(":
            raise _bad(f"'{text}' stands where a value is expected")
        self._enter()
        value = self._sum()
        self._depth -= 1
        self._expect(")")
        return value

    def _call(self, name: str) -> Decimal:
        function = _FUNCTIONS.get(name)
        if function is None:
            raise _bad(f"'{name[:20]}' is not known; there are {', '.join(sorted(_FUNCTIONS))}")
        self._expect("(")
        self._enter()
        arguments = [self._sum()]
        while self._take(","):
            arguments.append(self._sum())
        self._depth -= 1
        self._expect(")")
        low, high, apply = function
        if not low <= len(arguments) <= high:
            raise _bad(f"'{name}' takes {low} to {high} values")
        return apply(self._context, arguments)

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _bad(f"it is nested deeper than {MAX_DEPTH} levels")


def _rounded(context: Context, arguments: Sequence[Decimal]) -> Decimal:
    places = arguments[1] if len(arguments) > 1 else Decimal(0)
    if places != places.to_integral_value() or not 0 <= places <= _MAX_PLACES:
        raise _bad(f"'round' takes 0 to {_MAX_PLACES} places")
    return arguments[0].quantize(Decimal(1).scaleb(-int(places)), rounding=ROUND_HALF_UP, context=context)


_FUNCTIONS: Mapping[str, tuple[int, int, Callable[[Context, Sequence[Decimal]], Decimal]]] = MappingProxyType(
    {
        "abs": (1, 1, lambda context, values: context.abs(values[0])),
        "min": (1, MAX_ARGUMENTS, lambda _context, values: min(values)),
        "max": (1, MAX_ARGUMENTS, lambda _context, values: max(values)),
        "sqrt": (1, 1, lambda context, values: context.sqrt(values[0])),
        "round": (1, 2, _rounded),
    }
)


def _bad(reason: str) -> WireroomError:
    return invalid("expression_invalid", f"The expression cannot be read: {reason}.", field="expression")


def _undefined(reason: str) -> WireroomError:
    return invalid("expression_undefined", f"The expression has no value: {reason}.", field="expression")
