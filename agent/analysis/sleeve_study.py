"""Results by sleeve of an account with several strategies: what each earned, and what it adds to the risk.

The account's profit is the sum of the sleeves' profits, so contributions to the return add up to it.
Contributions to the risk are shares of the variance of the account's daily returns: with r_i the profit of
sleeve i on a day over the account's equity before it and R their sum, cov(r_i, R) / var(R). They add up to 1.
A sleeve that moves against the others has a negative one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from math import sqrt
from typing import Final

import msgspec
import numpy as np

from agent.analysis.daily import Floats, last_of_day, simple_returns
from agent.analysis.trades import TradeBook
from agent.core.events import Fill, FillKind, FundingPayment, Side
from agent.core.fill_models import FillRules
from agent.core.instruments import instrument_for
from agent.core.settings import CoreConfig

_ZERO: Final = Decimal(0)
_FEWEST: Final = 5  # days; statistics of fewer are left out
_STILL: Final = 1e-15  # a smaller variance or deviation counts as 0


class InternalTrades(msgspec.Struct):
    """Orders of sleeves that crossed: their number, value at the marks, and the fees that this saved."""

    count: int = 0
    value: Decimal = _ZERO
    fees_saved: Decimal = _ZERO


class SleeveResult(msgspec.Struct, frozen=True):
    """The result of one sleeve; amounts in account currency. Ratios that are undefined are None."""

    name: str
    strategy: str
    capital: float
    final_equity: float
    profit: float
    total_return: float  # on its own capital
    contribution: float  # profit over the account's initial capital
    risk: float | None  # its share of the variance of the account's daily returns
    sharpe: float | None  # of its daily returns, annualised
    max_drawdown: float  # of its samples, as a fraction of the peak, <= 0
    trades: int  # closed round trips
    win_rate: float | None
    fees: Decimal
    funding: Decimal
    slippage: Decimal


class SleeveStudy(msgspec.Struct, frozen=True):
    """The sleeves of an account. `correlation` is of daily returns, by pair of names; None if undefined."""

    sleeves: list[SleeveResult]
    idle: float  # capital that no sleeve has
    correlation: dict[str, dict[str, float | None]]
    internal: InternalTrades
    curves: dict[str, tuple[list[int], list[float]]] = {}  # UTC ms and equity, by sleeve


class SleeveHistory:
    """The samples, fills and payments of one sleeve."""

    def __init__(self) -> None:
        self.trades = TradeBook()
        self.ts: list[int] = []
        self.equity: list[float] = []

    def add(self, move: Fill | FundingPayment) -> None:
        """Add a fill or a funding payment."""
        if isinstance(move, Fill):
            self.trades.add(move)
        else:
            self.trades.add_funding(move)

    def extend(self, ts: Sequence[int], equity: Sequence[float]) -> None:
        """Add samples, in order of time (UTC ms)."""
        self.ts += ts
        self.equity += equity

    def rebase(self, ts: int, amount: float) -> None:
        """Add a change of the capital at `ts` (UTC ms) to the samples before it, as if it had been there."""
        self.equity = [one + amount if at < ts else one for at, one in zip(self.ts, self.equity, strict=True)]


class InternalTally:
    """Counts the fills of orders that crossed within the account."""

    def __init__(self, config: CoreConfig) -> None:
        self.totals = InternalTrades()
        self._config = config
        self._fees = FillRules(config.paper).fees

    def add(self, fill: Fill) -> None:
        """Add a fill, of whichever kind; each cross has a purchase and a sale."""
        if fill.kind is FillKind.INTERNAL:
            rules = instrument_for(fill.symbol, self._config)
            self.totals.fees_saved += self._fees.fee(rules, fill.qty, fill.price, maker=False)
            if fill.side is Side.BUY:
                self.totals.count += 1
                self.totals.value += fill.qty * fill.price


def study_sleeves(
    config: CoreConfig,
    histories: Mapping[str, SleeveHistory],
    internal: InternalTrades,
    opening: Decimal = _ZERO,
) -> SleeveStudy:
    """Measure the sleeves of a run from their histories, by name.

    `opening` is by how much the balance at a venue differed from the configured capital when the run began.
    """
    days_per_year = 252.0 if config.market.category == "equity" else 365.0
    capital = float(config.account.initial_capital + opening)
    shares = {one.name: float(one.share) * capital for one in config.sleeves}
    strategies = {one.name: one.strategy.name for one in config.sleeves}
    # a configured sleeve without a sample had no bar: it has kept its capital
    names = [one.name for one in config.sleeves if one.enabled or one.name in histories]
    names += [name for name in histories if name not in names]
    histories = {name: histories.get(name) or SleeveHistory() for name in names}
    # a sleeve that was added while running had not traded at its first sample
    own = {name: shares.get(name, one.equity[0] if one.equity else 0.0) for name, one in histories.items()}
    profits = _daily_profits(histories, own)
    before = capital + np.concatenate(((0.0,), np.cumsum(profits.sum(axis=0))))[:-1]
    parts = np.divide(profits, before, out=np.zeros_like(profits), where=before > 0)
    risk = _shares_of_variance(parts)
    returns = {
        name: simple_returns(own[name] + np.cumsum(profits[row]), own[name])
        for row, name in enumerate(histories)
    }
    results = []
    for row, (name, history) in enumerate(histories.items()):
        final = history.equity[-1] if history.equity else own[name]
        totals = history.trades.symbols.values()
        results.append(
            SleeveResult(
                name=name,
                strategy=strategies.get(name, ""),
                capital=own[name],
                final_equity=final,
                profit=final - own[name],
                total_return=final / own[name] - 1 if own[name] else 0.0,
                contribution=(final - own[name]) / capital,
                risk=None if risk is None else float(risk[row]),
                sharpe=_sharpe(returns[name], days_per_year),
                max_drawdown=_deepest(history.equity, own[name]),
                trades=history.trades.stats.trades,
                win_rate=history.trades.stats.win_rate,
                fees=sum((one.fees for one in totals), _ZERO),
                funding=sum((one.funding for one in totals), _ZERO),
                slippage=sum((one.slippage for one in totals), _ZERO),
            )
        )
    return SleeveStudy(
        results,
        capital - sum(one for name, one in shares.items() if name in histories),
        {one: {other: _correlation(returns[one], returns[other]) for other in returns} for one in returns},
        internal,
        {name: (history.ts, history.equity) for name, history in histories.items()},
    )


def _daily_profits(histories: Mapping[str, SleeveHistory], capital: Mapping[str, float]) -> Floats:
    """Return what each sleeve added to the equity on each day: an array (sleeves, days)."""
    daily = {
        name: last_of_day(np.array(one.ts, np.int64), np.array(one.equity, np.float64))
        for name, one in histories.items()
    }
    sampled = [one.day for one in daily.values() if len(one.day)]
    if not sampled:
        return np.empty((len(histories), 0))
    days = np.arange(min(one[0] for one in sampled), max(one[-1] for one in sampled) + 1)
    rows = []
    for name, values in daily.items():
        worth = values.at(days)
        rows.append(np.diff(np.where(np.isnan(worth), capital[name], worth), prepend=capital[name]))
    return np.array(rows)


def _shares_of_variance(parts: Floats) -> Floats | None:
    """Return each row's share of the variance of the rows' sum; None if the sum doesn't vary."""
    whole = parts.sum(axis=0)
    if len(whole) < _FEWEST or whole.var() < _STILL:
        return None
    covariances = ((parts - parts.mean(axis=1, keepdims=True)) * (whole - whole.mean())).mean(axis=1)
    shares: Floats = covariances / whole.var()
    return shares


def _sharpe(returns: Floats, per_year: float) -> float | None:
    if len(returns) < _FEWEST or returns.std(ddof=1) < _STILL:
        return None
    return float(returns.mean() / returns.std(ddof=1) * sqrt(per_year))


def _correlation(one: Floats, other: Floats) -> float | None:
    if len(one) < _FEWEST or one.std() < _STILL or other.std() < _STILL:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _deepest(equity: Sequence[float], capital: float) -> float:
    if not equity:
        return 0.0
    values = np.array([capital, *equity])
    peaks = np.maximum.accumulate(values)
    return float(np.min(values / peaks - 1))
