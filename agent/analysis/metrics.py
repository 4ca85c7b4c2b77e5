"""What a run was worth: the figures, their definitions, and why one is missing where it is.

Returns are simple returns of equity per bar period, annualised by the number of periods in a year (365 days around the clock
for crypto, 252 sessions for equities, 365/7 weeks and 12 months for both; see `instruments.periods_per_year`). The risk-free rate
is 0. Definitions agree with the package quantstats, except as stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

import msgspec

from agent.analysis.benchmark import BuyAndHold
from agent.analysis.equity import Drawdown, EquityCurve, EquitySummary
from agent.analysis.trades import Account, TradeBook, TradeStats
from agent.config import Category
from agent.core.events import DAY_MS
from agent.core.instruments import periods_per_year

YEAR_MS: Final = 365 * DAY_MS
MIN_YEARLY: Final = 30 * DAY_MS
"""Windows shorter than this are not extrapolated to a year."""

FEW_TRADES: Final = 30
"""With fewer round trips than this, no figure about trades means much (the usual small-sample bound)."""


class Performance(msgspec.Struct, frozen=True):
    """Of one equity curve. None where undefined; see `Metrics.undefined`.

    - `total_return`: final over initial equity, minus 1.
    - `cagr`: (final/initial)^(1/years) - 1 with years of 365 calendar days between start and end; quantstats counts periods
      instead, which is the same where no bar is missing and the market never closes.
    - `volatility`: sample standard deviation of returns × √(periods a year).
    - `sharpe`: mean/sample standard deviation of returns × √(periods a year) (Sharpe 1994).
    - `sortino`: mean/downside deviation × √(periods a year); the downside deviation is the root of the mean of min(return, 0)²
      over all periods (Sortino and Price 1994, target 0).
    - `max_drawdown`: the deepest fall from a peak, as a fraction <= 0; `drawdown_length` is ms from that peak to the recovery,
      or to the end where there was none; `longest_drawdown` is ms of the longest time below a peak.
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
    """Of closed round trips, net of fees and with their funding; money in quote currency, times in ms."""

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
    """One symbol: `pnl` is its contribution to final minus initial equity, an open position at its last close."""

    pnl: float
    fees: float
    funding: float
    slippage: float
    turnover: float  # notional traded
    fills: int
    trades: TradeFigures
    buy_and_hold: float | None  # total return of its price


class MonthFigures(msgspec.Struct, frozen=True):
    """One UTC calendar month: return of equity and of equal-weight buy-and-hold, round trips closed and their profit."""

    total_return: float
    buy_and_hold: float | None
    trades: int
    pnl: float


class Metrics(msgspec.Struct, frozen=True):
    """A run in figures. Money in quote currency, times in UTC ms, durations in ms, rates as fractions.

    - `exposure`: share of periods that ended with a position.
    - `turnover`: notional traded over average equity; `turnover_per_year` the same a year.
    - `slippage`: paid against the reference prices, spread included; already in the prices of the fills.
    - `trades`: closed round trips; `open_trades` those that the run ended in.
    - `buy_and_hold`: equal weight over the symbols, prices only; None where no bars were given.
    - `undefined`: name of each figure that is None -> why.
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
    benchmark: BuyAndHold | None = None,
) -> Metrics:
    """The figures of a run from what was folded while it went; `interval` is the bars' in ms."""
    summary, accounts = curve.summary(), book.accounts.values()
    yearly = periods_per_year(
        category, interval, summary.periods / summary.sessions if summary.sessions else 0.0
    )
    undefined: dict[str, str] = {}
    performance = measure(summary, yearly, undefined)
    figures = trade_figures(book.stats, undefined)
    turnover = (
        float(sum(account.notional for account in accounts)) / summary.average
        if summary.average > 0
        else None
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
        fees=float(sum(account.fees for account in accounts)),
        funding=float(sum(account.funding for account in accounts)),
        slippage=float(sum(account.slippage for account in accounts)),
        fills=sum(account.fills for account in accounts),
        trades=figures,
        open_trades=len(book.open_trades()),
        buy_and_hold=measure(hold, yearly, {}) if hold is not None and hold.periods else None,
        symbols=_symbols(book, benchmark),
        months=_months(summary, hold, book.months),
        undefined=undefined,
    )


_TOO_SHORT = "the window is shorter than 30 days: not extrapolated to a year"


def measure(summary: EquitySummary, yearly: float, undefined: dict[str, str]) -> Performance:
    """Performance of one curve with `yearly` periods a year; why a figure is None goes to `undefined`."""
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
        # Equal returns differ by rounding alone: their deviation is no risk to divide by.
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
    """Figures of closed round trips; why one is None goes to `undefined`."""
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


def _symbols(book: TradeBook, benchmark: BuyAndHold | None) -> dict[str, SymbolFigures]:
    closes = benchmark.last_closes if benchmark is not None else {}
    holds = benchmark.symbols if benchmark is not None else {}
    figures = {}
    for symbol in sorted(book.accounts.keys() | holds.keys()):
        account = book.accounts.get(symbol, Account())
        figures[symbol] = SymbolFigures(
            pnl=float(account.pnl(Decimal(repr(closes[symbol])) if symbol in closes else None)),
            fees=float(account.fees),
            funding=float(account.funding),
            slippage=float(account.slippage),
            turnover=float(account.notional),
            fills=account.fills,
            trades=trade_figures(account.stats, {}),
            buy_and_hold=_total_return(holds[symbol].summary()) if symbol in holds else None,
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
