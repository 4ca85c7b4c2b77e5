"""Errors that the sandbox returns to clients, with Bybit's return codes and texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class BybitError(Exception):
    """Makes the sandbox reject a request. `code` is Bybit's retCode; business errors have HTTP status 200."""

    def __init__(
        self, code: int, message: str, *, status: int = 200, result: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.result = result or {}


def error_by_category(category: str, *, linear: tuple[int, str], spot: tuple[int, str]) -> BybitError:
    """Return the error with the code and text of the category: derivatives and spot differ."""
    return BybitError(*(spot if category == "spot" else linear))


def parameter_error(what: str) -> BybitError:
    """Return error 10001: a parameter is missing or wrong."""
    return BybitError(10001, what)


def unknown_symbol(symbol: str) -> BybitError:
    """Return error 10001 with the text by which clients recognise an unknown symbol."""
    return BybitError(10001, f"Not supported symbols: {symbol}")


def order_not_found(category: str, verb: str) -> BybitError:
    """Return the error for an order that is unknown or no longer open."""
    return error_by_category(
        category,
        linear=(110001, f"order not exists or too late to {verb}"),
        spot=(170213, "Order does not exist."),
    )


def insufficient_funds(category: str) -> BybitError:
    """Return the error for an order that exceeds the balance or the margin."""
    return error_by_category(
        category, linear=(110007, "ab not enough for new order"), spot=(170131, "Insufficient balance.")
    )


def rate_limited() -> BybitError:
    """Return error 10006: too many requests of the key to one endpoint within a second."""
    return BybitError(10006, "Too many visits. Exceeded the API Rate Limit.")
