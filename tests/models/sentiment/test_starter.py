"""The shipped starter model: its size, its card, and its predictions on unambiguous headlines."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agent.core.events import BUY, SELL
from models.cards import read_card
from models.sentiment import starter_dir
from models.sentiment.serve.generator import SentimentSignalGenerator
from models.sentiment.serve.scorer import MODEL_NAME


@pytest.fixture(scope="module")
def generator() -> SentimentSignalGenerator:
    return SentimentSignalGenerator.from_pretrained("starter")


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ("Exchange hacked, attackers drain hot wallets", SELL),
        ("Regulator sues the exchange and freezes its accounts", SELL),
        ("Bitcoin plunges as leveraged longs are liquidated", SELL),
        ("Lender files for bankruptcy protection", SELL),
        ("Bitcoin surges to a record high on strong fund inflows", BUY),
        ("Regulator approves the first spot ether fund", BUY),
        ("Payments giant adds support for stablecoins, shares jump", BUY),
        ("Profit beats forecasts, dividend raised", BUY),
    ],
)
def test_an_unambiguous_headline_gets_the_expected_direction(
    generator: SentimentSignalGenerator, text: str, prediction: str
) -> None:
    assert generator.generate_signal(text).prediction == prediction


def test_the_starter_is_under_25_mb_and_was_trained_on_data_before_2025() -> None:
    card = read_card(starter_dir())
    assert (starter_dir() / MODEL_NAME).stat().st_size < 25e6
    assert 0 < card.trained_until <= datetime(2025, 1, 1, tzinfo=UTC).timestamp() * 1000
    assert {record.name for record in card.datasets}.isdisjoint(
        {"Sentences_50Agree.txt", "cryptolin-train.csv"}
    )


def test_the_card_records_metrics_and_the_accuracy_of_the_export() -> None:
    card = read_card(starter_dir())
    assert {"tfns", "fiqa", "corpus", "phrasebank", "cryptolin"} <= set(card.metrics)
    assert card.notes["export_batch_dependence"] == 0
    assert card.notes["export_same_prediction"] > 0.95
