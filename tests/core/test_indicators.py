"""Indicators: values are those of TA-Lib on the whole history, whatever the history at hand begins with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from agent.core import indicators
from agent.core.engine import Engine
from agent.core.errors import StrategyError
from agent.core.events import HOUR_MS, MINUTE_MS, Event, Kline
from agent.core.indicator_windows import CUMULATIVE, NOT_ON_WINDOWS, bars_before
from agent.core.sinks import ListSink
from agent.core.strategy import Bar, Market, Strategy
from agent.data.klines import KlineFile
from tests.conftest import ROOT
from tests.support.market import SYMBOL, config, flat_bars, run

talib = pytest.importorskip("talib", reason="TA-Lib, the extra `ta`, is not installed")
abstract = pytest.importorskip("talib.abstract")

RELATIVE = 1e-8
"""Tolerance, as a fraction of the mean absolute value: remaining weight of the start, and rounding."""

Columns = dict[str, NDArray[np.float64]]


@pytest.fixture(scope="module")
def sample() -> list[Kline]:
    file = KlineFile(ROOT / "tests/sample_data/BTCUSDT-1m.csv")
    return [event for event in file if isinstance(event, Kline)]


def columns_of(klines: list[Kline]) -> Columns:
    names = ("open", "high", "low", "close", "volume")
    return {name: np.array([getattr(kline, name) for kline in klines]) for name in names}


class Asks(Strategy):
    """Calls a function of `ta` at each bar."""

    intervals = ("1m", "15m")

    def __init__(self, ask: Callable[[Strategy], Any]) -> None:
        super().__init__()
        self._ask = ask
        self.answers: list[Any] = []

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.answers.append(self._ask(self))


def answers(klines: list[Event] | list[Kline], ask: Callable[[Strategy], Any]) -> list[Any]:
    strategy = Asks(ask)
    run(strategy, klines)
    return strategy.answers


def assert_equal(found: NDArray[np.float64], expected: NDArray[np.float64], name: str) -> None:
    scale = np.nanmean(np.abs(expected)) if np.isfinite(expected).any() else 1.0
    np.testing.assert_allclose(found, expected, rtol=RELATIVE, atol=RELATIVE * scale, err_msg=name)


AT_EACH_BAR: dict[str, dict[str, Any]] = {
    "SMA": {"timeperiod": 20},
    "EMA": {"timeperiod": 20},
    "RSI": {"timeperiod": 14},
    "MACD": {},
    "BBANDS": {"timeperiod": 20},
    "ATR": {"timeperiod": 14},
    "ADX": {"timeperiod": 14},
    "STOCH": {},
    "MFI": {"timeperiod": 14},
}


@pytest.mark.parametrize("name", AT_EACH_BAR)
def test_values_equal_those_on_the_whole_history_at_each_bar(name: str, sample: list[Kline]) -> None:
    parameters, columns = AT_EACH_BAR[name], columns_of(sample)
    found = answers(sample, lambda strategy: getattr(strategy.ta, name)(SYMBOL, "1m", **parameters))
    whole = abstract.Function(name)(columns, **parameters)
    outputs = whole if isinstance(whole, list) else [whole]
    rows = np.array(found, float).reshape(len(sample), len(outputs))
    filled = ~np.isnan(rows[:, 0])
    assert filled[filled.argmax() :].all()
    assert filled.sum() > len(sample) - 700
    for number, output in enumerate(outputs):
        assert_equal(rows[filled, number], output[filled], f"{name} {number}")


def _wilder(values: pd.Series, n: int) -> pd.Series:
    """Wilder's average: the mean of the first `n` values, then 1 / n of each new one."""
    start = values.first_valid_index()
    assert isinstance(start, int)
    known = values.iloc[start:].copy()
    known.iloc[n - 1] = known.iloc[:n].mean()
    return known.iloc[n - 1 :].ewm(alpha=1 / n, adjust=False).mean().reindex(values.index)


def _rsi(bars: pd.DataFrame) -> pd.Series:
    steps = bars.close.diff()
    gain, loss = _wilder(steps.clip(lower=0), 4), _wilder(-steps.clip(upper=0), 4)
    return 100 * gain / (gain + loss)


def _atr(bars: pd.DataFrame) -> pd.Series:
    before = bars.close.shift()
    ranges = pd.concat([bars.high - bars.low, (bars.high - before).abs(), (bars.low - before).abs()], axis=1)
    return _wilder(ranges.max(axis=1).where(before.notna()), 4)


def _macd(bars: pd.DataFrame) -> pd.Series:
    fast, slow = (bars.close.ewm(span=n, adjust=False).mean() for n in (3, 8))
    return fast - slow


