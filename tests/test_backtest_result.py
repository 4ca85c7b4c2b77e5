"""`Backtest` in Python: what it accepts, and the frames of its result, whose trades add up to the account."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import tapewire as tw
from agent.core.errors import ConfigError, SafetyError, UsageError
from tests.conftest import ROOT

BTC, ETH = tw.sample_data("BTCUSDT-1m.csv"), tw.sample_data("ETHUSDT-1m.csv")
SHORTS = {"fast": 10, "slow": 50, "allow_short": True}


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


class Holder(tw.Strategy[tw.StrategyParams]):
    """Buys at the first bar with what is left, adds at bar 500, and keeps the position."""

    def __init__(self, params: tw.StrategyParams | None = None) -> None:
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline: tw.Kline, market: tw.Market) -> None:
        if self.bars in (0, 500):
            self.target(kline.symbol, weight=0.4 if self.bars else 0.2, reason="more")
        self.bars += 1


@pytest.mark.parametrize(
    ("strategy", "params", "config"),
    [
        ("sma_cross", SHORTS, {}),
        ("sma_cross", {"fast": 10, "slow": 50}, {"market": {"category": "spot"}}),
        (Holder, {}, {}),
        ("sma_cross", SHORTS, {"paper": {"funding_rate": 0.01, "funding_interval": "1h"}}),
        (Holder, {}, {"paper": {"funding_rate": 0.01, "funding_interval": "17s"}}),
        (
            "sma_cross",
            SHORTS | {"weight": 4},
            {"risk": {"max_leverage": 20, "max_position": 10, "max_order": 10}},
        ),
    ],
    ids=["long and short", "spot", "open at the end", "funding", "funding inside bars", "leverage"],
)
def test_trades_add_up_to_the_account(strategy: object, params: dict, config: dict) -> None:
    result = tw.Backtest(strategy, [BTC, ETH], capital=7_000, params=params, config=config).run()
    trades, final = result.trades, float(result.run.final_equity or 0)
    assert len(trades) > 0
    assert trades["profit"].sum() == pytest.approx(final - 7_000, abs=0.005)
    assert trades["fees"].sum() == pytest.approx(result.metrics.fees, abs=0.005)
    assert trades["funding"].sum() == pytest.approx(result.metrics.funding, abs=0.005)
    closed = trades[~trades["open"]]
    assert len(closed) == result.metrics["trades"]["trades"]
    gross = (closed["exit_price"] - closed["entry_price"]) * closed["qty"]
    gross = gross.where(closed["side"] == "long", -gross)
    expected = gross - closed["fees"] + closed["funding"]
    assert closed["profit"].to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-6)
    assert (closed["duration"] == closed["exit_time"] - closed["entry_time"]).all()


def test_a_round_trip_by_hand() -> None:
    """Bought at 100, sold at 110 a minute later; spread, slippage and latency are off, the fee is 0.1 %."""
    times = pd.date_range("2025-01-06", periods=4, freq="1min", tz="UTC")
    prices = [100.0, 100.0, 110.0, 110.0]
    bars = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close"), prices), index=times)
    bars = bars.assign(volume=1e6)
    Path("flip.py").write_text(
        "import tapewire as tw\n\n\nclass Flip(tw.Strategy):\n    def on_kline(self, kline, market):\n"
        "        held = market.position(kline.symbol)\n"
        "        self.target(kline.symbol, weight=0 if held else 0.5, reason='out' if held else 'in')\n"
    )
    paper = {"latency": 0, "half_spread_bps": 0, "slippage": "none", "liquidity": "infinite"}
    paper |= {"taker_fee": 0.001, "funding_rate": 0}
    rules = {"XYZUSDT": {"tick_size": "0.01", "qty_step": "1", "min_qty": "1", "min_notional": 1}}
    config = {"paper": paper, "instruments": rules, "risk": {"max_order": 1, "max_position": 1}}
    result = tw.Backtest("flip.py", {"XYZUSDT": bars}, capital=10_000, config=config).run()
    first = result.trades.iloc[0]
    assert (first["symbol"], first["side"], first["qty"]) == ("XYZUSDT", "long", 50)
    assert (first["entry_price"], first["exit_price"]) == (100, 110)
    assert (first["entry_time"], first["exit_time"]) == (times[1], times[2])
    assert first["duration"] == pd.Timedelta(minutes=1)
    assert first["fees"] == pytest.approx(50 * 100 * 0.001 + 50 * 110 * 0.001)
    assert first["profit"] == pytest.approx(500 - 10.5)
    assert first["profit_pct"] == pytest.approx(100 * (500 - 10.5) / 5_000)
    assert (first["entry_reason"], first["exit_reason"]) == ("in", "out")
    entry = result.orders.iloc[0]
    assert (entry["side"], entry["filled"], entry["fill_price"]) == ("BUY", 50, 100)


def test_equity_is_a_frame_by_time_that_ends_with_the_account() -> None:
    result = tw.Backtest("sma_cross", [BTC, ETH], capital=7_000, params=SHORTS).run()
    equity = result.equity
    assert list(equity.columns) == ["equity", "cash", "exposure", "drawdown"]
    assert str(equity.index.tz) == "UTC"
    assert equity.index.is_monotonic_increasing
    assert equity["equity"].iloc[-1] == pytest.approx(float(result.run.final_equity or 0))
    assert equity["drawdown"].max() <= 0
    assert equity["drawdown"].min() >= result.metrics.performance.max_drawdown - 1e-9


def test_metrics_are_a_dictionary_with_attributes() -> None:
    result = tw.Backtest("sma_cross", BTC).run()
    assert isinstance(result.metrics, dict)
    assert result.metrics["performance"]["sharpe"] == result.metrics.performance.sharpe
    with pytest.raises(AttributeError, match="sharp"):
        _ = result.metrics.sharp


@pytest.mark.parametrize("kind", ["class", "instance", "file", "text", "built in"])
def test_strategies_are_given_in_many_ways(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (ROOT / "strategies/sma_cross.py").read_text()
    Path("mine.py").write_text(source)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    from strategies.sma_cross import SmaCross

    given = {
        "class": SmaCross,
        "instance": SmaCross(SmaCross.Params(fast=10, slow=50, allow_short=True)),
        "file": Path("mine.py"),
        "text": "mine.py:SmaCross",
        "built in": "sma_cross",
    }[kind]
    params = None if kind == "instance" else SHORTS
    result = tw.Backtest(given, BTC, params=params).run()
    assert len(result.trades) > 20
    assert result.run.params["fast"] == 10
    assert result.run.final_equity == tw.Backtest("sma_cross", BTC, params=SHORTS).run().run.final_equity
    assert result.run.strategy.partition(":")[0] == ("mine.py" if kind in ("file", "text") else "sma_cross")
    assert tw.verify(result.run.id).identical


def test_klines_are_given_in_many_ways() -> None:
    frame = tw.load_klines(BTC)
    results = [
        tw.Backtest("sma_cross", klines, start="2025-03-03", end="2025-03-03T12:00Z").run()
        for klines in (BTC, str(BTC), f"BTCUSDT={BTC}", [BTC], [frame], {"btcusdt": frame})
    ]
    finals = {result.run.final_equity for result in results}
    assert len(finals) == 1
    assert results[0].equity.index[-1] == pd.Timestamp("2025-03-03T12:00Z")
    with pytest.raises(UsageError, match="BTCUSDT twice"):
        tw.Backtest("sma_cross", [BTC, frame]).run()
    with pytest.raises(UsageError, match=r"start='soon' is no date"):
        tw.Backtest("sma_cross", BTC, start="soon")


def test_a_changed_file_is_loaded_again() -> None:
    text = "import tapewire as tw\n\n\nclass Mine(tw.Strategy):\n    def on_kline(self, kline, market):\n"
    Path("mine.py").write_text(text + "        pass\n")
    assert len(tw.Backtest("mine.py", BTC).run().trades) == 0
    Path("mine.py").write_text(text + "        self.target(kline.symbol, weight=0.2)\n")
    result = tw.Backtest("mine.py", BTC).run()
    assert len(result.trades) == 1
    assert tw.verify(result.run.id).identical


def test_it_shows_itself_as_text_and_as_a_table_without_scripts() -> None:
    Path("<b>.py").write_text("import tapewire as tw\n\n\nclass Mine(tw.Strategy):\n    pass\n")
    result = tw.Backtest("<b>.py", BTC).run()
    assert "total return" in repr(result)
    assert result.run.id in repr(result)
    html = result._repr_html_()
    assert "<table>" in html
    assert "&lt;b&gt;.py" in html
    assert "<script" not in html
    assert "<b>.py" not in html
    assert result.report().name == f"{result.run.id}.html"
    equity = result.plot()
    assert {line.name for line in equity.figure.panes[0].lines} == {"Strategy", "Buy and hold"}
    shown = equity._repr_html_()
    assert shown.startswith('<iframe sandbox="allow-scripts"')
    assert "<script" not in shown, "the page is escaped into an attribute"
    saved = result.plot("BTCUSDT").save("deep/prices.html").read_text()
    assert saved.startswith("<!doctype html>")
    assert '"symbol":"BTCUSDT"' in saved
    with pytest.raises(UsageError, match="has no prices of NOPE"):
        result.plot("nope")


def test_settings_that_are_wrong_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown key account\.capital"):
        tw.Backtest("sma_cross", BTC, config={"account": {"capital": 1}})
    with pytest.raises(ConfigError, match=r"account\.initial_capital"):
        tw.Backtest("sma_cross", BTC, capital=-5)
    with pytest.raises(UsageError, match="reads headlines, and none are given"):
        tw.Backtest("sentiment", BTC).run()


CELLS = '''
from collections import deque
import tapewire as tw
from tapewire import BUY as LONG
LENGTHS = (5, 20)
def mean(values):
    return sum(values) / len(values)
class Params(tw.StrategyParams):
    fast: int = LENGTHS[0]
class Base(tw.Strategy[Params]):
    pass
class Cross(Base):
    """Trades the cross."""
    def __init__(self, params=None):
        super().__init__(params)
        self.closes = deque(maxlen=LENGTHS[1])
    def on_kline(self, kline: tw.Kline, market: tw.Market) -> None:
        {trap}
        self.closes.append(kline.close)
        up = mean(list(self.closes)[-self.params.fast:]) > mean(self.closes)
        self.target(kline.symbol, weight=0.3 if up else 0.0, reason=LONG.value)
if __name__ == "__main__":
    result = tw.Backtest(Cross, tw.sample_data("BTCUSDT-1m.csv"), params={{"fast": 7}}).run()
    print(len(result.trades) > 20, result.run.id, result.notes)
'''


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trap", "verified"), [("pass", True), ("handle", False)], ids=["copied", "with an open file"]
)
def test_a_class_of_a_script_or_notebook_is_kept_with_what_it_uses(
    trap: str, verified: bool, tmp_path: Path
) -> None:
    text = CELLS.format(trap=trap).replace(
        "LENGTHS = ", "handle = open('log', 'w')\nLENGTHS = ", not verified
    )
    Path("script.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "script.py"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    traded, run, notes = done.stdout.strip().split(" ", 2)
    assert traded == "True"
    if verified:
        assert "the source of Cross is kept in var/frames/Cross-" in notes
        assert tw.verify(run).identical
    else:
        assert "can't be verified: it uses handle, a TextIOWrapper of the notebook" in notes
        with pytest.raises(SafetyError, match="without its source's hash"):
            tw.verify(run)


def test_a_class_in_a_function_has_no_name() -> None:
    class Local(tw.Strategy):
        pass

    with pytest.raises(ConfigError, match="does not exist"):
        tw.Backtest(Local, BTC).run()
