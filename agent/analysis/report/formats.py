"""Formatting of figures for readers. A missing value is a dash; the minus sign is the typographic one."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

from agent.core.durations import format_duration
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS

MISSING = "–"


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Format a number: 1234.5 -> `1,234.50`."""
    if value is None or not isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if not text.strip("+-0.,"):  # a value that rounds to zero gets no sign
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """Format a fraction: 0.123 -> `12.3 %`, with a no-break space."""
    return (
        MISSING
        if value is None or not isfinite(value)
        else f"{number(value * 100, digits, signed=signed)}\u00a0%"
    )


def plain_number(value: float | None) -> str:
    """Format a number for terminals, with an ASCII sign: 1234.5 -> `1,234.50`."""
    return MISSING if value is None else f"{value:,.2f}"


def plain_percent(value: float | None) -> str:
    """Format a fraction for terminals, with an ASCII sign: 0.0123 -> `+1.23%`."""
    return MISSING if value is None else f"{value:+.2%}"


def basis_points(value: float | None) -> str:
    """Format a fraction in hundredths of a per cent, without the unit: 0.0012 -> `+12.0`."""
    return number(None if value is None else value * 10_000, 1, signed=True)


def money(value: float | None, currency: str = "", *, signed: bool = False) -> str:
    """Format an amount with two digits, or none from 100,000 on."""
    text = number(value, 0 if value is not None and abs(value) >= 100_000 else 2, signed=signed)
    return f"{text}\u00a0{currency}" if currency and text != MISSING else text


def price(value: float | None) -> str:
    """Format a price with 2, 4 or 8 digits, as prices range from millionths to hundreds of thousands."""
    if value is None or not isfinite(value):
        return MISSING
    size = abs(value)
    digits = 2 if size >= 100 else 4 if size >= 1 else 8
    return number(value, digits)


def duration(ms: float | None) -> str:
    """Format a duration in ms by its two largest units: 93,600,000 -> `1 d 2 h`."""
    if ms is None:
        return MISSING
    rest = round(ms)
    parts: list[str] = []
    for unit, size in (("d", DAY_MS), ("h", HOUR_MS), ("min", MINUTE_MS), ("s", 1_000)):
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count}\u00a0{unit}" if count else "")
    return " ".join(part for part in parts[:2] if part) or "0\u00a0s"


def date(ms: int | None) -> str:
    """Format UTC ms as a date: `2024-03-01`."""
    return MISSING if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


def minute(ms: int | None) -> str:
    """Format UTC ms as date and time: `2024-03-01 12:30`."""
    return MISSING if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


def frequency(period: int) -> str:
    """Return the adjective for periods of `period` ms: `daily`, `weekly`, `monthly`, else such as `4d`."""
    return {"days": "daily", "weeks": "weekly", "months": "monthly"}.get(
        plural(period), format_duration(period)
    )


def plural(period: int) -> str:
    """Return the noun for periods of `period` ms: `days`, `weeks`, `months` (28 to 31 days), `quarters`
    or `periods`.
    """
    if 28 * DAY_MS <= period <= 31 * DAY_MS:
        return "months"
    if 90 * DAY_MS <= period <= 92 * DAY_MS:
        return "quarters"
    return {DAY_MS: "days", 7 * DAY_MS: "weeks"}.get(period, "periods")
