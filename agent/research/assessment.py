"""Assess out-of-sample returns: intervals, corrections for luck, comparisons, and a verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.benchmark import hold_returns
from agent.analysis.chance import ChanceTest, HeldTrades, random_entries, shifted_signals
from agent.analysis.equity import EquityCurve
from agent.analysis.report import formats
from agent.analysis.report.verdict import Verdict
from agent.analysis.run_metrics import FEW_TRADES, YEAR_MS, measure
from agent.analysis.significance import (
    Difference,
    Interval,
    deflated_sharpe,
    difference,
    probabilistic_sharpe,
    return_interval,
    sharpe,
    sharpe_interval,
)
from agent.analysis.trades import RoundTrip
from agent.core.events import DAY_MS

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

CONFIDENCE: Final = 0.95
"""Confidence that a test needs to count as passed."""

PERIODS_PER_YEAR: Final = YEAR_MS / DAY_MS
"""Returns are of calendar days, even if the market is closed on some."""


class ClosePrices(msgspec.Struct, frozen=True):
    """One symbol's close times (UTC ms) and close prices over the judged time, both of shape (bars,)."""

    ts: Times
    closes: Floats


class OutOfSampleEvidence(msgspec.Struct, frozen=True):
    """Evidence in the daily returns between `start` and `end` (UTC ms).

    Rates are fractions, Sharpe ratios annual; None: undefined.

    - `total_return`, `sharpe`: with 95 % intervals of the stationary bootstrap.
    - `max_drawdown`: of daily equity.
    - `probabilistic_sharpe`: probability that the true Sharpe ratio is above 0.
    - `deflated_sharpe`: probability that it is above the best of `trials` tries without skill.
    - `buy_and_hold`, `buy_and_hold_sharpe`: equal weights from the first day, prices only.
    - `versus_hold`: the difference between the returns and those of buy-and-hold.
    - `random_entries`: the same trades at random times.
    - `shifted_signals`: all trades shifted by one random time.
    - `placebo`: the same system with shuffled headlines; None if not requested or without headlines.
    - `cost`: average cost of a round trip (fees, spread, slippage, funding) as a fraction of its notional.
    """

    start: int
    end: int
    days: int
    total_return: float
    total_return_interval: Interval | None
    sharpe: float | None
    sharpe_interval: Interval | None
    max_drawdown: float
    probabilistic_sharpe: float | None
    deflated_sharpe: float | None
    trials: int
    trades: int
    cost: float | None
    buy_and_hold: float
    buy_and_hold_sharpe: float | None
    versus_hold: Difference | None
    random_entries: ChanceTest | None
    shifted_signals: ChanceTest | None
    placebo: ChanceTest | None


def assess(
    days: Times,
    returns: Floats,
    trades: Sequence[RoundTrip],
    equity_at: Mapping[int, float],
    prices: Mapping[str, ClosePrices],
    *,
    trials: int = 1,
    trial_sharpes: Sequence[float] | None = None,
    placebo: ChanceTest | None = None,
    seed: int = 0,
) -> OutOfSampleEvidence:
    """Assess `returns`, whose periods end at `days` (both of shape (n,)), and the `trades` that made them.

    `equity_at` maps a trade's entry (UTC ms) to the equity at that time, in the trade's currency.
    `trial_sharpes` are per day, as of `n` days (see `agent.analysis.deflation.sharpes`).
    """
    worth: Floats = np.cumprod(1 + returns, dtype=np.float64)
    curve = EquityCurve(1.0, DAY_MS)
    curve.extend(days, worth)
    own = measure(curve.summary(), PERIODS_PER_YEAR, {})
    hold = hold_returns([(found.ts, found.closes) for found in prices.values()], days)
    hold_sharpe = sharpe(hold)
    held = [_held_trades(symbol, trades, equity_at, found) for symbol, found in sorted(prices.items())]
    costs = [round_trip_cost(trade) for trade in trades]
    return OutOfSampleEvidence(
        start=min(int(found.ts[0]) for found in prices.values()),
        end=int(days[-1]),
        days=len(days),
        total_return=own.total_return,
        total_return_interval=return_interval(returns, seed=seed),
        sharpe=own.sharpe,
        sharpe_interval=sharpe_interval(returns, PERIODS_PER_YEAR, seed=seed),
        max_drawdown=own.max_drawdown,
        probabilistic_sharpe=probabilistic_sharpe(returns),
        deflated_sharpe=deflated_sharpe(returns, trials, trial_sharpes=trial_sharpes),
        trials=trials,
        trades=len(trades),
        cost=float(np.mean(costs)) if costs else None,
        buy_and_hold=float(np.prod(1 + hold) - 1),
        buy_and_hold_sharpe=None if hold_sharpe is None else hold_sharpe * PERIODS_PER_YEAR**0.5,
        versus_hold=difference(returns, hold, PERIODS_PER_YEAR, seed=seed),
        random_entries=random_entries(held, seed=seed),
        shifted_signals=shifted_signals(held, seed=seed),
        placebo=placebo,
    )


