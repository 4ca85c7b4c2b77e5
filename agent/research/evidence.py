"""What a series of out-of-sample returns proves: intervals, corrections for luck, comparisons, and a verdict in words."""

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

SURE: Final = 0.95
"""Confidence from which the words say that something is shown."""

PERIODS_PER_YEAR: Final = YEAR_MS / DAY_MS
"""Returns are of calendar days, also where a market rests on some."""


class Prices(msgspec.Struct, frozen=True):
    """One symbol's closes over the judged time: close times in UTC ms, and prices, both of shape (bars,)."""

    ts: Times
    closes: Floats


class Evidence(msgspec.Struct, frozen=True):
    """What daily returns between `start` and `end` (UTC ms) show. Rates are fractions, Sharpe ratios annual; None: undefined.

    - `total_return`, `sharpe`: with 95 % intervals of the stationary bootstrap; `max_drawdown` is of daily equity.
    - `probabilistic_sharpe`: probability that the true Sharpe ratio is above 0.
    - `deflated_sharpe`: that it is above what the best of `trials` tries without skill shows.
    - `buy_and_hold`, `buy_and_hold_sharpe`: of equal weights from the first day, prices only; `versus_hold` is the difference.
    - `random_entries`: the same trades at random times; `shifted_signals`: all of them moved by one random span.
    - `placebo`: the same system with its headlines at each other's times; None where no headline is read or it was not asked for.
    - `cost`: average cost of a round trip, fees, spread, slippage and funding, as a fraction of its notional.
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


def weigh(
    days: Times,
    returns: Floats,
    trades: Sequence[RoundTrip],
    equity_at: Mapping[int, float],
    prices: Mapping[str, Prices],
    *,
    trials: int = 1,
    trial_sharpes: Sequence[float] | None = None,
    placebo: ChanceTest | None = None,
    seed: int = 0,
) -> Evidence:
    """The evidence in `returns`, whose periods end at `days` (both of shape (n,)), made by `trades`.

    `equity_at` maps a trade's entry (UTC ms) to the equity then, in the trade's currency; `trial_sharpes` are per day.
    """
    worth: Floats = np.cumprod(1 + returns, dtype=np.float64)
    curve = EquityCurve(1.0, DAY_MS)
    curve.extend(days, worth)
    own = measure(curve.summary(), PERIODS_PER_YEAR, {})
    hold = hold_returns([(found.ts, found.closes) for found in prices.values()], days)
    held_ratio = sharpe(hold)
    held = [_held(symbol, trades, equity_at, found) for symbol, found in sorted(prices.items())]
    costs = [round_trip_cost(trade) for trade in trades]
    return Evidence(
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
        buy_and_hold_sharpe=None if held_ratio is None else held_ratio * PERIODS_PER_YEAR**0.5,
        versus_hold=difference(returns, hold, PERIODS_PER_YEAR, seed=seed),
        random_entries=random_entries(held, seed=seed),
        shifted_signals=shifted_signals(held, seed=seed),
        placebo=placebo,
    )


def placebo_test(value: float, drawn: Sequence[float]) -> ChanceTest | None:
    """Where a total return stands among those of placebo runs; None without any."""
    if not len(drawn):
        return None
    low, median, high = np.quantile(drawn, (0.025, 0.5, 0.975))
    at_least = sum(other >= value - 1e-12 for other in drawn)
    return ChanceTest(
        value, float(median), float(low), float(high), (1 + at_least) / (1 + len(drawn)), len(drawn)
    )


def verdict_on(evidence: Evidence) -> Verdict:
    """The evidence in words. `good` needs every test passed; `plain` is a gain that some test doesn't tell from luck."""
    passed, failed = _tests(evidence)
    lost = evidence.total_return <= 0
    own = formats.percent(evidence.total_return, signed=True)
    if not evidence.trades:
        return Verdict("plain", "It never traded out of sample: there is nothing to judge.", [], [])
    if lost:
        headline, tone = f"No edge: it lost money out of sample, {own} after costs.", "bad"
    elif failed:
        behind = (
            len(failed) == 1
            and evidence.versus_hold is not None
            and evidence.versus_hold.total_return.value <= 0
        )
        why = "holding made more" if behind else "chance can explain it"
        headline, tone = f"Not shown: it made {own} out of sample after costs, and {why}.", "plain"
    else:
        headline, tone = (
            f"Evidence of an edge: {own} out of sample after costs, and every test says it was not luck.",
            "good",
        )
    warnings = []
    if evidence.trades < FEW_TRADES:
        warnings.append(f"{evidence.trades} round trips are too few for any test to mean much.")
    if evidence.sharpe_interval is None:
        warnings.append(f"{evidence.days} days with hardly a move carry no interval.")
    if tone == "good" and warnings:
        tone = "plain"
    return Verdict(tone, headline, [*failed, *passed], warnings)  # type: ignore[arg-type]


