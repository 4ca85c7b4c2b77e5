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
        ("Lender files for bankruptcy", SELL),
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


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("Money rotates from Bitcoin into Ethereum as BTC slides and ETH rallies", {"BTC": SELL, "ETH": BUY}),
        ("Solana surges 20% while Cardano plunges after an exploit", {"SOL": BUY, "ADA": SELL}),
        ("Exchange lists Dogecoin, price jumps", {"DOGE": BUY}),
        ("Regulator approves the first spot fund", {}),
    ],
)
def test_each_asset_that_a_headline_names_gets_its_own_direction(
    generator: SentimentSignalGenerator, text: str, answers: dict[str, str]
) -> None:
    found = generator.generate_signal(text).assets
    assert {asset: own.prediction for asset, own in found.items()} == answers


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Bridge drained of $100M in an exploit", "failure"),
        ("SEC sues the exchange over unregistered securities", "regulation"),
        ("Coinbase lists the token", "access"),
        ("Startup raises $20M in a round led by a16z", "business"),
        ("Mainnet upgrade goes live", "protocol"),
        ("Bitcoin slips below $60,000", "price"),
        ("Analyst predicts Bitcoin at $100,000", "opinion"),
    ],
)
def test_an_unambiguous_headline_gets_its_kind_of_news(
    generator: SentimentSignalGenerator, text: str, kind: str
) -> None:
    assert generator.generate_signal(text).kind == kind


def test_the_starter_is_under_35_mb_and_knows_nothing_after_october_2023() -> None:
    card = read_card(starter_dir())
    assert (starter_dir() / MODEL_NAME).stat().st_size < 35e6
    assert 0 < card.trained_until <= datetime(2023, 11, 1, tzinfo=UTC).timestamp() * 1000
    assert {record.name for record in card.datasets}.isdisjoint(
        {"Sentences_50Agree.txt", "cryptolin-train.csv"}
    )


def test_the_card_records_metrics_the_reference_for_drift_and_the_accuracy_of_the_export() -> None:
    card = read_card(starter_dir())
    assert {"wire", "wire_assets", "wire_mixed_assets", "wire_kinds", "tfns", "fiqa", "corpus"} <= set(
        card.metrics
    )
    assert card.reference is not None
    assert card.notes["export_same_prediction"] > 0.95
    assert card.notes["export_same_asset_prediction"] > 0.95