def placebo_test(value: float, drawn: Sequence[float]) -> ChanceTest | None:
    """Compare a total return with those of placebo replays; None without any."""
    if not len(drawn):
        return None
    low, median, high = np.quantile(drawn, (0.025, 0.5, 0.975))
    at_least = sum(other >= value - 1e-12 for other in drawn)
    p_value = (1 + at_least) / (1 + len(drawn))
    return ChanceTest(value, float(median), float(low), float(high), p_value, len(drawn))


def give_verdict(evidence: OutOfSampleEvidence) -> Verdict:
    """State the evidence in words.

    `good` needs every test passed; `plain` is a gain that luck may explain.
    """
    passed, failed = _apply_tests(evidence)
    own = formats.percent(evidence.total_return, signed=True)
    if not evidence.trades:
        return Verdict("plain", "It never traded out of sample: there is nothing to judge.", [], [])
    if evidence.total_return <= 0:
        headline, tone = f"No edge: it lost money out of sample, {own} after costs.", "bad"
    elif failed:
        versus = evidence.versus_hold
        behind = len(failed) == 1 and versus is not None and versus.total_return.value <= 0
        why = "holding made more" if behind else "chance can explain it"
        headline, tone = f"Not shown: it made {own} out of sample after costs, and {why}.", "plain"
    else:
        headline = f"Evidence of an edge: {own} out of sample after costs, and luck explains it in no test."
        tone = "good"
    warnings = []
    if evidence.trades < FEW_TRADES:
        warnings.append(f"{evidence.trades} round trips are too few for a test to mean much.")
    if evidence.sharpe_interval is None:
        days = "1 day is" if evidence.days == 1 else f"{evidence.days} days with hardly any movement are"
        warnings.append(f"{days} too few for an interval.")
    if tone == "good" and warnings:
        tone = "plain"
    return Verdict(tone, headline, [*failed, *passed], warnings)  # type: ignore[arg-type]


def _apply_tests(evidence: OutOfSampleEvidence) -> tuple[list[str], list[str]]:
    """Return sentences on the passed tests and on the failed ones."""
    passed: list[str] = []
    failed: list[str] = []

    def add(ok: bool, sentence: str) -> None:
        (passed if ok else failed).append(sentence)

    if (interval := evidence.sharpe_interval) is not None:
        place = "is above" if interval.low > 0 else "is below" if interval.high < 0 else "includes"
        add(interval.low > 0, f"The Sharpe ratio's interval {format_interval(interval)} {place} 0.")
    if (deflated := evidence.deflated_sharpe) is not None:
        tries = "one try" if evidence.trials == 1 else f"{evidence.trials:,} tries"
        luck = f"The probability that the Sharpe ratio is above what luck gives the best of {tries}"
        add(deflated >= CONFIDENCE, f"{luck} is {formats.percent(deflated)}.")
    if (chance := evidence.random_entries) is not None:
        add(chance.p_value <= 1 - CONFIDENCE, f"The same trades at random times {_reach(chance)}.")
    if (chance := evidence.shifted_signals) is not None:
        add(chance.p_value <= 1 - CONFIDENCE, f"The same signals at other times {_reach(chance)}.")
    if (chance := evidence.placebo) is not None:
        add(
            chance.p_value <= 1 - CONFIDENCE,
            f"With its headlines shuffled in time it {_reach(chance, 'reaches')}.",
        )
    if (versus := evidence.versus_hold) is not None:
        ahead = versus.total_return.value > 0
        certain = versus.total_return.low > 0 or versus.total_return.high < 0
        doubt = "" if certain else ", a difference that luck can explain"
        hold = formats.percent(evidence.buy_and_hold, signed=True)
        add(ahead, f"It {'beat' if ahead else 'lost to'} buy-and-hold's {hold}{doubt}.")
    return passed, failed


def _reach(chance: ChanceTest, verb: str = "reach") -> str:
    median = formats.percent(chance.median, signed=True)
    return f"{verb} its result with a chance of {formats.percent(chance.p_value)} (median {median})"


def format_interval(interval: Interval) -> str:
    """Format as `[-0.31, 1.20]`."""
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def _held_trades(
    symbol: str, trades: Sequence[RoundTrip], equity_at: Mapping[int, float], prices: ClosePrices
) -> HeldTrades:
    """Place a symbol's round trips on the grid of its closes; an open one is held to the end."""
    own = [trade for trade in trades if trade.symbol == symbol]
    last = len(prices.ts) - 1

    def rows(times: list[int]) -> NDArray[np.int64]:
        return np.clip(np.searchsorted(prices.ts, np.array(times, np.int64), side="right") - 1, 0, last)

    end = int(prices.ts[last])
    entries = rows([trade.entry_ts for trade in own])
    exits = np.maximum(rows([end if trade.exit_ts is None else trade.exit_ts for trade in own]), entries)
    weights = [
        trade.side.sign * float(trade.entry_price * trade.qty) / equity_at[trade.entry_ts] for trade in own
    ]
    costs = [round_trip_cost(trade) for trade in own]
    return HeldTrades(prices.closes, entries, exits, np.array(weights), np.array(costs))


def round_trip_cost(trade: RoundTrip) -> float:
    """Return fees, slippage (with spread) and funding of a trade as a fraction of its entry notional."""
    return float((trade.fees + trade.slippage - trade.funding) / (trade.entry_price * trade.qty))
