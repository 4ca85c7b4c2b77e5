"""The metrics of a run, their definitions, and the reason for each undefined one.

Returns are simple returns of equity per bar, annualised by the number of periods in a year: 365 days around
the clock for crypto, 252 sessions for equities, 365/7 weeks and 12 months for both
(`instruments.periods_per_year`). The risk-free rate is 0. Definitions agree with the package quantstats,
except as noted.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.equity import Drawdown, EquityCurve, EquitySummary
from agent.analysis.trades import SymbolTotals, TradeBook, TradeStats
from agent.config import Category
from agent.core.events import DAY_MS
from agent.core.instruments import periods_per_year

YEAR_MS: Final = 365 * DAY_MS
MIN_YEARLY: Final = 30 * DAY_MS
"""Results of shorter windows are not annualised."""

FEW_TRADES: Final = 30
"""With fewer round trips, trade statistics are not meaningful (the usual small-sample bound)."""


class Performance(msgspec.Struct, frozen=True):
    """Figures of one equity curve. None if undefined; see `Metrics.undefined`.

    - `total_return`: final over initial equity, minus 1.
    - `cagr`: (final/initial)^(1/years) - 1 with years of 365 calendar days between start and end. quantstats
      counts periods instead, which is the same if no bar is missing and the market never closes.
    - `volatility`: sample standard deviation of returns × √(periods a year).
    - `sharpe`: mean/sample standard deviation of returns × √(periods a year) (Sharpe 1994).
    - `sortino`: mean/downside deviation × √(periods a year); the downside deviation is the root of the mean
      of min(return, 0)² over all periods (Sortino and Price 1994, target 0).
    - `max_drawdown`: the deepest fall from a peak, as a fraction <= 0; `drawdown_length` is the time (ms)
      from that peak to the recovery, or to the end of the run; `longest_drawdown` is the longest time (ms)
      below a peak.
    - `calmar`: cagr over |max_drawdown|.
    """

    total_return: float
    cagr: float | None
    volatility: float | None
    sharpe: float | None
    sortino: float | None
    calmar: float | None
    max_drawdown: float
    drawdown: Drawdown
    drawdown_length: int
    longest_drawdown: int


class TradeFigures(msgspec.Struct, frozen=True):
    """Figures of closed round trips, net of fees and funding. Amounts in quote currency, times in ms."""

    trades: int
    win_rate: float | None
    profit_factor: float | None
    average_win: float | None
    average_loss: float | None
    expectancy: float | None
    best: float | None
    worst: float | None
    average_holding_time: float | None


class SymbolFigures(msgspec.Struct, frozen=True):
    """Figures of one symbol; `pnl` is its part of the change of equity, with positions at the last close."""

    pnl: float
    fees: float
    funding: float
    slippage: float
    turnover: float  # notional traded
    fills: int
    trades: TradeFigures
    buy_and_hold: float | None  # total return of its price


class MonthFigures(msgspec.Struct, frozen=True):
    """Figures of a UTC month: returns of equity and of buy-and-hold, closed round trips and their profit."""

    total_return: float
    buy_and_hold: float | None
    trades: int
    pnl: float


class Metrics(msgspec.Struct, frozen=True):
    """All figures of a run. Amounts in quote currency, times in UTC ms, durations in ms, rates as fractions.

    - `exposure`: share of periods that ended with a position.
    - `turnover`: notional traded over average equity; `turnover_per_year` is the same per year.
    - `slippage`: cost against the reference prices, including the spread; already part of the fill prices.
    - `trades`: closed round trips; `open_trades` counts those still open at the end.
    - `buy_and_hold`: equal weight over the symbols, prices only; None without bars.
    - `undefined`: maps the name of each undefined figure to the reason.
    """

    start: int
    end: int
    interval: int
    periods: int
    periods_per_year: float
    initial_equity: float
    final_equity: float
    performance: Performance
    exposure: float
    turnover: float | None
    turnover_per_year: float | None
    fees: float
    funding: float
    slippage: float
    fills: int
    trades: TradeFigures
    open_trades: int
    buy_and_hold: Performance | None
    symbols: dict[str, SymbolFigures]
    months: dict[str, MonthFigures]
    undefined: dict[str, str]


def compute(
    curve: EquityCurve,
    book: TradeBook,
    *,
    category: Category,
    interval: int,
    benchmark: BuyAndHoldBenchmark | None = None,
) -> Metrics:
    """Compute the metrics of a run; `interval` is the bar length in ms."""
    summary, symbols = curve.summary(), book.symbols.values()
    yearly = periods_per_year(
        category, interval, summary.periods / summary.sessions if summary.sessions else 0.0
    )
    undefined: dict[str, str] = {}
    performance = measure(summary, yearly, undefined)
    figures = trade_figures(book.stats, undefined)
    turnover = (
        float(sum(totals.notional for totals in symbols)) / summary.average if summary.average > 0 else None
    )
    if turnover is None:
        undefined["turnover"] = "average equity is not positive"
    duration = summary.end - summary.start
    long_enough = duration >= MIN_YEARLY
    if turnover is not None and not long_enough:
        undefined["turnover_per_year"] = _TOO_SHORT
    hold = benchmark.portfolio.summary() if benchmark is not None else None
    return Metrics(
        start=summary.start,
        end=summary.end,
        interval=interval,
        periods=summary.periods,
        periods_per_year=yearly,
        initial_equity=summary.initial,
        final_equity=summary.final,
        performance=performance,
        exposure=summary.exposed / summary.periods if summary.periods else 0.0,
        turnover=turnover,
        turnover_per_year=turnover * YEAR_MS / duration if turnover is not None and long_enough else None,
        fees=float(sum(totals.fees for totals in symbols)),
        funding=float(sum(totals.funding for totals in symbols)),
        slippage=float(sum(totals.slippage for totals in symbols)),
        fills=sum(totals.fills for totals in symbols),
        trades=figures,
        open_trades=len(book.open_trades()),
        buy_and_hold=measure(hold, yearly, {}) if hold is not None and hold.periods else None,
        symbols=_symbols(book, benchmark),
        months=_months(summary, hold, book.months),
        undefined=undefined,
    )


_TOO_SHORT = "the window is shorter than 30 days, so it is not annualised"


def measure(summary: EquitySummary, yearly: float, undefined: dict[str, str]) -> Performance:
    """Compute the performance of a curve; `yearly` is the number of periods in a year.

    Reasons for undefined figures are added to `undefined`.
    """
    duration, total_return = summary.end - summary.start, _total_return(summary)
    cagr = sharpe = sortino = calmar = volatility = None
    if summary.bankrupt is not None:
        undefined["cagr"] = undefined["calmar"] = "equity fell to zero"
    elif duration < MIN_YEARLY:
        undefined["cagr"] = undefined["calmar"] = _TOO_SHORT
    else:
        cagr = (1 + total_return) ** (YEAR_MS / duration) - 1
        if summary.drawdown.depth < 0:
            calmar = cagr / -summary.drawdown.depth
        else:
            undefined["calmar"] = "equity never fell"
    if summary.periods < 2:
        undefined["volatility"] = undefined["sharpe"] = undefined["sortino"] = "fewer than two periods"
    else:
        volatility = summary.deviation * yearly**0.5
        # Equal returns differ by rounding only: dividing by that deviation would be meaningless.
        if summary.deviation > 1e-12 * abs(summary.mean):
            sharpe = summary.mean / summary.deviation * yearly**0.5
        else:
            undefined["sharpe"] = (
                "equity never moved" if summary.mean == 0 else "every period returned the same"
            )
        if summary.downside > 0:
            sortino = summary.mean / summary.downside * yearly**0.5
        else:
            undefined["sortino"] = "no period lost"
    fall = summary.drawdown
    return Performance(
        total_return=total_return,
        cagr=cagr,
        volatility=volatility,
        sharpe=sharpe,
        sortino=sortino,
        calmar=calmar,
        max_drawdown=fall.depth,
        drawdown=fall,
        drawdown_length=(summary.end if fall.recovery is None else fall.recovery) - fall.peak
        if fall.depth < 0
        else 0,
        longest_drawdown=summary.longest_drawdown,
    )


def trade_figures(stats: TradeStats, undefined: dict[str, str]) -> TradeFigures:
    """Compute the figures of closed round trips; add reasons for None to `undefined`."""
    if not stats.trades:
        undefined |= dict.fromkeys(("win_rate", "profit_factor", "expectancy"), "no round trip was closed")
    elif not stats.losses:
        undefined["profit_factor"] = "no round trip lost"
    return TradeFigures(
        trades=stats.trades,
        win_rate=stats.win_rate,
        profit_factor=stats.profit_factor,
        average_win=stats.average_win,
        average_loss=stats.average_loss,
        expectancy=stats.expectancy,
        best=None if stats.best is None else float(stats.best),
        worst=None if stats.worst is None else float(stats.worst),
        average_holding_time=stats.average_holding_time,
    )


def _symbols(book: TradeBook, benchmark: BuyAndHoldBenchmark | None) -> dict[str, SymbolFigures]:
    closes = benchmark.last_closes if benchmark is not None else {}
    holds = benchmark.symbol_returns if benchmark is not None else {}
    figures = {}
    for symbol in sorted(book.symbols.keys() | holds.keys()):
        totals = book.symbols.get(symbol, SymbolTotals())
        figures[symbol] = SymbolFigures(
            pnl=float(totals.pnl(Decimal(repr(closes[symbol])) if symbol in closes else None)),
            fees=float(totals.fees),
            funding=float(totals.funding),
            slippage=float(totals.slippage),
            turnover=float(totals.notional),
            fills=totals.fills,
            trades=trade_figures(totals.stats, {}),
            buy_and_hold=holds.get(symbol),
        )
    return figures


def _months(
    summary: EquitySummary, hold: EquitySummary | None, months: Mapping[str, TradeStats]
) -> dict[str, MonthFigures]:
    figures = {}
    for month, total_return in summary.months.items():
        stats = months.get(month, TradeStats())
        figures[month] = MonthFigures(
            total_return=total_return,
            buy_and_hold=hold.months.get(month) if hold is not None else None,
            trades=stats.trades,
            pnl=float(stats.gross_profit - stats.gross_loss),
        )
    return figures


def _total_return(summary: EquitySummary) -> float:
    return summary.final / summary.initial - 1
