"""Inputs of the fusion model: combined bars and the decayed mean of headlines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import ConfigError
from agent.core.events import MINUTE_MS, AssetSentiment, Sentiment
from agent.core.features import Features, FeatureTracker
from agent.core.fusion_inputs import Forecast, FusionInputs
from agent.core.text_embedding import DecayedEmbedding

HOUR = 60 * MINUTE_MS


class Even:
    """Predicts equal probabilities."""

    fingerprint = "even"
    half_life = HOUR

    def __init__(self, interval: int) -> None:
        self.interval = interval

    def vector(self, sentiment: Sentiment, asset: str) -> np.ndarray | None:
        return np.array((sentiment.of(asset).bullish,))

    def read(self, mean: Any) -> Any:
        return mean

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        return Forecast(1 / 3, 1 / 3, 1 / 3, 0.01)


def path(n: int) -> np.ndarray:
    return 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.001, n)))


def feed(fusion_inputs: FusionInputs, closes: np.ndarray, begin: int = 0) -> list[bool]:
    """Feed one-minute bars from minute `begin` on, whose high and low equal the close."""
    return [
        fusion_inputs.on_bar((begin + minute) * MINUTE_MS, close, close, close, 1.0)
        for minute, close in enumerate(closes.tolist())
    ]


def test_market_bars_are_combined_into_the_models_bars() -> None:
    closes = path(5 * 60)
    fusion_inputs = FusionInputs("BTCUSDT", Even(5 * MINUTE_MS), MINUTE_MS)
    asked = feed(fusion_inputs, closes)
    tracker = FeatureTracker()
    for bar in range(60):
        part = closes[5 * bar : 5 * bar + 5]
        expected = tracker.advance(5 * bar * MINUTE_MS, part.max(), part.min(), part[-1], 5.0)
    assert fusion_inputs.features == expected
    assert [number for number, yes in enumerate(asked) if yes] == [5 * bar + 4 for bar in range(33, 60)]


def test_an_incomplete_model_bar_is_ignored() -> None:
    closes = path(5 * 60 + 2)
    late = FusionInputs("BTCUSDT", Even(5 * MINUTE_MS), MINUTE_MS)
    feed(late, closes, begin=3)
    whole = FusionInputs("BTCUSDT", Even(5 * MINUTE_MS), MINUTE_MS)
    feed(whole, closes[2:], begin=5)
    assert late.features == whole.features


def test_missing_bars_reset_the_features_but_keep_the_headlines() -> None:
    fusion_inputs = FusionInputs("BTCUSDT", Even(MINUTE_MS), MINUTE_MS)
    feed(fusion_inputs, path(60))
    fusion_inputs.on_headline(Sentiment("n", 0, 0, 0.1, 0.1, 0.8), 60 * MINUTE_MS)
    assert fusion_inputs.features.warm
    fusion_inputs.reset()
    assert not fusion_inputs.features.warm
    assert fusion_inputs.text.weight(60 * MINUTE_MS) == 1.0


@pytest.mark.parametrize(
    ("symbol", "bullish"),
    [("BTCUSDT", 0.1), ("BTCPERP", 0.1), ("1000PEPEUSDT", 0.8), ("ETHUSDT", 0.4)],
)
def test_a_symbol_takes_the_embedding_of_its_asset(symbol: str, bullish: float) -> None:
    answers = (AssetSentiment("BTC", 0.8, 0.1, 0.1), AssetSentiment("PEPE", 0.1, 0.1, 0.8))
    fusion_inputs = FusionInputs(symbol, Even(MINUTE_MS), MINUTE_MS)
    fusion_inputs.on_headline(Sentiment("n", 0, 0, 0.3, 0.3, 0.4, assets=answers), MINUTE_MS)
    assert fusion_inputs.text.mean.tolist() == [bullish]


@pytest.mark.parametrize("interval", [MINUTE_MS // 2, MINUTE_MS + 1])
def test_an_interval_that_is_not_a_multiple_is_refused(interval: int) -> None:
    with pytest.raises(ConfigError, match="can't be made of bars of 1m"):
        FusionInputs("BTCUSDT", Even(interval), MINUTE_MS)


@given(
    st.lists(st.tuples(st.integers(0, 4 * HOUR), st.floats(-5, 5)), min_size=1, max_size=30),
    st.integers(0, HOUR),
)
def test_headlines_are_combined_to_their_decayed_mean(heard: list[tuple[int, float]], later: int) -> None:
    state = DecayedEmbedding(HOUR)
    heard = sorted(heard)
    for ts, value in heard:
        state.update(np.array((value,)), ts)
    now = heard[-1][0] + later
    weights = np.array([2.0 ** (-(now - ts) / HOUR) for ts, _ in heard])
    assert state.weight(now) == pytest.approx(weights.sum(), rel=1e-9)
    assert state.mean[0] == pytest.approx(
        (weights * [value for _, value in heard]).sum() / weights.sum(), rel=1e-9, abs=1e-9
    )
