"""Signals: SELL, HOLD or BUY with a calibrated confidence and an action threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import UsageError
from agent.core.events import BUY, HOLD, SELL
from models.sentiment.serve.generator import SentimentSignal, SentimentSignalGenerator

SHARE = st.floats(0.001, 1.0)


@pytest.fixture(scope="module")
def generator(
    tmp_path_factory: pytest.TempPathFactory, write_model: Callable[..., Path]
) -> SentimentSignalGenerator:
    return SentimentSignalGenerator.from_pretrained(write_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize(
    ("text", "prediction"),
    [("bitcoin soars", BUY), ("the token crashes", SELL), ("bitcoin meets the token", HOLD)],
)
def test_a_text_gets_a_direction_and_a_confidence(
    generator: SentimentSignalGenerator, text: str, prediction: str
) -> None:
    signal = generator.generate_signal(text)
    assert signal.prediction == prediction
    assert signal.confidence == max(signal.bearish, signal.neutral, signal.bullish)
    assert signal.actionable == (signal.confidence >= 0.7)


def test_a_batch_gives_the_signals_of_its_texts_scored_alone(generator: SentimentSignalGenerator) -> None:
    texts = ["bitcoin soars", "", "record outflows"]
    assert generator.batch_signals(texts) == [generator.generate_signal(text) for text in texts]


def test_an_abstention_is_a_hold_that_is_not_actionable(
    generator: SentimentSignalGenerator,
) -> None:
    signal = generator.generate_signal("")
    assert (signal.prediction, signal.confidence, signal.actionable, signal.abstained) == (
        HOLD,
        0.0,
        False,
        True,
    )


def test_a_vote_is_weighted_by_confidence(generator: SentimentSignalGenerator) -> None:
    sure = generator.generate_signal("bitcoin soars after record inflows")
    unsure = generator.generate_signal("record outflows")
    vote = generator.aggregate_signals([sure, unsure])
    assert vote.prediction is BUY
    weights = sure.confidence, unsure.confidence
    assert vote.bullish == pytest.approx(
        (weights[0] * sure.bullish + weights[1] * unsure.bullish) / sum(weights)
    )


def test_abstentions_do_not_vote(generator: SentimentSignalGenerator) -> None:
    signal, silent = generator.batch_signals(["the token crashes", ""])
    assert generator.aggregate_signals([silent, signal, silent]) == signal
    for nobody in ([], [silent]):
        assert generator.aggregate_signals(nobody).abstained


@given(st.lists(st.tuples(SHARE, SHARE, SHARE), min_size=1, max_size=6))
def test_a_vote_sums_to_1_and_does_not_depend_on_the_order(
    generator: SentimentSignalGenerator, shares: list[tuple[float, float, float]]
) -> None:
    signals = [
        SentimentSignal(
            *(part / sum(row) for part in row),
            prediction=HOLD,
            confidence=max(row) / sum(row),
            actionable=False,
        )
        for row in shares
    ]
    vote = generator.aggregate_signals(signals)
    assert vote.bearish + vote.neutral + vote.bullish == pytest.approx(1)
    backwards = generator.aggregate_signals(signals[::-1])
    assert (backwards.bearish, backwards.bullish) == pytest.approx((vote.bearish, vote.bullish))


@pytest.fixture(scope="module")
def reader(
    tmp_path_factory: pytest.TempPathFactory, write_reader: Callable[..., Path]
) -> SentimentSignalGenerator:
    return SentimentSignalGenerator.from_pretrained(write_reader(tmp_path_factory.mktemp("reader")))


def test_each_named_asset_gets_its_own_signal(reader: SentimentSignalGenerator) -> None:
    signal = reader.generate_signal("ether soars as bitcoin crashes and solana record")
    assert [(asset, own.prediction) for asset, own in signal.assets.items()] == [
        ("ETH", BUY),
        ("BTC", SELL),
        ("SOL", BUY),
    ]
    for own in signal.assets.values():
        assert own.confidence == max(own.bearish, own.neutral, own.bullish)
        assert own.actionable == (own.confidence >= 0.7)
    assert [own.actionable for own in signal.assets.values()] == [True, True, False]
    assert (signal.kind, signal.kind_confidence > 0.9) == ("price", True)


def test_a_vote_on_an_asset_counts_only_the_signals_that_name_it(reader: SentimentSignalGenerator) -> None:
    texts = ["ether soars", "bitcoin crashes as ether inflows", "the token hacked", ""]
    both, mixed, unnamed, silent = reader.batch_signals(texts)
    vote = reader.aggregate_signals([silent, both, mixed, unnamed])
    first, second = both.assets["ETH"], mixed.assets["ETH"]
    assert list(vote.assets) == ["ETH", "BTC"]
    assert vote.assets["BTC"] == mixed.assets["BTC"]
    assert vote.assets["ETH"].bullish == pytest.approx(
        (first.confidence * first.bullish + second.confidence * second.bullish)
        / (first.confidence + second.confidence)
    )
    assert vote.assets["ETH"].prediction is BUY
    assert vote.assets["ETH"].actionable


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["ether soars", "bitcoin crashes", ""], "price"),
        (["ether soars", "the token hacked"], ""),
        (["", "the token hacked"], "failure"),
    ],
)
def test_a_vote_has_a_kind_only_if_all_its_texts_agree(
    reader: SentimentSignalGenerator, texts: list[str], kind: str
) -> None:
    vote = reader.aggregate_signals(reader.batch_signals(texts))
    assert vote.kind == kind
    assert (vote.kind_confidence > 0) == bool(kind)


def test_a_model_that_reads_no_asset_leaves_them_empty(generator: SentimentSignalGenerator) -> None:
    signal = generator.generate_signal("bitcoin soars")
    vote = generator.aggregate_signals([signal, generator.generate_signal("the token crashes")])
    for one in (signal, vote):
        assert (one.assets, one.kind, one.kind_confidence) == ({}, "", 0.0)


def test_a_threshold_that_is_not_a_probability_is_refused(generator: SentimentSignalGenerator) -> None:
    with pytest.raises(UsageError, match="no probability"):
        SentimentSignalGenerator(generator.scorer, threshold=70)
