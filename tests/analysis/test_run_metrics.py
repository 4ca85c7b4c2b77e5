"""The metrics compared with quantstats, and the reasons for undefined ones."""

from __future__ import annotations

from decimal import Decimal as D

import msgspec
import numpy as np
import pandas as pd
import pytest

from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.equity import EquityCurve
from agent.analysis.run_metrics import Metrics, compute
from agent.analysis.trades import TradeBook
from agent.core.events import DAY_MS, MINUTE_MS, Fill, FundingPayment, Side
from tests.support.lazy import LazyModule

qs = LazyModule("quantstats.stats")

START = 1_704_067_200_000  # 2024-01-01


def metrics_of(
    equity: list[float] | np.ndarray, *, interval: int = DAY_MS, book: TradeBook | None = None, **more
) -> Metrics:
    curve = EquityCurve(100.0, interval)
    for period, value in enumerate(np.asarray(equity, float).tolist(), start=1):
        curve.add(START + period * interval, value, True)
    return compute(curve, book or TradeBook(), **({"category": "linear", "interval": interval} | more))


@pytest.mark.parametrize(
    ("interval", "length", "drift", "seed"),
    [
        (DAY_MS, 700, 0.0005, 1),
        (DAY_MS, 90, -0.002, 2),
        (60 * MINUTE_MS, 9_000, 0.0, 3),
        (MINUTE_MS, 50_000, 1e-6, 4),
    ],
)
def test_metrics_agree_with_quantstats(interval: int, length: int, drift: float, seed: int) -> None:
    returns = np.random.default_rng(seed).normal(drift, 0.01 * (interval / DAY_MS) ** 0.5, length)
    metrics = metrics_of(100 * np.cumprod(1 + returns), interval=interval)
    series = pd.Series(returns, index=pd.to_datetime(START + np.arange(1, length + 1) * interval, unit="ms"))
    periods = 365 * DAY_MS // interval
    theirs = {
        "sharpe": qs.sharpe(series, periods=periods),
        "sortino": qs.sortino(series, periods=periods),
        "volatility": qs.volatility(series, periods=periods),
        "max_drawdown": qs.max_drawdown(series),
        "cagr": qs.cagr(series, periods=periods),
        "calmar": qs.calmar(series, periods=periods),
        "total_return": qs.comp(series),
    }
    assert metrics.periods_per_year == periods
    assert {name: getattr(metrics.performance, name) for name in theirs} == pytest.approx(
        theirs, rel=1e-9, abs=1e-9
    )


def test_sharpe_of_equities_counts_252_sessions() -> None:
    returns = np.random.default_rng(5).normal(0, 0.01, 300)
    metrics = metrics_of(100 * np.cumprod(1 + returns), category="equity")
    assert metrics.performance.sharpe == pytest.approx(qs.sharpe(pd.Series(returns), periods=252), rel=1e-9)


@pytest.mark.parametrize(
    ("equity", "undefined"),
    [
        (
            [100.0] * 40,
            {"sharpe": "equity never moved", "sortino": "no period lost", "calmar": "equity never fell"},
        ),
        (
            [100 * 1.001**n for n in range(1, 41)],
            {"sharpe": "every period returned the same", "calmar": "equity never fell"},
        ),
        ([101.0], {"sharpe": "fewer than two periods", "volatility": "fewer than two periods"}),
        ([101.0, 99.0, 102.0], {"cagr": "shorter than 30 days", "calmar": "shorter than 30 days"}),
        ([50.0, 0.0] + [-5.0] * 40, {"cagr": "equity fell to zero", "calmar": "equity fell to zero"}),
        ([], {"sharpe": "fewer than two periods", "cagr": "shorter than 30 days"}),
    ],
)
def test_an_undefined_figure_has_a_reason(equity: list[float], undefined: dict[str, str]) -> None:
    metrics = metrics_of(equity)
    for name, reason in undefined.items():
        assert getattr(metrics.performance, name) is None
        assert reason in metrics.undefined[name]
    assert metrics.undefined["win_rate"] == "no round trip was closed"
    assert "NaN" not in str(msgspec.to_builtins(metrics))


def test_costs_turnover_and_profit_by_symbol_add_up_to_the_change_of_equity() -> None:
    book = TradeBook()
    book.add(Fill("", "", "BTCUSDT", START, START, Side.BUY, D(1), D(40), D("0.5"), slippage=D("0.1")))
    book.add_funding(FundingPayment("BTCUSDT", START, D(0), D(1), D(40), D("-0.25")))
    book.add(Fill("", "", "BTCUSDT", START + DAY_MS, START + DAY_MS, Side.SELL, D(1), D(50), D("0.5")))
    book.add(Fill("", "", "ETHUSDT", START + DAY_MS, START + DAY_MS, Side.BUY, D(2), D(10), D("0.25")))
    hold = BuyAndHoldBenchmark(("BTCUSDT", "ETHUSDT"), 100.0, DAY_MS)
    for symbol, number, close in (
        ("BTCUSDT", 1, 40.0),
        ("ETHUSDT", 1, 8.0),
        ("BTCUSDT", 40, 60.0),
        ("ETHUSDT", 40, 12.0),
    ):
        hold.add(symbol, START + number * DAY_MS, close)
    metrics = metrics_of([100.0] * 39 + [112.5], book=book, benchmark=hold)
    assert {symbol: figures.pnl for symbol, figures in metrics.symbols.items()} == {
        "BTCUSDT": 8.75,
        "ETHUSDT": 3.75,
    }
    assert (
        sum(figures.pnl for figures in metrics.symbols.values())
        == metrics.final_equity - metrics.initial_equity
    )
    assert (metrics.fees, metrics.funding, metrics.slippage, metrics.fills) == (1.25, -0.25, 0.1, 3)
    assert metrics.turnover == pytest.approx(110 / (100 + 12.5 / 40))
    assert metrics.turnover_per_year == pytest.approx(metrics.turnover * 365 / 40)
    assert (metrics.trades.trades, metrics.trades.win_rate, metrics.open_trades) == (1, 1.0, 1)
    assert metrics.undefined["profit_factor"] == "no round trip lost"
    assert metrics.buy_and_hold is not None
    assert metrics.buy_and_hold.total_return == pytest.approx(0.5)
    assert metrics.symbols["ETHUSDT"].buy_and_hold == pytest.approx(0.5)
    assert list(metrics.months) == ["2024-01", "2024-02"]
    assert metrics.months["2024-01"].trades == 1


def test_metrics_survive_a_round_trip_through_json() -> None:
    metrics = metrics_of(100 * np.cumprod(1 + np.random.default_rng(1).normal(0, 0.01, 50)))
    assert msgspec.json.decode(msgspec.json.encode(metrics), type=Metrics) == metrics
