"""The doors for scripts and notebooks: frames give what files give, and what `tapewire backtest` gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from agent.core.errors import ConfigError, LeakageError, UsageError
from agent.data.frames import save_frame
from agent.data.loaders import FileDataLoader
from agent.replay.verify import verify
from agent.store.database import open_database
from agent.store.queries import find_run
from models.sentiment.serve.generator import SentimentSignalGenerator
from tapewire.backtester import SentimentBacktester
from tests.cli.conftest import Outcome, tapewire
from tests.conftest import ROOT

__all__ = ["tapewire"]  # a fixture
SAMPLE = ROOT / "tests/sample_data"
BTC, ETH, NEWS = SAMPLE / "BTCUSDT-1m.csv", SAMPLE / "ETHUSDT-1m.csv", SAMPLE / "headlines.csv"


@pytest.fixture(scope="module")
def generator() -> SentimentSignalGenerator:
    return SentimentSignalGenerator.from_pretrained("starter")


@pytest.fixture(autouse=True)
def _empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_frames_give_the_result_of_the_command_line(
    generator: SentimentSignalGenerator, tapewire: Callable[..., Outcome]
) -> None:
    backtester = SentimentBacktester(
        generator, initial_capital=5_000, position_size=0.2, confidence_threshold=0.6
    )
    loader = FileDataLoader()
    prices = {symbol: loader.get_klines(symbol, "1m", 10_000) for symbol in ("BTCUSDT", "ETHUSDT")}
    result = backtester.run(prices, pd.read_csv(NEWS), signal_aggregation="weighted")
    Path("own.toml").write_text("[account]\ninitial_capital = 5000\n[signals]\nthreshold = 0.6\n")
    sets = ("--set", "position_size=0.2", "--set", "confidence_threshold=0.6")
    printed = tapewire(
        "backtest", "-c", "own.toml", "--klines", BTC, "--klines", ETH, "--news", NEWS, *sets, "--json"
    )
    command = json.loads(printed.out)
    assert command["trades"] > 5
    assert json.loads(json.dumps(command["metrics"])) == json.loads(json.dumps(result.metrics))
    assert command["final_equity"] == float(result.run.final_equity or 0)
    assert result.equity["equity"].iloc[-1] == pytest.approx(command["final_equity"])


def test_a_run_of_frames_is_verified_and_reported(generator: SentimentSignalGenerator) -> None:
    prices = FileDataLoader().get_klines("BTCUSDT", "1m", 1_500)
    result = SentimentBacktester(generator).run(prices, NEWS)  # the loader says whose prices they are
    database = open_database("sqlite:///var/tapewire.db")
    assert verify(database, find_run(database, result.run.id)).identical
    database.close()
    page = result.report("out/page.html")
    assert result.run.id in page.read_text()
    assert result.verdict.headline


def test_files_and_frames_are_the_same(generator: SentimentSignalGenerator) -> None:
    backtester = SentimentBacktester(generator)
    frame = FileDataLoader().get_klines("BTCUSDT", "1m", 10_000)
    assert backtester.run(BTC, NEWS).metrics == backtester.run(frame, NEWS).metrics


def test_aggregations_differ_in_what_age_counts(generator: SentimentSignalGenerator) -> None:
    backtester = SentimentBacktester(generator, settings={"signals": {"half_life": "5m", "window": "2h"}})
    news = pd.DataFrame(
        {
            "published_at": ["2025-03-03T05:00:00Z"],
            "title": ["Bitcoin funds draw record inflows"],
            "currencies": ["BTC"],
        }
    )
    fading, steady = (backtester.run(BTC, news, how) for how in ("weighted", "window"))
    (faded,), (stayed,) = fading.data.trades, steady.data.trades
    assert faded.entry_ts == stayed.entry_ts
    assert (faded.exit_ts or 0) - faded.entry_ts < 15 * 60_000
    assert (stayed.exit_ts or 0) - stayed.entry_ts == pytest.approx(2 * 3_600_000, abs=2 * 60_000)
    with pytest.raises(UsageError, match="signal_aggregation 'median'"):
        backtester.run(BTC, NEWS, "median")


def test_a_window_that_the_model_knows_is_refused_or_stamped(generator: SentimentSignalGenerator) -> None:
    bars = pd.read_csv(BTC).assign(open_time=lambda frame: frame["open_time"].str.replace("2025", "2023"))
    news = pd.read_csv(NEWS).assign(
        published_at=lambda frame: frame["published_at"].str.replace("2025", "2023")
    )
    with pytest.raises(LeakageError, match="model starter saw data up to 2023-10-31"):
        SentimentBacktester(generator).run({"BTCUSDT": bars}, news)
    assert SentimentBacktester(generator, allow_leakage=True).run({"BTCUSDT": bars}, news).run.stamps == (
        "LEAKED",
    )


def test_what_is_said_on_a_day_is_held_over_the_next(generator: SentimentSignalGenerator) -> None:
    days = pd.bdate_range("2025-03-03", periods=40)
    opens = pd.Series([100.0 + number for number in range(40)])
    bars = pd.DataFrame(
        {"date": days.strftime("%Y-%m-%d"), "open": opens, "high": opens + 0.6, "low": opens - 0.2}
    )
    bars = bars.assign(close=opens + 0.4, volume=1e6)
    said = "Profits beat forecasts and the dividend rises"
    news = pd.DataFrame(
        {"published_at": [f"{days[20]:%Y-%m-%d}T15:00:00Z"], "title": [said], "currencies": ["SPY"]}
    )
    settings = {
        "market": {"category": "equity"},
        "history": {"timezone": "UTC"},
        "paper": {"latency": 0},
        "signals": {"half_life": "1d", "window": "1d"},
    }
    result = SentimentBacktester(generator, confidence_threshold=0.5, settings=settings).run(
        {"SPY": bars}, news
    )
    (trade,) = result.data.trades
    # the close of day 20: its open was before the headline
    assert float(trade.entry_price) == pytest.approx(120.4, rel=2e-4)
    assert float(trade.exit_price or 0) == pytest.approx(122.0, rel=2e-4)  # the open after day 21


def test_what_cannot_be_is_said(generator: SentimentSignalGenerator) -> None:
    with pytest.raises(ConfigError, match=r"unknown key signals\.halflife; did you mean signals\.half_life"):
        SentimentBacktester(generator, settings={"signals": {"halflife": "1d"}})
    with pytest.raises(ConfigError, match=r"signals\.threshold"):
        SentimentBacktester(generator, confidence_threshold=1.5)
    with pytest.raises(UsageError, match="whose prices"):
        SentimentBacktester(generator).run(pd.read_csv(BTC), NEWS)


@pytest.mark.slow
def test_a_frame_is_one_file_however_often_it_is_saved(tmp_path: Path) -> None:
    frame = FileDataLoader().get_klines("BTCUSDT", "1m", 100)
    first, second = (save_frame(frame, "BTCUSDT", "open_time", tmp_path) for _ in range(2))
    other = save_frame(frame.iloc[1:], "BTCUSDT", "open_time", tmp_path)
    assert first == second != other
    assert sorted(tmp_path.iterdir()) == sorted({first, other})
