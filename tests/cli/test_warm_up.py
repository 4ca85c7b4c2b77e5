"""`tapewire backtest` reads the bars that a strategy needs from before --start; `check startup` tests whether
they are enough.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome
from tests.conftest import ROOT
from tests.research.market_files import write_klines

Tapewire = Callable[..., Outcome]
BTC = ROOT / "tests/sample_data/BTCUSDT-1m.csv"  # from 2025-03-02T12:00Z, for 36 hours
DECLARED = """
from tapewire import Strategy

class Declared(Strategy):
    intervals = ("1m", "1h")
    warm_up = {"1h": WARM_UP}

    def on_bar(self, bar, market):
        if bar.interval == "1h":
            closes = market.bars(bar.symbol, "1h", 8).close
            self.plot("mean", closes.mean())
            rises = len(closes) == 8 and bar.close > closes.mean()
            self.target(bar.symbol, weight=0.5 if rises else -0.5)
"""
FOUND = """
from tapewire import Strategy, StrategyParams

class Params(StrategyParams):
    length: int = 3

class Found(Strategy[Params]):
    intervals = ("15m",)

    def on_bar(self, bar, market):
        fast = self.ta.EMA(bar.symbol, "15m", timeperiod=2)
        slow = self.ta.EMA(bar.symbol, "15m", timeperiod=self.params.length)
        if fast == fast and slow == slow:
            self.plot("rsi", self.ta.RSI(bar.symbol, "15m", timeperiod=2))
            self.target(bar.symbol, weight=0.5 if fast > slow else 0.0)
"""
PAIR = """
import numpy as np
from tapewire import Strategy

class Pair(Strategy):
    intervals = ("15m",)

    def on_bar(self, bar, market):
        one, other = (market.bars(symbol, "15m", 5) for symbol in market.symbols)
        if np.array_equal(one.start, other.start) and np.std(one.close / other.close) > 0:
            market.bars(bar.symbol, "15m", 30)
        self.plot("mean", market.bars(bar.symbol, "15m", 3).close[:-3].mean())
"""
COUNTS = """
from pydantic import Field
from tapewire import Strategy, StrategyParams

class Params(StrategyParams):
    length: int = Field(3, ge=2, le=100)
    weight: float = Field(0.5, ge=0.1, le=1)

class Counts(Strategy[Params]):
    intervals = ("1h",)

    def on_bar(self, bar, market):
        close = market.bars(bar.symbol, "1h", self.params.length).close
        if len(close) == self.params.length:
            self.target(bar.symbol, weight=self.params.weight * (1 if close[-1] > close.mean() else -1))
"""
FORGETFUL = """
from tapewire import Strategy

class Forgetful(Strategy):
    intervals = ("15m",)
    warm_up = {"15m": 2}

    def __init__(self, params=None):
        super().__init__(params)
        self.highest = 0.0

    def on_bar(self, bar, market):
        self.highest = max(self.highest, bar.high)
        self.target(bar.symbol, weight=0.5 if bar.close < 0.99 * self.highest else 0.0)
