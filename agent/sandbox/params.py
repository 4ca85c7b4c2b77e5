"""A request's parameters, as clients send them: texts in a query, texts or JSON values in a body."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from agent.sandbox.errors import parameter


class Params:
    """Reads parameters by name. Every method refuses with 10001 what cannot be read."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw

    def text(self, name: str, default: str | None = None, *, among: Collection[str] = ()) -> str:
        """A text, one of `among` where given; without `default` it must be there."""
        value = self.raw.get(name)
        if value is None or value == "":
            if default is None:
                raise parameter(f"params error: {name} is required")
            return default
        if isinstance(value, (dict, list)):
            raise parameter(f"params error: {name} invalid")
        text = str(value)
        if among and text not in among:
            raise parameter(f"{name} invalid: {text}")
        return text

    def decimal(self, name: str) -> Decimal | None:
        """A finite number that isn't negative; None where it is absent or empty."""
        text = self.text(name, "")
        if not text:
            return None
        try:
            number = Decimal(text)
        except InvalidOperation:
            raise parameter(f"{name} invalid: {text}") from None
        if not number.is_finite() or number < 0:
            raise parameter(f"{name} invalid: {text}")
        return number

    def positive(self, name: str) -> Decimal | None:
        """As `decimal`, but zero counts as absent: that is how clients leave prices out."""
        return self.decimal(name) or None

    def integer(self, name: str, default: int, *, low: int = 0, high: int | None = None) -> int:
        """A whole number, held between `low` and `high` as the venue does with limits."""
        text = self.text(name, "")
        if not text:
            return default
        try:
            number = int(text)
        except ValueError:
            raise parameter(f"{name} invalid: {text}") from None
        return max(low, number if high is None else min(number, high))

    def moment(self, name: str) -> int | None:
        """UTC milliseconds, or None."""
        return self.integer(name, 0) if self.text(name, "") else None

    def flag(self, name: str) -> bool:
        """True for a JSON true and the text `true`."""
        return self.raw.get(name) in (True, "true", "True")