BY_PANDAS: dict[str, tuple[Callable[..., Any], Callable[[pd.DataFrame], pd.Series], float]] = {
    # Of the bars alone: equal up to rounding
    "SMA": (
        lambda ta, *of: ta.SMA(*of, timeperiod=8),
        lambda bars: bars.close.rolling(8).mean(),
        1e-10,
    ),
    "STDDEV": (
        lambda ta, *of: ta.STDDEV(*of, timeperiod=8),
        lambda bars: bars.close.rolling(8).std(ddof=0),
        1e-6,  # TA-Lib subtracts squares of prices: seven of sixteen digits are left
    ),
    "upper band": (
        lambda ta, *of: ta.BBANDS(*of, timeperiod=8, nbdevup=2).upperband,
        lambda bars: bars.close.rolling(8).mean() + 2 * bars.close.rolling(8).std(ddof=0),
        1e-8,
    ),
    "highest high": (
        lambda ta, *of: ta.MAX(*of, timeperiod=8, price="high"),
        lambda bars: bars.high.rolling(8).max(),
        0.0,
    ),
    "ROC": (
        lambda ta, *of: ta.ROC(*of, timeperiod=5),
        lambda bars: 100 * (bars.close / bars.close.shift(5) - 1),
        1e-8,
    ),
    # Recursive: the start of the window has a weight below 1e-10, that of the history still less
    "EMA": (
        lambda ta, *of: ta.EMA(*of, timeperiod=8),
        lambda bars: bars.close.ewm(span=8, adjust=False).mean(),
        RELATIVE,
    ),
    "RSI": (lambda ta, *of: ta.RSI(*of, timeperiod=4), _rsi, RELATIVE),
    "ATR": (lambda ta, *of: ta.ATR(*of, timeperiod=4), _atr, RELATIVE),
    # A difference of averages near each other: the weight counts against the price, not the difference
    "MACD": (
        lambda ta, *of: ta.MACD(*of, fastperiod=3, slowperiod=8, signalperiod=3).macd,
        _macd,
        1e-6,
    ),
}


@pytest.mark.parametrize("interval", ["1m", "15m"])
@pytest.mark.parametrize("name", BY_PANDAS)
def test_values_equal_those_of_pandas_on_the_whole_history_at_each_bar(
    name: str, interval: str, sample: list[Kline]
) -> None:
    ask, expect, tolerance = BY_PANDAS[name]
    found = np.array(answers(sample, lambda strategy: ask(strategy.ta, SYMBOL, interval)))
    minutes = pd.DataFrame(columns_of(sample)).set_index(
        pd.to_datetime([one.start for one in sample], unit="ms")
    )
    how: Any = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    step = int(interval.removesuffix("m"))
    bars = minutes.resample(f"{step}min").agg(how).reset_index(drop=True)
    expected = expect(bars).to_numpy()
    # At each minute the value is that of the last bar that has closed
    closed = np.arange(1, len(sample) + 1) // step - 1
    known = ~np.isnan(found)
    assert known[known.argmax() :].all()
    assert known.sum() > len(sample) - 140 * step
    scale = np.nanmean(np.abs(expected))
    np.testing.assert_allclose(found[known], expected[closed[known]], rtol=tolerance, atol=tolerance * scale)


@pytest.fixture(scope="module")
def whole_functions() -> Columns:
    """Return a walk of 9,000 bars, longer than any window."""
    rng = np.random.default_rng(7)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.004, 9_000)))
    opened = np.concatenate([[100.0], close[:-1]])
    spread = np.abs(rng.normal(0, 0.002, (2, 9_000)))
    return {
        "open": opened,
        "high": np.maximum(opened, close) * (1 + spread[0]),
        "low": np.minimum(opened, close) * (1 - spread[1]),
        "close": close,
        "volume": rng.lognormal(2, 1, 9_000),
    }


