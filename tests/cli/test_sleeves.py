"""Several strategies in one account through the real command line: backtest, verify, report, and errors."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Outcome
from tests.conftest import ROOT

Tapewire = Callable[..., Outcome]
SAMPLE = ROOT / "tests" / "sample_data"
KLINES = (
    "--klines",
    f"BTCUSDT={SAMPLE / 'BTCUSDT-1m.csv'}",
    "--klines",
    f"ETHUSDT={SAMPLE / 'ETHUSDT-1m.csv'}",
)

TREND = """
[[sleeves]]
name = "trend"
strategy = { name = "sma_cross", params = { fast = 20, slow = 100 } }
share = 0.5
"""
AGAINST = """
[[sleeves]]
name = "against"
strategy = "against.py"
share = 0.3
risk = { max_drawdown = 0.5 }
"""
WITH = """
[[sleeves]]
name = "with"
strategy = { name = "against.py", params = { sign = -1 } }
share = 0.1
"""
IDLE = """
[[sleeves]]
name = "later"
strategy = "sma_cross"
share = 0.1
enabled = false
"""
MINE = """
from tapewire import Strategy, StrategyParams

class Params(StrategyParams):
    sign: int = 1

class Against(Strategy[Params]):
    def on_bar(self, bar, market):
        if bar.start // 60_000 % 30 == 0:
            self.target(bar.symbol, weight=self.params.sign * (0.4 if bar.start // 1_800_000 % 2 else -0.4))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a configuration of four sleeves, two of them with a strategy of its folder."""
    (tmp_path / "config.toml").write_text(TREND + AGAINST + WITH + IDLE)
    (tmp_path / "against.py").write_text(MINE)
    return tmp_path


def test_a_backtest_with_sleeves_adds_up_and_is_verified(tapewire: Tapewire, folder: Path) -> None:
    done = tapewire("backtest", *KLINES, "--report", "report.html", "--json")
    assert done.code == 0, done.err
    result: dict[str, Any] = json.loads(done.out)
    study = result["sleeves"]
    assert [one["name"] for one in study["sleeves"]] == ["trend", "against", "with"]
    assert [one["capital"] for one in study["sleeves"]] == [5_000, 3_000, 1_000]
    assert study["idle"] == 1_000
    total = sum(one["final_equity"] for one in study["sleeves"]) + study["idle"]
    assert total == pytest.approx(float(result["final_equity"]), abs=1e-6)
    assert study["internal"]["count"] > 0
    for cost in ("fees", "funding", "slippage"):
        summed = sum(float(one[cost]) for one in study["sleeves"])
        assert summed == pytest.approx(float(result["metrics"][cost]), abs=1e-6)
    assert "sleeve later is not enabled: its share of 0.1 stays idle" in result["notes"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "By sleeve" in page
    recorded = json.loads((folder / "report.json").read_text(encoding="utf-8"))["sleeves"]
    for one, shown in zip(recorded["sleeves"], study["sleeves"], strict=True):
        assert one["final_equity"] == pytest.approx(shown["final_equity"])
        assert one["trades"] == shown["trades"]
    assert recorded["internal"]["count"] == study["internal"]["count"]
    verified = tapewire("verify")
    assert verified.code == 0, verified.err
    assert verified.out.startswith("identical")
    (folder / "against.py").write_text(MINE.replace("0.4 if", "0.3 if"))
    assert tapewire("verify").code == 3  # the strategy's file has changed
    with closing(sqlite3.connect(folder / "var" / "tapewire.db")) as store:
        names = store.execute("SELECT DISTINCT sleeve FROM fills ORDER BY sleeve").fetchall()
        assert names == [("against",), ("trend",), ("with",)]


def test_the_summary_shows_the_sleeves(tapewire: Tapewire, folder: Path) -> None:
    done = tapewire("backtest", *KLINES)
    assert done.code == 0, done.err
    for text in ("by sleeve", "adds to the return", "internal crosses of the sleeves' orders", "idle cash"):
        assert text in done.out
    assert "prove nothing about it" in done.out  # parameters other than the defaults


def test_an_error_of_one_strategy_is_a_note_and_the_other_trades_on(tapewire: Tapewire, folder: Path) -> None:
    (folder / "against.py").write_text(MINE.replace("if bar.start", "if 1 / (bar.start // 60_000 % 97)"))
    done = tapewire("backtest", *KLINES, "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    note, other = [one for one in result["notes"] if "was stopped" in one]
    assert note.startswith("sleeve against was stopped: strategy Against failed")
    assert other.startswith("sleeve with was stopped")
    assert "against.py, line 9: ZeroDivisionError" in note
    assert result["sleeves"]["sleeves"][0]["trades"] > 5


def test_a_strategy_on_the_command_line_takes_the_place_of_the_sleeves(
    tapewire: Tapewire, folder: Path
) -> None:
    done = tapewire("backtest", *KLINES, "--strategy", "buy_and_hold", "--json")
    assert done.code == 0, done.err
    assert "buy_and_hold takes the place of the 4 sleeves" in done.err
    assert "sleeves" not in json.loads(done.out)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (
            '[strategy]\nname = "sma_cross"\n' + TREND,
            ("backtest",),
            "[strategy] and [[sleeves]] are both given",
        ),
        (IDLE, ("backtest",), "no sleeve is enabled"),
        (TREND + TREND, ("backtest",), "two sleeves have the name trend"),
        (TREND.replace("0.5", "1.5"), ("backtest",), "less than or equal to 1"),
        (TREND + 'symbols = ["XRPUSDT"]\n', ("backtest", *KLINES), "sleeve trend: XRPUSDT is not traded"),
        (TREND, ("backtest", "--set", "fast=3"), "--set sets a parameter of one strategy"),
        (TREND, ("tune", *KLINES, "--range", "fast=5:10"), "judges one strategy"),
        (TREND, ("walkforward", *KLINES), "judges one strategy"),
        (TREND.replace("sma_cross", "sma_crosss"), ("backtest", *KLINES), "unknown strategy 'sma_crosss'"),
    ],
    ids=str,
)
def test_what_sleeves_can_t_do_is_one_clear_error(
    tapewire: Tapewire, tmp_path: Path, config: str, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "config.toml").write_text(config)
    done = tapewire(*arguments)
    assert done.code == 2
    assert message in done.err
