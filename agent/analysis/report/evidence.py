"""What a report computes beyond the metrics: how far from luck, when, in which markets, at what cost, and whether the news led."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from agent.analysis.breakdown import DailyResult, Group, break_down
from agent.analysis.clusters import FEW_DAYS
from agent.analysis.costs import costs_of
from agent.analysis.daily import Closes, Days, Floats, Ints, by_day, pnl_of, returns_of
from agent.analysis.decay import FEW_HEADLINES, Decay, sentiment_decay
from agent.analysis.event_study import EventStudy, Headlines, event_study
from agent.analysis.outcomes import Outcomes, Statements, outcomes
from agent.analysis.regimes import RULE, Regime, regimes
from agent.analysis.report.data import Evidence, Rolling, Series, Significance
from agent.analysis.report.formats import plural
from agent.analysis.rolling import rolling_sharpe
from agent.analysis.significance import (
    MIN_PERIODS,
    difference,
    probabilistic_sharpe,
    return_interval,
    sharpe_interval,
)
from agent.analysis.trades import Trade
from agent.config import Config
from agent.core.events import DAY_MS, HOUR_MS, Fill, FundingPayment
from agent.core.instruments import periods_per_year

_WINDOWS: Final = ((180, 90), (45, 30))  # periods of a run -> of its rolling window
_STRETCHES: Final = 24
_REACH: Final = 4 * HOUR_MS  # of an event study, where bars are short enough


def period_of(interval: int) -> int:
    """Length (ms) of the periods that a run with bars of `interval` ms is judged by: a day, or one bar if bars are longer."""
    return max(interval, DAY_MS)


def past_of(interval: int) -> int:
    """How long (ms) before a run's start closes are needed, so that its first period has a regime."""
    return (RULE.lookback + 2) * period_of(interval)


class Facts(NamedTuple):
    """What a run did and saw."""

    config: Config
    start: int  # UTC ms, when equity was `initial`
    initial: float
    net: float  # change of equity
    ts: Ints  # samples of equity
    equity: Floats
    closes: Mapping[str, Closes]  # from `past_of` before the start on, if the files reach back so far
    moves: Mapping[str, Sequence[Fill | FundingPayment]]  # by symbol, as booked
    trades: Sequence[Trade]
    statements: Mapping[str, Statements]  # signals, predictions
    headlines: Headlines
    horizon: int | None = None  # ms that predictions look ahead, where the model's card is at hand


def evidence_of(facts: Facts) -> Evidence:
    """All that can be said of a run; what can't has its reason in `absent`."""
    config, absent = facts.config, dict[str, str]()
    period = period_of(config.market.interval)
    per_year = periods_per_year(config.market.category, period)
    equity = by_day(facts.ts, facts.equity)
    own = returns_of(equity, facts.initial)
    seen = {symbol: closes.since(facts.start) for symbol, closes in facts.closes.items()}
    hold = _held(seen, own.day)
    study, decay = _news(facts, seen, absent)
    return Evidence(
        costs=costs_of(
            (move for moves in facts.moves.values() for move in moves),
            config.paper.half_spread_bps,
            facts.net,
        ),
        significance=_significance(own, hold, per_year, absent, plural(period)),
        period=period,
        rolling=_rolling(own, hold, per_year, absent, plural(period)),
        **_breakdowns(facts, equity, own, hold, per_year, absent)._asdict(),
        outcomes=_outcomes(facts, seen, absent),
        event_study=study,
        decay=decay,
        absent=absent,
    )


def _held(closes: Mapping[str, Closes], days: Ints) -> Days | None:
    """Daily returns of equal-weight buy-and-hold, bought at the first closes, as `BuyAndHold` does."""
    worth = [by_day(*own).at(days) / own.price[0] for own in closes.values() if len(own.ts)]
    if not worth or not len(days):
        return None
    return returns_of(Days(days, np.mean([np.where(np.isnan(w), 1.0, w) for w in worth], axis=0)), 1.0)


def _significance(
    own: Days, hold: Days | None, per_year: float, absent: dict[str, str], units: str
) -> Significance:
    periods = len(own.value)
    if periods < MIN_PERIODS:
        absent["significance"] = f"the run has fewer than {MIN_PERIODS} {units}"
        return Significance(periods)
    if not own.value.any():
        absent["significance"] = "equity never moved"
        return Significance(periods)
    return Significance(
        periods,
        sharpe_interval(own.value, per_year),
        return_interval(own.value),
        probabilistic_sharpe(own.value),
        difference(own.value, hold.value, per_year) if hold is not None else None,
    )


def _rolling(
    own: Days, hold: Days | None, per_year: float, absent: dict[str, str], units: str
) -> Rolling | None:
    periods = len(own.value)
    window = next((window for least, window in _WINDOWS if periods >= least), None)
    if window is None:
        absent["rolling"] = f"the run has fewer than {_WINDOWS[-1][0]} {units}"
        return None
    return Rolling(
        window,
        _series(rolling_sharpe(own, window, per_year)),
        _series(rolling_sharpe(hold, window, per_year)) if hold is not None else Series(),
    )


