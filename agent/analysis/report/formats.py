"""Figures as people read them. What is unknown is a dash; minus is the typographic one."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite

from agent.core.durations import format_duration
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS

MISSING = "–"


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """1234.5 -> `1,234.50`."""
    if value is None or not isfinite(value):
        return MISSING
    text = f"{value:{'+' if signed else ''},.{digits}f}"
    if not text.strip("+-0.,"):  # no sign on what rounds to zero
        text = text.lstrip("+-")
    return text.replace("-", "−")


def percent(value: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """0.123 -> `12.3 %`, with a no-break space."""
    return (
        MISSING
        if value is None or not isfinite(value)
        else f"{number(value * 100, digits, signed=signed)}\u00a0%"
    )


def money(value: float | None, currency: str = "", *, signed: bool = False) -> str:
    """Two digits; none from 100,000 on."""
    text = number(value, 0 if value is not None and abs(value) >= 100_000 else 2, signed=signed)
    return f"{text}\u00a0{currency}" if currency and text != MISSING else text


def price(value: float | None) -> str:
    """Six significant digits at least, as prices range from millionths to hundreds of thousands."""
    if value is None or not isfinite(value):
        return MISSING
    size = abs(value)
    digits = 2 if size >= 100 else 4 if size >= 1 else 8
    return number(value, digits)


def duration(ms: float | None) -> str:
    """The two largest units: 93,600,000 -> `1 d 2 h`."""
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
    """`2024-03-01`, UTC."""
    return MISSING if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"


def minute(ms: int | None) -> str:
    """`2024-03-01 12:30`, UTC."""
    return MISSING if ms is None else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M}"


def frequency(period: int) -> str:
    """Of returns over `period` ms: `daily`, `weekly`, `monthly`, else e.g. `4d`."""
    return {"days": "daily", "weeks": "weekly", "months": "monthly"}.get(
        plural(period), format_duration(period)
    )


def plural(period: int) -> str:
    """What periods of `period` ms are called: `days`, `weeks`, `months` (28 to 31 days), `quarters`, else `periods`."""
    if 28 * DAY_MS <= period <= 31 * DAY_MS:
        return "months"
    if 90 * DAY_MS <= period <= 92 * DAY_MS:
        return "quarters"
    return {DAY_MS: "days", 7 * DAY_MS: "weeks"}.get(period, "periods")
