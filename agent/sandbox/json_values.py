"""Values in the venue's JSON: reading the parameters of requests and formatting numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from typing import Any

from agent.sandbox.bybit_errors import parameter_error

_EIGHTH = Decimal("1e-8")
_TWELFTH = Decimal("1e-12")


class Params:
    """Reads the parameters of a request by name. Every method raises BybitError 10001 if a value is invalid.

    Values of a query are strings; values of a body are strings or other JSON values.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw

    def text(self, name: str, default: str | None = None, *, among: Collection[str] = ()) -> str:
        """Return a string, one of `among` if given. Without `default` the parameter is required."""
        value = self.raw.get(name)
        if value is None or value == "":
            if default is None:
                raise parameter_error(f"params error: {name} is required")
            return default
        if isinstance(value, (dict, list)):
            raise parameter_error(f"params error: {name} invalid")
        text = str(value)
        if among and text not in among:
            raise parameter_error(f"{name} invalid: {text}")
        return text

    def decimal(self, name: str) -> Decimal | None:
        """Return a finite number that isn't negative, or None if the parameter is absent or empty."""
        text = self.text(name, "")
        if not text:
            return None
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise parameter_error(f"{name} invalid: {text}") from None
        if not number.is_finite() or number < 0:
            raise parameter_error(f"{name} invalid: {text}")
        return number

    def positive(self, name: str) -> Decimal | None:
        """Return a number like `decimal`, but None for zero: clients omit a price by sending 0."""
        return self.decimal(name) or None

    def integer(self, name: str, default: int, *, low: int = 0, high: int | None = None) -> int:
        """Return an integer, clamped to `low` and `high` as the venue clamps limits."""
        text = self.text(name, "")
        if not text:
            return default
        try:
            number = int(text)
        except ValueError:
            raise parameter_error(f"{name} invalid: {text}") from None
        return max(low, number if high is None else min(number, high))

    def timestamp(self, name: str) -> int | None:
        """Return UTC milliseconds, or None if the parameter is absent."""
        return self.integer(name, 0) if self.text(name, "") else None

    def flag(self, name: str) -> bool:
        """Return True for JSON true and the strings `true` and `True`."""
        return self.raw.get(name) in (True, "true", "True")


def format_number(value: Decimal | float | int) -> str:
    """Format a number exactly, without exponent and trailing zeros: 86092.0 -> `86092`."""
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    plain = format(exact + 0, "f")  # + 0 removes a minus zero
    return (plain.rstrip("0").rstrip(".") or "0") if "." in plain else plain


def format_rounded(value: Decimal | float) -> str:
    """Format a number with at most eight decimals, as amounts of coins and averages are written."""
    return format_number((value if isinstance(value, Decimal) else Decimal(repr(value))).quantize(_EIGHTH))


def format_balance(value: Decimal) -> str:
    """Format a balance with at most twelve decimals, rounded down so that the stated amount can be spent."""
    return format_number(value.quantize(_TWELFTH, ROUND_FLOOR))
