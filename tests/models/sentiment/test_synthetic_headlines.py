"""Generated statements are balanced, reproducible, and labelled by the figures they state."""

from __future__ import annotations

import re
from collections import Counter

import pytest

pytest.importorskip("torch")

from models.sentiment.serve.headline_text import abstention_reason, clean
from tools.synthetic_headlines import _GOOD, statements

pytestmark = pytest.mark.train

NOW_AND_BEFORE = re.compile(
    rf"^(?:{'|'.join(_GOOD)}) .*?([\d.]+)[^\d]*?(?:from|compared to|against)[^\d]*([\d.]+)"
)


def test_statements_are_distinct_balanced_and_reproducible() -> None:
    made = statements(300, seed=5)
    assert Counter(example.label for example in made) == {"bearish": 100, "neutral": 100, "bullish": 100}
    assert len({example.text for example in made}) == 300
    assert made == statements(300, seed=5) != statements(300, seed=6)


def test_statements_are_unchanged_by_cleaning_and_not_abstained_on() -> None:
    assert all(
        clean(example.text) == example.text and not abstention_reason(example.text)
        for example in statements(300, seed=5)
    )


def test_a_rise_of_a_positive_quantity_is_bullish_and_a_fall_is_bearish() -> None:
    compared = [
        (found, example.label)
        for example in statements(900, seed=5)
        if (found := NOW_AND_BEFORE.search(example.text))
    ]
    assert len(compared) > 50
    for found, label in compared:
        now, before = map(float, found.groups())
        assert label == ("bullish" if now > before else "bearish")