@pytest.mark.parametrize("name", talib.get_functions())
def test_each_functions_window_is_long_enough(name: str, whole_functions: Columns) -> None:
    function = abstract.Function(name)
    before = bars_before(name, function.parameters)
    if name in CUMULATIVE or name in NOT_ON_WINDOWS:
        assert before is None or name in NOT_ON_WINDOWS
        return
    assert before is not None, "a function that adds up or isn't known"
    window = function.lookback + 1 + before
    ends = range(6_000, 9_000, 97)
    whole = function(whole_functions)
    outputs = np.atleast_2d(np.array(whole, float))
    with np.errstate(invalid="ignore"):
        found = np.array(
            [
                np.atleast_2d(
                    np.array(function({k: v[e - window : e] for k, v in whole_functions.items()}), float)
                )[:, -1]
                for e in ends
            ]
        )
    for number, output in enumerate(outputs):
        assert_equal(found[:, number], output[[e - 1 for e in ends]], f"{name} {number}")


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("MA", {"timeperiod": 30, "matype": 1}),
        ("MA", {"timeperiod": 30, "matype": 4}),
        ("BBANDS", {"timeperiod": 20, "matype": 3}),
        ("MACDEXT", {"fastmatype": 1, "slowmatype": 1, "signalmatype": 1}),
        ("STOCH", {"slowk_matype": 1, "slowd_matype": 1}),
        ("PPO", {"fastperiod": 5, "slowperiod": 100}),
        ("EMA", {"timeperiod": 200}),
        ("RSI", {"timeperiod": 50}),
    ],
)
def test_parameters_lengthen_the_window(
    name: str, parameters: dict[str, Any], whole_functions: Columns
) -> None:
    function = abstract.Function(name)
    function.parameters = parameters
    before = bars_before(name, function.parameters)
    assert before
    window = function.lookback + 1 + before
    for end in range(6_000, 9_000, 371):
        part = function({key: values[end - window : end] for key, values in whole_functions.items()})
        whole = function({key: values[:end] for key, values in whole_functions.items()})
        for one, other in zip(np.atleast_2d(np.array(part)), np.atleast_2d(np.array(whole)), strict=True):
            np.testing.assert_allclose(one[-1], other[-1], rtol=RELATIVE, atol=RELATIVE)


def test_a_value_does_not_depend_on_where_the_history_begins(sample: list[Kline]) -> None:
    def ask(strategy: Strategy) -> tuple[float, ...]:
        ta = strategy.ta
        return (ta.EMA(SYMBOL, "1m", timeperiod=20), ta.RSI(SYMBOL, "1m"), *ta.MACD(SYMBOL, "1m"))

    whole, later = answers(sample[:1_500], ask), answers(sample[700:1_500], ask)
    assert whole[-300:] == later[-300:]  # to the last bit


def test_a_value_is_nan_until_the_window_is_full() -> None:
    closes = [100.0 + n % 7 for n in range(300)]
    found = answers(flat_bars(closes), lambda strategy: strategy.ta.SMA(SYMBOL, "1m", timeperiod=20))
    assert [isnan(value) for value in found] == [True] * 19 + [False] * 281
    assert found[19] == pytest.approx(sum(closes[:20]) / 20)
    recursive = answers(flat_bars(closes), lambda strategy: strategy.ta.EMA(SYMBOL, "1m", timeperiod=20))
    # 19 bars of lookback, and 231 after the first value until (19 / 21)^k < 1e-10
    assert [isnan(value) for value in recursive] == [True] * 250 + [False] * 50


def test_whole_numbers_may_stand_for_fractions() -> None:
    bars = flat_bars([100.0 + n % 9 for n in range(60)])
    whole, exact = (
        answers(bars, lambda s, n=n: s.ta.BBANDS(SYMBOL, "1m", timeperiod=9, nbdevup=n, nbdevdn=n))[-1]
        for n in (2, 2.0)
    )
    assert whole == exact
    assert whole.upperband > whole.middleband


def test_a_history_of_values_is_a_read_only_column_oldest_first() -> None:
    bars = flat_bars([100.0 + n * n % 11 for n in range(60)])
    columns = answers(bars, lambda strategy: strategy.ta.SMA(SYMBOL, "1m", timeperiod=5, history=4))
    values = answers(bars, lambda strategy: strategy.ta.SMA(SYMBOL, "1m", timeperiod=5))
    assert columns[-1] == pytest.approx(values[-4:])
    assert [isnan(value) for value in columns[4]] == [True, True, True, False]
    assert [isnan(value) for value in columns[0]] == [True] * 4
    with pytest.raises(ValueError, match="read-only"):
        columns[-1][0] = 0


def test_functions_with_several_outputs_return_named_tuples() -> None:
    bars = flat_bars([100.0 + n % 9 for n in range(60)])
    bands = answers(bars, lambda strategy: strategy.ta.BBANDS(SYMBOL, "1m", timeperiod=9, nbdevup=2.0))[-1]
    assert bands.middleband == pytest.approx(104)
    assert bands.upperband - bands.middleband == pytest.approx(bands.middleband - bands.lowerband)
    lines = answers(bars, lambda strategy: strategy.ta.BBANDS(SYMBOL, "1m", timeperiod=9, history=3))[-1]
    assert lines.upperband.shape == (3,)
    assert lines.upperband[-1] == pytest.approx(bands.upperband)


