"""Eventless corpora are checked for prices, dates and names of real events."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.core.errors import DataError
from models.sentiment.train.datasets import load
from models.sentiment.train.datasets.timeless_corpus import require_timeless, violations

CORPUS = Path(__file__).resolve().parents[3] / "models" / "sentiment" / "train" / "corpus" / "headlines.csv"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Bitcoin tops $100,000", "price"),
        ("Hackers take 40 million", "price"),
        ("Fund adds 5k coins", "price"),
        ("Whale moves 3,000 coins", "price"),
        ("Outlook for 2024 improves", "date"),
        ("Results due on March 3", "date"),
        ("Revenue rises in Q3", "date"),
        ("Creditors of FTX are paid", "real event"),
        ("Lawsuit over Mt. Gox goes on", "real event"),
    ],
)
def test_prices_dates_and_real_events_are_violations(text: str, rule: str) -> None:
    assert rule in {found for _, found, _ in violations([text])}


@pytest.mark.parametrize(
    "text",
    [
        "Bitcoin falls less than feared",
        "Token rallies ten percent after listing",
        "Exchange may list 3 tokens",
    ],
)
def test_text_without_price_date_or_real_event_is_accepted(text: str) -> None:
    assert not violations([text])


def test_the_error_names_the_row_and_the_violation() -> None:
    with pytest.raises(DataError, match=r"own\.csv is not eventless: row 2 names a date: '2024'"):
        require_timeless("own.csv", ["fine", "not in 2024"])


def test_the_bundled_corpus_is_eventless_and_has_at_least_600_distinct_texts() -> None:
    found = load(CORPUS, "csv")
    texts = [example.text for example in found.examples]
    require_timeless(CORPUS.name, texts)
    assert len(set(texts)) >= 600
    assert {example.label for example in found.examples} == {"bearish", "neutral", "bullish"}
