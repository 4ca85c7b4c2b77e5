"""Check that a corpus is eventless: a model can't learn the future from texts without prices, dates and
real events.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from agent.core.errors import DataError

_MONTHS: Final = (
    "january|february|march|april|june|july|august|september|october|november|december"
    "|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec"
)
_EVENTS: Final = (
    r"ftx|alameda research|mt\.? ?gox|bitfinex hack|the dao hack|terra(?:usd|form)?(?: "
    r"labs)?|celsius|voyager digital|blockfi"
    r"|three arrows|3ac|genesis global|silvergate|silicon valley bank|signature bank|lehman|credit "
    r"suisse|ronin|poly network"
    r"|wormhole|nomad bridge|quadriga\w*|bankman[- ]fried|sbf|do kwon|mashinsky|shanghai "
    r"upgrade|shapella|dencun|pectra|taproot"
    r"|bitcoin cash fork|segwit|brexit|covid(?:-19)?|coronavirus|gamestop|evergrande|tornado cash|silk "
    r"road|libra"
)
RULES: Final = {
    "price": re.compile(
        r"[$€£¥₿]\s?\d|\b\d[\d,.]*\s?(?:usdt?|usdc|eur|gbp|jpy|dollars?|euros?|cents?|btc|eth|sats|mn|bn|million|billion|trillion)\b"
        r"|\b\d+(?:\.\d+)?[kmb]\b|\b\d{1,3}(?:,\d{3})+\b",
        re.IGNORECASE,
    ),
    "date": re.compile(
        r"\b(?:19|20)\d\d\b|\b\d{1,2}/\d{1,2}(?:/\d{2,4})?\b|\b\d{1,2}\.\d{1,2}\.\d{2,4}\b|\bq[1-4]\b"
        rf"|\b(?:{_MONTHS})\.? \d{{1,2}}\b|\b\d{{1,2}} (?:{_MONTHS})\b",
        re.IGNORECASE,
    ),
    "real event": re.compile(rf"\b(?:{_EVENTS})\b", re.IGNORECASE),
}
"""Patterns of text that belongs to one moment in time."""


def violations(texts: Iterable[str]) -> list[tuple[int, str, str]]:
    """Return (row from 1, rule, matched text) of all matches of the rules."""
    return [
        (row, rule, found.group())
        for row, text in enumerate(texts, 1)
        for rule, pattern in RULES.items()
        for found in pattern.finditer(text)
    ]


def require_timeless(name: str, texts: Iterable[str]) -> None:
    """Raise DataError, which lists the first violations, if a corpus is not eventless. `name` is that of
    its file.
    """
    found = violations(texts)
    if found:
        listed = "; ".join(f"row {row} names a {rule}: {match!r}" for row, rule, match in found[:5])
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        hint = "reword them, or don't declare the set eventless"
        raise DataError(f"{name} is not eventless: {listed}{more}", hint=hint)