def _tests(evidence: Evidence) -> tuple[list[str], list[str]]:
    """Sentences of what was passed and what was not."""
    passed: list[str] = []
    failed: list[str] = []

    def note(fine: bool, sentence: str) -> None:
        (passed if fine else failed).append(sentence)

    if (interval := evidence.sharpe_interval) is not None:
        place = "is above" if interval.low > 0 else "is below" if interval.high < 0 else "includes"
        note(interval.low > 0, f"The Sharpe ratio's interval {spread(interval)} {place} 0.")
    if (deflated := evidence.deflated_sharpe) is not None:
        tries = "one try" if evidence.trials == 1 else f"{evidence.trials:,} tries"
        note(
            deflated >= SURE,
            f"The probability that the Sharpe ratio is above what luck gives the best of {tries} is {formats.percent(deflated)}.",
        )
    if (chance := evidence.random_entries) is not None:
        note(chance.p_value <= 1 - SURE, f"The same trades at random times {_reach(chance)}.")
    if (chance := evidence.shifted_signals) is not None:
        note(chance.p_value <= 1 - SURE, f"The same signals at other times {_reach(chance)}.")
    if (chance := evidence.placebo) is not None:
        note(
            chance.p_value <= 1 - SURE, f"With its headlines shuffled in time it {_reach(chance, 'reaches')}."
        )
    if (versus := evidence.versus_hold) is not None:
        ahead = versus.total_return.value > 0
        sure = (
            ""
            if versus.total_return.low > 0 or versus.total_return.high < 0
            else ", a difference that luck can explain"
        )
        hold = formats.percent(evidence.buy_and_hold, signed=True)
        note(ahead, f"It {'beat' if ahead else 'lost to'} buy-and-hold's {hold}{sure}.")
    return passed, failed


def _reach(chance: ChanceTest, verb: str = "reach") -> str:
    share = formats.percent(chance.p_value)
    return (
        f"{verb} its result with a chance of {share} (median {formats.percent(chance.median, signed=True)})"
    )


def spread(interval: Interval) -> str:
    """`[-0.31, 1.20]`."""
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def _held(
    symbol: str, trades: Sequence[RoundTrip], equity_at: Mapping[int, float], prices: Prices
) -> HeldTrades:
    """A symbol's round trips on the grid of its closes; one still open is held to the end."""
    own = [trade for trade in trades if trade.symbol == symbol]
    last = len(prices.ts) - 1

    def rows(times: list[int]) -> NDArray[np.int64]:
        return np.clip(np.searchsorted(prices.ts, np.array(times, np.int64), side="right") - 1, 0, last)

    entries = rows([trade.entry_ts for trade in own])
    exits = np.maximum(
        rows([int(prices.ts[last]) if trade.exit_ts is None else trade.exit_ts for trade in own]), entries
    )
    weights = [
        trade.side.sign * float(trade.entry_price * trade.qty) / equity_at[trade.entry_ts] for trade in own
    ]
    return HeldTrades(
        prices.closes, entries, exits, np.array(weights), np.array([round_trip_cost(trade) for trade in own])
    )


def round_trip_cost(trade: RoundTrip) -> float:
    """Fees, slippage (with the spread) and funding of a trade, as a fraction of its notional at entry."""
    return float((trade.fees + trade.slippage - trade.funding) / (trade.entry_price * trade.qty))