"""


def write(folder: Path, name: str, source: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(source)
    return path


def backtest(tapewire: Tapewire, *args: object) -> Outcome:
    outcome = tapewire("backtest", "--klines", BTC, *args)
    assert outcome.code == 0, outcome.err
    return outcome


def text(outcome: Outcome) -> str:
    return " ".join(outcome.out.split())


def test_declared_bars_are_read_before_the_start(tapewire: Tapewire, tmp_path: Path) -> None:
    strategy = write(tmp_path, "declared_8", DECLARED.replace("WARM_UP", "8"))
    start = "2025-03-03T00:30Z"
    outcome = backtest(tapewire, "--strategy", strategy, "--start", start, "--report", tmp_path / "r.html")
    assert "warm-up: bars since 2025-03-02T16:00:00Z were read without trading (8 of 1h)" in text(outcome)
    assert "at hand" not in outcome.out
    page = (tmp_path / "r.html").read_text()
    assert "Before its start the run read 8 bars of 1h without trading" in page
    assert '"name":"mean"' in page.replace(" ", "")
    assert tapewire("verify", "latest", "--trust-strategy").out.startswith("identical")
    run = json.loads(backtest(tapewire, "--strategy", strategy, "--start", start, "--json").out)
    assert run["metrics"]["start"] == 1_740_961_800_000  # 00:30, as given
    assert run["trades"] > 0


def test_targets_during_the_warm_up_are_no_refused_orders(tapewire: Tapewire, tmp_path: Path) -> None:
    strategy = write(tmp_path, "declared_8", DECLARED.replace("WARM_UP", "8"))
    page = tmp_path / "r.html"
    outcome = backtest(tapewire, "--strategy", strategy, "--start", "2025-03-03T00:00Z", "--report", page)
    # One at the end of each of the eight hours, of which the last ends at the start
    assert "note: 8 targets during the warm-up were not traded" in text(outcome)
    assert "refused" not in outcome.out
    assert "Orders refused" not in page.read_text()


def test_the_bars_that_indicators_need_are_found(tapewire: Tapewire, tmp_path: Path) -> None:
    strategy = write(tmp_path, "found", FOUND)
    start = ("--start", "2025-03-03T12:00Z")
    # EMA(3): 2 bars of lookback, 1, and 34 until 0.5^k < 1e-10; EMA(5): 4, 1 and 57 until (2/3)^k < 1e-10
    assert "(37 of 15m)" in text(backtest(tapewire, "--strategy", strategy, *start))
    assert "(62 of 15m)" in text(backtest(tapewire, "--strategy", strategy, "--set", "length=5", *start))
    assert tapewire("verify", "latest", "--trust-strategy").out.startswith("identical")


def test_the_symbols_of_the_dry_run_have_different_prices_and_its_warnings_are_not_shown(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    strategy = write(tmp_path, "pair", PAIR)
    klines = ("--klines", ROOT / "tests/sample_data/ETHUSDT-1m.csv")
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        plan = text(backtest(tapewire, "--strategy", strategy, *klines, "--end", "2025-03-02T12:05Z"))
    assert "(30 of 15m)" in plan
    assert not [one for one in shown if issubclass(one.category, RuntimeWarning)]  # means of nothing


def test_each_variant_of_a_sweep_reads_the_warm_up_that_it_reads_alone(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    strategy = write(tmp_path, "found_by_sweep", FOUND)
    # 62 bars of 15 minutes are 15.5 hours, of which those of the default, 37, leave out six
    span = ("--strategy", strategy, "--start", "2025-03-03T04:00Z", "--end", "2025-03-03T14:00Z")
    done = tapewire("sweep", "--klines", BTC, *span, "--range", "length=3,5,4", "--json")
    assert done.code == 0, done.err
    results = json.loads(done.out)
    assert [one["params"]["length"] for one in results] == [3, 5, 4]
    for one in results:
        length = f"length={one['params']['length']}"
        alone = json.loads(backtest(tapewire, *span, "--set", length, "--json").out)
        assert one["trades"] == alone["trades"] > 0
        assert one["final_equity"] == alone["final_equity"]
        single = json.loads(tapewire("sweep", "--klines", BTC, *span, "--range", length, "--json").out)
        assert [one["metrics"]] == [other["metrics"] for other in single]


@pytest.mark.slow
def test_tune_and_walkforward_read_the_warm_up_of_the_parameters_that_they_try(
    tapewire: Tapewire, tmp_path: Path
) -> None:
    klines = write_klines(tmp_path / "BTCUSDT-1h.csv", days=40)
    strategy = write(tmp_path, "counts_bars", COUNTS)
    common = ("--klines", klines, "--strategy", strategy, "--warmup", "1h", "--embargo", "1h", "--json")
    given = ("--trials", 2, "--holdout", "10d", "--folds", 3, "--range", "weight=0.3")
    named = json.loads(tapewire("tune", *common, *given, "--set", "length=60").out)
    found = json.loads(tapewire("tune", *common, *given, "--range", "length=60").out)
    assert found["params"]["length"] == 60
    assert found["value"] == named["value"]
    assert found["held_out"]["evidence"]["total_return"] == named["held_out"]["evidence"]["total_return"] != 0
    folds = ("--train", "10d", "--test", "10d", "--fit", "refit")
    chosen = json.loads(tapewire("walkforward", *common, *folds, "--range", "length=60").out)
    fixed = json.loads(
        tapewire("walkforward", *common, *folds, "--set", "length=60", "--range", "weight=0.5").out
    )
    assert chosen["evidence"]["total_return"] == fixed["evidence"]["total_return"] != 0


def test_too_little_history_is_stated_in_summary_and_report(tapewire: Tapewire, tmp_path: Path) -> None:
    strategy = write(tmp_path, "declared_60", DECLARED.replace("WARM_UP", "60"))
    page = tmp_path / "r.html"
    outcome = backtest(tapewire, "--strategy", strategy, "--start", "2025-03-02T20:00Z", "--report", page)
    assert "BTCUSDT: 8 of 60 bars of 1h are at hand for the warm-up" in text(outcome)
    assert "BTCUSDT: 8 of 60 bars of 1h are at hand for the warm-up." in page.read_text()
    whole = backtest(tapewire, "--strategy", strategy)
    short = write(tmp_path, "declared_36", DECLARED.replace("WARM_UP", "36"))
    later = text(backtest(tapewire, "--strategy", short))
    assert "the run begins with the files; a later --start leaves it some" in later
    assert "BTCUSDT: 0 of 60 bars of 1h" in text(whole)
    assert "(60 of 1h), and the files are shorter than that: give longer ones" in text(whole)
    assert tapewire("verify", "latest", "--trust-strategy").out.startswith("identical")


@pytest.mark.parametrize(
    ("name", "source", "passes"),
    [
        ("enough_8", DECLARED.replace("WARM_UP", "8"), True),
        ("too_few_2", DECLARED.replace("WARM_UP", "2"), False),
        ("found_2", FOUND, True),
        ("forgetful", FORGETFUL, False),
    ],
)
def test_check_startup_finds_a_warm_up_that_is_too_short(
    tapewire: Tapewire, tmp_path: Path, name: str, source: str, passes: bool
) -> None:
    strategy = write(tmp_path, name, source)
    done = tapewire("check", "startup", "--klines", BTC, "--strategy", strategy, "--json")
    assert done.code == (not passes), done.err
    result = json.loads(done.out)
    assert result["passed"] is passes
    assert len(result["trials"]) > 1
    assert result["trials"][-1]["at"] is None
    assert result["trials"][-1]["decisions"] > 5
    shown = tapewire("check", "startup", "--klines", BTC, "--strategy", strategy).out
    assert ("More warm-up doesn't change the decisions." in shown) is passes


def test_check_startup_refuses_files_that_are_too_short(tapewire: Tapewire, tmp_path: Path) -> None:
    strategy = write(tmp_path, "declared_200", DECLARED.replace("WARM_UP", "200"))
    done = tapewire("check", "startup", "--klines", BTC, "--strategy", strategy)
    assert done.code == 2
    assert "the files begin at 2025-03-02T12:00:00Z, too late to compare" in done.err
