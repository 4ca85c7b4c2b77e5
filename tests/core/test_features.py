"""The ten price features: they equal TA-Lib's, and are NaN until warm and after a gap."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import numpy as np
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.core.events import DAY_MS, MINUTE_MS, Kline
from agent.core.features import WARM_UP_BARS, Features, FeatureTracker
from agent.data.klines import KlineFile
from tests.conftest import ROOT
from tests.support.market import bar

FIRST_DEFINED = {
    "return_1": 1,
    "return_5": 5,
    "return_20": 20,
    "volume_ratio": 19,
    "volatility": 20,
    "rsi": 14,
    "macd": 33,
    "bollinger": 19,
    "atr_ratio": 14,
    "vwap_distance": 0,
}


def reference(
    o: NDArray, h: NDArray, low: NDArray, c: NDArray, v: NDArray, start: NDArray
) -> dict[str, NDArray]:
    """Compute the features with TA-Lib, and the daily VWAP with numpy."""
    upper, middle, _ = talib.BBANDS(c, 20, 2, 2)
    returns = talib.ROCP(c, 1)
    typical = (h + low + c) / 3
    vwap = np.empty_like(c)
    for day in np.unique(start // DAY_MS):
        rows = start // DAY_MS == day
        vwap[rows] = np.cumsum(typical[rows] * v[rows]) / np.cumsum(v[rows])
    return {
        "return_1": returns,
        "return_5": talib.ROCP(c, 5),
        "return_20": talib.ROCP(c, 20),
        "volume_ratio": v / talib.SMA(v, 20),
        "volatility": np.concatenate([[np.nan], talib.STDDEV(returns[1:], 20)]),
        "rsi": talib.RSI(c, 14),
        "macd": talib.MACD(c, 12, 26, 9)[2] / c,
        "bollinger": (c - middle) / (upper - middle),
        "atr_ratio": talib.ATR(h, low, c, 14) / c,
        "vwap_distance": c / vwap - 1,
    }


def compare(klines: list[Kline]) -> None:
    columns = np.array([(k.open, k.high, k.low, k.close, k.volume) for k in klines]).T
    start = np.array([k.start for k in klines])
    tracker = FeatureTracker()
    ours = np.array([tracker.update(k) for k in klines])
    for name, theirs in reference(*columns, start).items():
        mine = ours[:, Features._fields.index(name)]

        defined = ~np.isnan(theirs) & np.isfinite(theirs)
        assert np.array_equal(np.isnan(mine)[:40], np.isnan(theirs)[:40]), name
        np.testing.assert_allclose(mine[defined], theirs[defined], rtol=1e-9, atol=1e-9, err_msg=name)


def test_the_features_equal_ta_lib_on_the_sample_klines() -> None:
    compare(
        [event for event in KlineFile(ROOT / "tests/sample_data/BTCUSDT-1m.csv") if isinstance(event, Kline)]
    )


@pytest.mark.shared
@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_the_features_equal_ta_lib_on_real_klines(shared_data: Path, symbol: str) -> None:
    file = KlineFile(shared_data / f"data/klines/{symbol}-1m.parquet", end=1_703_980_800_000)  # two months
    compare([event for event in file if isinstance(event, Kline)])


def test_each_feature_is_nan_until_it_is_warm() -> None:
    tracker = FeatureTracker()
    for n in range(WARM_UP_BARS + 1):
        values = tracker.update(bar(n, 100 + n % 3, 104, 99, 100 + (n * 7) % 5))
        for name, first in FIRST_DEFINED.items():
            assert isnan(getattr(values, name)) == (n < first), (n, name)
        assert values.warm == (n >= WARM_UP_BARS - 1)


def test_reset_discards_all_state() -> None:
    tracker, fresh = FeatureTracker(), FeatureTracker()
    for n in range(100):
        tracker.update(bar(n, 100, 103, 98, 100 + n % 4))
    tracker.reset()
    for n in range(200, 260):
        one, other = (
            tracker.update(bar(n, 100, 103, 98, 101 - n % 3)),
            fresh.update(bar(n, 100, 103, 98, 101 - n % 3)),
        )
        assert repr(one) == repr(other)


def test_a_constant_price_has_no_volatility_and_a_neutral_rsi() -> None:
    tracker = FeatureTracker()
    for n in range(600):
        values = tracker.update(bar(n, 50_000.1, 50_000.1, 50_000.1, 50_000.1, 0.0))
    assert values == Features(0, 0, 0, 1, 0, 50, 0, 0, 0, 0)


def test_rolling_sums_recover_exactly_after_a_price_shock() -> None:
    tracker = FeatureTracker()
    for n in range(400):
        tracker.update(bar(n, 1e8, 1e8, 1e8, 1e8))
    for n in range(400, 2_000):
        values = tracker.update(bar(n, 1.0, 1.0, 1.0, 1.0))
    assert values.volatility == 0
    assert values.bollinger == 0


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0.01, 1e5), st.floats(0, 0.1), st.floats(0, 1e6)), min_size=35, max_size=120)
)
def test_every_feature_is_finite_and_in_its_range(moves: list[tuple[float, float, float]]) -> None:
    tracker = FeatureTracker()
    previous = moves[0][0]
    for n, (close, wick, volume) in enumerate(moves):
        high, low = max(previous, close) * (1 + wick), min(previous, close) * (1 - wick)
        values = tracker.update(
            Kline("X", MINUTE_MS, n * MINUTE_MS, 0, 0, previous, high, low, close, volume)
        )
        previous = close
    assert all(np.isfinite(values))
    assert 0 <= values.rsi <= 100
    assert values.volatility >= 0
    assert values.atr_ratio >= 0
    assert 0 <= values.volume_ratio <= 20.000001
    # the farthest that one of 20 values can lie from their mean
    assert abs(values.bollinger) <= np.sqrt(19) / 2 + 1e-6
