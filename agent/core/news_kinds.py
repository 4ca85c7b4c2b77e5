"""The kinds of news that a model may distinguish."""

from __future__ import annotations

from typing import Final

NEWS_KINDS: Final = (
    "failure",
    "regulation",
    "macro",
    "access",
    "business",
    "protocol",
    "price",
    "opinion",
    "other",
)
"""Kinds of news, in the order of a model's logits.

failure: hack, outage, insolvency. regulation: law, lawsuit, ruling. macro: rates, jobs, war. access: listing,
fund, custody. business: firms buy, raise, hire. protocol: upgrade, launch, burn. price: moves and flows.
opinion: forecasts and views. other: education, recaps, advertising.
"""
