"""The table of `tapewire backtest`: figures by hand, the same in the report, and why a run didn't trade."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from agent.analysis.report.report_loader import load_report_data
from agent.analysis.trade_groups import analyse_trades
from agent.cli.backtest_output import cost_of_funding, duration_text
from agent.core.events import Fill
from agent.core.settings import RiskConfig
from agent.replay.run_notes import headline_note, refusal_notes
from agent.store.database import open_database
from agent.store.queries import read_rows
from tests.cli.conftest import Outcome

Tapewire = Callable[..., Outcome]
BARS = 240
PINGPONG = """
from tapewire import Strategy

class PingPong(Strategy):
    \"\"\"Buys at minute 10 of each half hour, and closes at minute 25.\"\"\"

    def on_kline(self, kline, market):
        minute = kline.ts // 60_000 % 30
        if minute == 10:
            self.target(kline.symbol, weight=0.5)
        elif minute == 25:
            self.target(kline.symbol, weight=0)
"""


def klines(path: Path) -> Path:
    """Write minutes whose price rises by a tenth in the first two hours and falls afterwards."""
    rows = ["open_time,open,high,low,close,volume"]
    for minute in range(BARS):
        price = 100 + min(minute, BARS - minute) / 10
        stamp = f"2025-01-01T{minute // 60:02}:{minute % 60:02}:00Z"
        rows.append(f"{stamp},{price},{price + 0.05},{price - 0.05},{price},100000")
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def traded(tapewire: Tapewire, tmp_path: Path) -> tuple[dict, str, list[Fill], Path]:
    """Return the JSON, the table and the fills of a backtest, and the store's file."""
    (tmp_path / "pingpong.py").write_text(PINGPONG)
    given = ("--klines", f"BTCUSDT={klines(tmp_path / 'bars.csv')}", "--strategy", "pingpong.py")
    found = json.loads(tapewire("backtest", *given, "--json").out)
    shown = tapewire("backtest", *given)
    assert shown.code == 0, shown.err
    store = tmp_path / "var" / "tapewire.db"
    with closing(open_database(f"sqlite:///{store}")) as database:
        fills = list(read_rows(database, found["run"], Fill))
    return found, shown.out, fills, store


def test_the_figures_are_those_of_the_fills(traded: tuple[dict, str, list[Fill], Path]) -> None:
    found, shown, fills, _ = traded
    assert len(fills) == 16
    results = [
        (sell.price - buy.price) * buy.qty - buy.fee - sell.fee
        for buy, sell in zip(fills[::2], fills[1::2], strict=True)
    ]
    gains = sum((one for one in results if one > 0), Decimal(0))
    losses = -sum((one for one in results if one < 0), Decimal(0))
    assert 0 < sum(one > 0 for one in results) < 8
    words = " ".join(shown.split())
    for line in (
        "2025-01-01 00:00 to 2025-01-01 04:00 UTC: 0.1667 days, 240 bars of 1m",
        "round trips 8 ",
        f"win rate {sum(one > 0 for one in results) / 8:.2%}",
        f"profit factor {gains / losses:.2f}",
        f"expectancy, USDT {sum(results) / 8:+,.2f}",
        f"best round trip, USDT {max(results):+,.2f}",
        f"worst round trip, USDT {min(results):+,.2f}",
        "average duration 15m",
        f"fees, USDT {sum(fill.fee for fill in fills):,.2f}",
        "worst drawdown -",
    ):
        assert line in words, line
    row = next(line.split() for line in shown.splitlines() if line.startswith("BTCUSDT "))
    assert row[1] == "8"
    assert row[3] == f"{sum(results):+,.2f}"
    assert row[-1] == f"{sum(fill.fee for fill in fills):,.2f}"
    group = found["trade_analysis"]["groups"]["symbol"][0]
    assert Decimal(str(group["pnl"])) == pytest.approx(sum(results))
    assert (found["orders_refused"], found["orders_rejected"]) == ({}, {})


def test_the_report_has_the_same_figures(traded: tuple[dict, str, list[Fill], Path]) -> None:
    found, _, _, store = traded
    with closing(open_database(f"sqlite:///{store}")) as database:
        data = load_report_data(database, found["run"])
    again = json.loads(msgspec.json.Encoder(decimal_format="number").encode(analyse_trades(data.trades)))
    assert found["trade_analysis"] == again
    assert found["metrics"] == json.loads(msgspec.json.encode(data.metrics))


def test_a_run_without_a_trade_explains_itself(tapewire: Tapewire, tmp_path: Path) -> None:
    bars = ("--klines", f"BTCUSDT={klines(tmp_path / 'bars.csv')}")
    given = (*bars, "--strategy", "greedy.py")
    code = "from tapewire import Strategy\nclass Greedy(Strategy):\n    def on_kline(self, kline, market):\n"
    (tmp_path / "greedy.py").write_text(code + "        self.target(kline.symbol, weight=50)\n")
    shown = " ".join(tapewire("backtest", *given).out.split())
    assert "round trips 0" in shown
    assert "240 orders refused: max_order (each was worth more than risk.max_order = 1 times" in shown
    assert json.loads(tapewire("backtest", *given, "--json").out)["orders_refused"] == {"max_order": 240}
    (tmp_path / "idle.py").write_text(code + "        pass\n")
    shown = " ".join(tapewire("backtest", *bars, "--strategy", "idle.py").out.split())
    assert "no order was sent: the strategy had no target" in shown


@pytest.mark.parametrize(
    ("refusals", "text"),
    [
        ({"max_order": 1}, "1 order refused: max_order (it was worth more than risk.max_order = 1 times"),
        ({"max_leverage": 1200}, "1,200 orders refused: max_leverage (they would have made all positions"),
        ({"state HALTED (max_drawdown)": 2}, "2 orders refused: state HALTED (max_drawdown) (no position is"),
        ({"warm-up": 1}, "1 target during the warm-up was not traded"),
    ],
)
def test_refused_orders_are_described_in_words(refusals: dict[str, int], text: str) -> None:
    assert refusal_notes(refusals, RiskConfig())[0].startswith(text)


def test_headline_counters_are_sentences() -> None:
    assert headline_note("unmapped", 5699) == "5,699 headlines named no traded symbol"
    assert headline_note("voted", 1) == "1 headline was a vote for a signal"
    assert headline_note("withdrawn", 1) == "1 headline lost its vote by the revision"


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0m"), (59_000, "1m"), (3_600_000, "1h 0m"), (5_400_000, "1h 30m"), (90_000_000, "1d 1h")],
)
def test_durations_have_two_units(ms: float, text: str) -> None:
    assert duration_text(ms) == text


@pytest.mark.parametrize(("funding", "cost"), [(-28.73, 28.73), (5.0, -5.0), (0.0, 0.0)])
def test_funding_has_the_sign_of_a_cost(funding: float, cost: float) -> None:
    assert cost_of_funding(funding) == cost
    assert str(cost_of_funding(funding)) == str(cost)