def _series(days: Days) -> Series:
    return Series(((days.day + 1) * DAY_MS).tolist(), days.value.tolist())


class _Breakdowns(NamedTuple):
    """Fields of `Evidence`."""

    years: dict[str, Group]
    symbol_years: dict[str, dict[str, Group]]
    regimes: dict[str, dict[str, Group]]


def _breakdowns(
    facts: Facts, equity: Days, own: Days, hold: Days | None, per_year: float, absent: dict[str, str]
) -> _Breakdowns:
    before = np.concatenate(((facts.initial,), equity.value[:-1]))[: len(own.day)]
    nothing = np.full(len(own.day), np.nan)
    results = {
        "": DailyResult(own.day, own.value, own.value * before, nothing if hold is None else hold.value)
    }
    names = {"": _market_regimes(facts.closes)}
    for symbol, closes in sorted(facts.closes.items()):
        if len(closes.ts):
            prices = by_day(*closes)
            pnl = pnl_of(facts.moves.get(symbol, ()), closes, own.day)
            share = np.divide(pnl, before, out=np.zeros_like(pnl), where=before > 0)
            results[symbol] = DailyResult(own.day, share, pnl, _grown(prices, own.day))
            names[symbol] = _by_day(prices)
    trades = {symbol: [trade for trade in facts.trades if symbol in ("", trade.symbol)] for symbol in results}
    order = [regime.value for regime in Regime]
    grouped = {
        symbol: break_down(
            [names[symbol].get(day, Regime.UNKNOWN).value for day in own.day.tolist()],
            result,
            trades[symbol],
            per_year,
            order,
        )
        for symbol, result in results.items()
    }
    if all(set(groups) <= {Regime.UNKNOWN.value} for groups in grouped.values()):
        units = plural(period_of(facts.config.market.interval))
        absent["regimes"] = (
            f"no period has the {RULE.lookback + 1} {units} of closes before it that the rule needs"
        )
        grouped = {}
    years = own.day.astype("datetime64[D]").astype("datetime64[Y]").astype(str).tolist()
    by_year = {
        symbol: break_down(years, result, trades[symbol], per_year) for symbol, result in results.items()
    }
    return _Breakdowns(by_year.pop(""), by_year, grouped)


def _grown(prices: Days, days: Ints) -> Floats:
    """Return of a price on each of `days`; from the close before the run where there is one, else NaN on its first day."""
    before = np.concatenate((prices.at(days[:1] - 1), prices.at(days)[:-1]))[: len(days)]
    return prices.at(days) / before - 1


def _by_day(prices: Days) -> dict[int, Regime]:
    return dict(zip(prices.day.tolist(), regimes(prices), strict=True))


def _market_regimes(closes: Mapping[str, Closes]) -> dict[int, Regime]:
    """Of the symbols in equal parts, rebalanced each period: the mean of their log returns."""
    days = [by_day(*own) for own in closes.values() if len(own.ts)]
    if not days:
        return {}
    every = np.unique(np.concatenate([own.day for own in days]))
    steps = np.array([np.diff(np.log(own.at(every)), prepend=np.nan) for own in days])
    there = ~np.isnan(steps)
    mean = np.where(there, steps, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    return _by_day(Days(every, np.exp(np.cumsum(mean))))


def _outcomes(facts: Facts, closes: Mapping[str, Closes], absent: dict[str, str]) -> list[Outcomes]:
    interval = facts.config.market.interval
    signals = facts.config.signals
    lasting = min(signals.half_life, signals.window)
    ahead = {"signals": lasting, "predictions": facts.horizon or lasting}
    compared = [
        outcomes(kind, said, closes, interval, max(1, ahead[kind] // interval))
        for kind, said in facts.statements.items()
        if len(said.ts)
    ]
    found = [one for one in compared if one is not None]
    if not found:
        absent["outcomes"] = "the run has no signal or prediction whose outcome is known"
    return found


def _news(
    facts: Facts, closes: Mapping[str, Closes], absent: dict[str, str]
) -> tuple[EventStudy | None, Decay | None]:
    headlines, interval = facts.headlines, facts.config.market.interval
    if not len(headlines.ts):
        absent["event_study"] = absent["decay"] = "the run scored no headline about what it trades"
        return None, None
    stretch = max(1, _REACH // interval // _STRETCHES)
    after = stretch * _STRETCHES
    study = event_study(headlines, closes, interval, before=after // 4, after=after)
    decay = sentiment_decay(headlines, closes, interval, stretch=stretch, stretches=_STRETCHES)
    if study is None:
        absent["event_study"] = f"no headline has {after // 4} bars before it and {after} after it"
    if decay is None:
        absent["decay"] = (
            f"fewer than {FEW_HEADLINES} headlines on {FEW_DAYS} days have {after} bars after them"
        )
    return study, decay
