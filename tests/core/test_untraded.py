"""Notes of a run that trades nothing, or less than its targets; minimum sizes on spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.core.events import Command, Fill, Order, OrderStatus, OrderUpdate, RiskEvent
from agent.core.strategy import Market, Strategy
from strategies.buy_and_hold import BuyAndHold
from tests.cli.conftest import Outcome
from tests.cli.conftest import tapewire as tapewire
from tests.support.market import SYMBOL, T0, bars, config, run

START = 1_735_689_600_000
Tapewire = Callable[..., Outcome]


def klines(folder: Path, price: float = 95_000.0, volume: float = 1e9, count: int = 100) -> Path:
    rows = [f"{START + n * 60_000},{price},{price},{price},{price},{volume}" for n in range(count)]
    path = folder / "BTCUSDT-1m.csv"
    path.write_text("open_time,open,high,low,close,volume\n" + "\n".join(rows) + "\n")
    return path


def notes(tapewire: Tapewire, settings: str, *args: str | Path, strategy: str = "buy_and_hold") -> list[str]:
    """Return the notes of a backtest on flat bars, from the JSON and from the terminal output."""
    Path("c.toml").write_text(settings)
    done = tapewire("backtest", "-c", "c.toml", "--strategy", strategy, *args, "--json")
    assert done.code == 0, done.err
    found: list[str] = json.loads(done.out)["notes"]
    shown = tapewire("backtest", "-c", "c.toml", "--strategy", strategy, *args)
    words = " ".join((shown.out + shown.err).split())
    assert all(" ".join(note.split()) in words for note in found)
    return found


def test_targets_below_one_lot_are_noted(tapewire: Tapewire, tmp_path: Path) -> None:
    # 40 USDT are 0.00042 BTC; the lot is 0.001. Buy and hold asks on each of the 100 bars
    found = notes(tapewire, "[account]\ninitial_capital = 40\n", "--klines", klines(tmp_path))

    assert "targets in BTCUSDT smaller than one lot, 0.001: 100" in found


def test_orders_below_the_minimum_value_are_noted(tapewire: Tapewire, tmp_path: Path) -> None:
    settings = (
        "[account]\ninitial_capital = 4\n[instruments.BTCUSDT]\nqty_step = 0.00001\nmin_qty = 0.00001\n"
    )

    assert "100 orders rejected: value below the minimum 5" in notes(
        tapewire, settings, "--klines", klines(tmp_path)
    )


def test_bars_without_volume_are_noted(tapewire: Tapewire, tmp_path: Path) -> None:
    found = notes(tapewire, "", "--klines", klines(tmp_path, volume=0))

    assert any(
        "volume is 0 in all bars that orders met" in note and "fills nothing" in note for note in found
    )
    # Infinite liquidity fills all of it
    assert notes(tapewire, '[paper]\nliquidity = "infinite"\n', "--klines", klines(tmp_path, volume=0)) == []


def test_bars_with_less_than_one_lot_available_are_noted(tapewire: Tapewire, tmp_path: Path) -> None:
    # 10 % of 0.005 BTC a bar are 0.0005, half a lot: bars 2 to 100 meet the order and fill nothing
    found = notes(tapewire, "", "--klines", klines(tmp_path, volume=0.005))

    assert (
        "in 99 of 99 bars that orders met paper.max_participation of the volume is less than one lot: "
        "nothing is filled in them" in found
    )


def test_a_tick_too_coarse_for_the_lowest_price_is_noted(tapewire: Tapewire, tmp_path: Path) -> None:
    """The first 500 bars, at 80.12, imply a tick of 0.01, which is 0.8 % of the last bars, at 1.25."""
    rows = [f"{START + n * 60_000},{p},{p},{p},{p},1000" for n, p in enumerate([80.12] * 600 + [1.25] * 5)]
    path = tmp_path / "NEWUSDT-1m.csv"
    path.write_text("open_time,open,high,low,close,volume\n" + "\n".join(rows) + "\n")

    found = notes(tapewire, "[market]\nsymbols = ['NEWUSDT']\n", "--klines", path)

    assert (
        "NEWUSDT: its tick, 0.01, is 0.8% of its lowest price, 1.25, and rounds fills there by as much"
        in found
    )


def test_purchases_leave_cash_for_their_fees() -> None:
    # 10,000 at 100, 0.01 a share: 10,000 / 100.01 is 99.99, so 99 shares, which leaves 99.01
    settings = config(
        market={"symbols": [SYMBOL], "category": "equity"},
        paper={"fees": "per_share", "per_share_fee": "0.01"},
        instruments={SYMBOL: {"tick_size": "0.01", "qty_step": "1", "min_qty": "1"}},
    )
    engine, sink = run(BuyAndHold(BuyAndHold.Params(weight=1.0)), bars([(100, 100, 100, 100)] * 4), settings)

    assert [float(f.qty) for f in sink.decisions if isinstance(f, Fill)] == [99.0]
    assert float(engine.portfolio.cash) == 99.01


def test_a_risk_limit_is_named(tapewire: Tapewire, tmp_path: Path) -> None:
    Path("greedy.py").write_text(
        "from agent.core.strategy import Strategy\nclass Greedy(Strategy):\n"
        "    def on_kline(self, kline, market):\n        self.target(kline.symbol, weight=50)\n"
    )

    found = notes(tapewire, "", "--klines", klines(tmp_path), strategy="greedy:Greedy")

    assert (
        "100 orders refused: max_order (each was worth more than risk.max_order = 1 times the equity: "
        "use smaller weights, or raise it)"
    ) in found


def test_a_run_that_trades_has_no_such_notes(tapewire: Tapewire, tmp_path: Path) -> None:
    assert notes(tapewire, "", "--klines", klines(tmp_path)) == []


# -- below the minimum on spot -------------------------------------------------------------------------------

SPOT = {"market": {"symbols": [SYMBOL], "category": "spot"}, "account": {"initial_capital": 12}}
RULES = {"tick_size": "0.01", "qty_step": "0.000001", "min_qty": "0.000001", "min_notional": 5}
FELL = [(50_000, 50_000, 50_000, 50_000)] * 3 + [(40_000, 40_000, 40_000, 40_000)] * 4


class Plan(Strategy):
    def __init__(self, stop: float | None = None) -> None:
        super().__init__()
        self.stop = stop
        self.bars = 0

    def on_kline(self, kline: object, market: Market) -> None:
        self.bars += 1
        if self.bars == 1:
            self.target(SYMBOL, weight=0.5, stop=self.stop)
        if self.bars == 5 and self.stop is None:
            self.target(SYMBOL, weight=0.0)


@pytest.mark.parametrize("category", ["spot", "linear"])
def test_a_position_below_the_minimum_closes_on_margin_but_not_on_spot(category: str) -> None:
    # 6 of 12 USDT buy 0.00012 at 50,000; at 40,000 they are worth 4.80, and the least value is 5
    settings = config(
        **{**SPOT, "market": {"symbols": [SYMBOL], "category": category}, "instruments": {SYMBOL: RULES}}
    )

    engine, sink = run(Plan(), bars(FELL), settings)

    fills = [(f.side.value, float(f.qty), float(f.price)) for f in sink.decisions if isinstance(f, Fill)]
    refused = [
        d.reason for d in sink.decisions if isinstance(d, OrderUpdate) and d.status is OrderStatus.REJECTED
    ]
    if category == "linear":
        assert fills == [("BUY", 0.00012, 50_000.0), ("SELL", 0.00012, 40_000.0)]
        assert refused == []
    else:
        assert fills == [("BUY", 0.00012, 50_000.0)]
        assert [reason.endswith("is below the minimum 5") for reason in refused] == [True]
        assert engine.exchange.refusals == {"value below the minimum 5": 1}


def test_a_stop_below_the_minimum_does_not_sell_on_spot() -> None:
    # The stop lies at 50,000 * 0.81 = 40,500, passed by the open at 40,000: 4.80 USDT
    settings = config(**{**SPOT, "instruments": {SYMBOL: RULES}})

    engine, sink = run(Plan(stop=-0.19), bars(FELL), settings)

    assert [f.side.value for f in sink.decisions if isinstance(f, Fill)] == ["BUY"]
    [ended] = [d for d in sink.decisions if isinstance(d, OrderUpdate) and d.status is OrderStatus.CANCELLED]
    assert "is below the minimum 5" in ended.reason
    assert engine.exchange.refusals == {"protective order's value below the minimum 5": 1}


def test_a_flatten_ignores_positions_too_small_to_sell() -> None:
    settings = config(**{**SPOT, "instruments": {SYMBOL: RULES}})
    events = bars(FELL)
    life, flatten = (
        Command(name, T0 + 240_000, T0 + 240_000, {"incarnation": "a"}) for name in ("life", "flatten")
    )

    engine, sink = run(Plan(stop=-0.5), [*events[:4], life, flatten, *events[4:]], settings)

    assert [d for d in sink.decisions if isinstance(d, Order) and d.reason == "flatten"] == []
    notes = [d.detail for d in sink.decisions if isinstance(d, RiskEvent)]
    assert notes == ["0.000120 BTCUSDT stay: the venue takes no order that small"]  # 4.80 USDT, below 5
    assert engine.flattener.open == []
