"""The venue's refusals: retCode, text, and the HTTP status where it isn't 200."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """A request that the venue answers with an error. `code` is Bybit's retCode; business errors travel with HTTP 200."""

    def __init__(
        self, code: int, message: str, *, status: int = 200, result: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.result = result or {}


def by_category(category: str, *, linear: tuple[int, str], spot: tuple[int, str]) -> Refusal:
    """The same refusal, which derivatives and spot number differently."""
    return Refusal(*(spot if category == "spot" else linear))


def parameter(what: str) -> Refusal:
    """10001: a parameter is missing or wrong."""
    return Refusal(10001, what)


def unknown_symbol(symbol: str) -> Refusal:
    """10001 with the words that clients recognise as an unknown symbol."""
    return Refusal(10001, f"Not supported symbols: {symbol}")


def no_such_order(category: str, verb: str) -> Refusal:
    """The order is unknown, or has ended."""
    return by_category(
        category,
        linear=(110001, f"order not exists or too late to {verb}"),
        spot=(170213, "Order does not exist."),
    )


def too_little_money(category: str) -> Refusal:
    """Balance or margin does not carry the order."""
    return by_category(
        category, linear=(110007, "ab not enough for new order"), spot=(170131, "Insufficient balance.")
    )


def too_many_visits() -> Refusal:
    """The rate limit of the key, per endpoint and second."""
    return Refusal(10006, "Too many visits. Exceeded the API Rate Limit.")