def test_indicators_of_higher_intervals_change_when_their_bars_close() -> None:
    bars = flat_bars([100.0 + n for n in range(120)])
    found = answers(bars, lambda strategy: strategy.ta.SMA(SYMBOL, "15m", timeperiod=2))
    assert [
        number for number in range(1, 120) if found[number] != found[number - 1] == found[number - 1]
    ] == [*range(44, 120, 15)]
    assert found[44] == 100 + (29 + 44) / 2


def test_another_price_and_another_window_can_be_chosen() -> None:
    bars = flat_bars([100.0 + n % 9 for n in range(60)])
    lows = answers(bars, lambda strategy: strategy.ta.MIN(SYMBOL, "1m", timeperiod=5, price="low"))[-1]
    assert lows == min(bar.low for bar in bars[-5:])
    short = answers(bars, lambda strategy: strategy.ta.EMA(SYMBOL, "1m", timeperiod=5, window=20))
    assert [isnan(value) for value in short] == [True] * 19 + [False] * 41
    obv = answers(bars, lambda strategy: strategy.ta.OBV(SYMBOL, "1m", window=10))[-1]
    closes = [bar.close for bar in bars[-10:]]
    volumes = [bar.volume for bar in bars[-10:]]
    signs = np.sign(np.diff(closes))
    assert obv == volumes[0] + float((signs * volumes[1:]).sum())


WRONG: dict[str, tuple[Callable[[Strategy], Any], type[Exception], str]] = {
    "function": (lambda s: s.ta.RSIX, AttributeError, "no function RSIX: did you mean RSI?"),
    "case": (lambda s: s.ta.ema, AttributeError, "no function ema: did you mean EMA?"),
    "index": (lambda s: s.ta.MAXINDEX, AttributeError, "a position in the history; use market.bars"),
    "parameter": (
        lambda s: s.ta.RSI(SYMBOL, "1m", period=14),
        TypeError,
        r"RSI has no parameter period: did you mean timeperiod\?",
    ),
    "parameter's value": (
        lambda s: s.ta.RSI(SYMBOL, "1m", timeperiod=-3),
        ValueError,
        "RSI: .*timeperiod=-3",
    ),
    "price": (lambda s: s.ta.RSI(SYMBOL, "1m", price="mid"), ValueError, "none of open, high"),
    "no price": (lambda s: s.ta.ATR(SYMBOL, "1m", price="open"), TypeError, "ATR has no price to choose"),
    "window": (lambda s: s.ta.RSI(SYMBOL, "1m", window=5), ValueError, "too short: it needs 15 bars"),
    "cumulative": (lambda s: s.ta.OBV(SYMBOL, "1m"), ValueError, "adds up from the first bar on"),
    "history": (lambda s: s.ta.RSI(SYMBOL, "1m", history=0), ValueError, "history=0"),
    "interval": (lambda s: s.ta.RSI(SYMBOL, "1h"), StrategyError, r"\('1m', '15m', '1h'\)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_calls_say_what_would_be_right(case: str) -> None:
    ask, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        answers(flat_bars([100.0] * 3), ask)


def test_without_ta_lib_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "talib", None)
    indicators._library.cache_clear()
    with pytest.raises(StrategyError, match=r"pip install 'tapewire\[ta\]'"):
        answers(flat_bars([100.0] * 3), lambda strategy: strategy.ta.RSI(SYMBOL, "1m"))
    indicators._library.cache_clear()


def test_indicators_before_the_first_event_are_refused() -> None:
    with pytest.raises(StrategyError, match="call it in on_bar"):
        Strategy().ta.RSI(SYMBOL, "1m")


def test_each_distinct_call_is_computed_once_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[int] = []
    real = talib.SMA

    def counted(*columns: Any, **parameters: Any) -> Any:
        computed.append(parameters["timeperiod"])
        return real(*columns, **parameters)

    monkeypatch.setattr(talib, "SMA", counted)

    class Several(Strategy):
        intervals = ("1h",)

        def on_kline(self, kline: Kline, market: Market) -> None:
            for timeperiod in (2, 3, 2):
                self.ta.SMA(SYMBOL, "1h", timeperiod=timeperiod)

        def on_bar(self, bar: Bar, market: Market) -> None:
            self.ta.SMA(SYMBOL, "1h", timeperiod=2)

    engine = Engine(config(), Several(), ListSink(), run_id="test")
    for bar in flat_bars([1.0] * (4 * HOUR_MS // MINUTE_MS)):
        engine.handle(bar)
    # at 3 and 2 bars with a full window, and once more each to check the parameters
    assert sorted(computed) == [2] * 4 + [3] * 3


def test_nan_is_not_confused_with_a_value() -> None:
    found = answers(flat_bars([100.0] * 3), lambda strategy: strategy.ta.RSI(SYMBOL, "1m"))
    assert np.array_equal(found, [nan] * 3, equal_nan=True)
