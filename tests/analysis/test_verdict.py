"""The verdict: its sentences, and a good tone only if the figures justify it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.equity import EquityCurve
from agent.analysis.report.verdict import judge
from agent.analysis.run_metrics import Metrics, compute
from agent.analysis.trades import TradeBook
from agent.core.events import DAY_MS, RiskEvent, RiskState
from tests.analysis.test_trades import fill

START = 1_704_067_200_000
HALT = RiskEvent(START, RiskState.HALTED, "max_drawdown", "25.0% below its peak")


def metrics_of(
    *, final: float, hold: float | None = 150.0, days: int = 400, trades: int = 40, noise: float = 0.0
) -> Metrics:
    """Return the metrics of growth from 100 to `final` while the price moves from 100 to `hold`."""
    steps = np.arange(1, days + 1) / days
    wobble = 1 + noise * np.where(np.arange(days) % 2, 1, -1) * (np.arange(days) < days - 1)
    curve, book = EquityCurve(100.0, DAY_MS), TradeBook()
    curve.extend(START + np.arange(1, days + 1) * DAY_MS, (100 + (final - 100) * steps) * wobble)
    for ts in range(trades):
        book.add(fill("+1@100", START + ts))
        book.add(fill("-1@101", START + ts))
    benchmark = None
    if hold is not None:
        benchmark = BuyAndHoldBenchmark(("BTCUSDT",), 100.0, DAY_MS)
        benchmark.add("BTCUSDT", START + DAY_MS, 100.0)
        benchmark.add("BTCUSDT", START + days * DAY_MS, hold)
    return compute(curve, book, category="linear", interval=DAY_MS, benchmark=benchmark)


@pytest.mark.parametrize(
    ("run", "tone", "headline"),
    [
        ({"final": 200.0}, "good", "Made 100.0\u00a0% after costs; buy-and-hold made 50.0\u00a0%."),
        ({"final": 120.0}, "bad", "Made 20.0\u00a0% after costs; buy-and-hold made 50.0\u00a0%."),
        ({"final": 150.0}, "bad", "Made 50.0\u00a0% after costs; buy-and-hold made 50.0\u00a0%."),
        # A smaller loss than buy-and-hold is still a loss
        (
            {"final": 90.0, "hold": 50.0},
            "bad",
            "Lost 10.0\u00a0% after costs; buy-and-hold lost 50.0\u00a0%.",
        ),
        ({"final": 120.0, "hold": None}, "plain", "Made 20.0\u00a0% after costs."),
        ({"final": 100.0, "trades": 0, "hold": 50.0}, "plain", "It never traded."),
        ({"final": -5.0}, "bad", "The account was lost."),
        ({"final": 200.0, "trades": 29}, "plain", "Made 100.0"),
    ],
)
def test_headline_and_tone(run: dict[str, float], tone: str, headline: str) -> None:
    verdict = judge(metrics_of(**run))
    assert verdict.tone == tone
    assert verdict.headline.startswith(headline)


@pytest.mark.parametrize(
    ("run", "context", "warning"),
    [
        ({"final": 200.0, "trades": 29}, {}, "29 round trips are too few to tell skill from luck"),
        ({"final": 200.0, "days": 29}, {}, "29\u00a0d is too short to judge"),
        ({"final": 101.0, "noise": 0.05}, {}, "chance can explain it"),
        ({"final": 90.0, "hold": 50.0}, {}, "significantly below zero"),
        ({"final": 200.0}, {"stamps": ("LEAKED",)}, "has seen the answers"),
        ({"final": 200.0}, {"fills_at_close": True}, "This is optimistic"),
        (
            {"final": 200.0},
            {"halted": HALT},
            "halted trading on 2024-01-01 00:00 UTC, and it was not resumed: 25.0% below its peak",
        ),
    ],
)
def test_warnings(run: dict[str, float], context: dict, warning: str) -> None:
    verdict = judge(metrics_of(**run), **context)
    assert [text for text in verdict.warnings if warning in text]
    assert verdict.tone != "good"


def test_the_t_value_equals_that_of_the_mean_return() -> None:
    metrics = metrics_of(final=101.0, noise=0.05)
    equity = EquityCurve(100.0, DAY_MS)
    assert metrics.performance.sharpe is not None
    returns_t = metrics.performance.sharpe / metrics.periods_per_year**0.5 * metrics.periods**0.5
    assert f"(t = {returns_t:.1f})" in " ".join(judge(metrics).warnings)
    assert equity.summary().periods == 0


def test_the_sentence_about_costs_adds_fees_funding_and_slippage() -> None:
    metrics = msgspec.structs.replace(metrics_of(final=200.0), fees=3.0, funding=-2.0, slippage=1.0)
    sentence = judge(metrics, currency="USDT").sentences[-1]
    assert "cost 6.00\u00a0USDT, 6.0\u00a0% of the initial capital" in sentence
