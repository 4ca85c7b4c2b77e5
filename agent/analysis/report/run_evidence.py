"""Results beyond the metrics: significance, breakdowns by time and regime, costs, effect of headlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from agent.analysis.benchmark import hold_returns
from agent.analysis.breakdown import PeriodGroup, PeriodResults, break_down
from agent.analysis.cost_breakdown import cost_breakdown
from agent.analysis.daily import Closes, DailyValues, Floats, Ints, daily_pnl, last_of_day, rolling_sharpe
from agent.analysis.day_bootstrap import FEW_DAYS
from agent.analysis.decay import FEW_HEADLINES, Decay, sentiment_decay
from agent.analysis.event_study import EventStudy, Headlines, event_study
from agent.analysis.kind_study import kind_study
from agent.analysis.outcomes import Forecasts, Outcomes, outcomes
from agent.analysis.regimes import RULE, Regime, regimes
from agent.analysis.report.formats import plural
from agent.analysis.report.report_data import Curve, Rolling, RunEvidence, Significance
from agent.analysis.significance import (
    MIN_PERIODS,
    difference,
    probabilistic_sharpe,
    return_interval,
    sharpe_interval,
)
from agent.analysis.trades import RoundTrip
from agent.config import Config
from agent.core.events import DAY_MS, HOUR_MS, Fill, FundingPayment
from agent.core.instruments import periods_per_year

_WINDOWS: Final = ((180, 90), (45, 30))  # least periods of a run -> periods of its rolling window
_STRETCHES: Final = 24
_REACH: Final = 4 * HOUR_MS  # of the event study, unless the bars are too long for it


def period_of(interval: int) -> int:
    """Return the length (ms) of the periods of the returns: a day, or one bar if that is longer."""
    return max(interval, DAY_MS)


def past_of(interval: int) -> int:
    """Return how long (ms) before the start closes are needed so that the first period has a regime."""
    return (RULE.lookback + 2) * period_of(interval)


class RunRecord(NamedTuple):
    """What a run did and what data it had."""

    config: Config
    start: int  # UTC ms, when equity was `initial`
    initial: float
    net: float  # change of equity
    ts: Ints  # times of the equity samples
    equity: Floats
    closes: Mapping[str, Closes]  # from `past_of` before the start, if the files go back that far
    moves: Mapping[str, Sequence[Fill | FundingPayment]]  # by symbol, in booking order
    trades: Sequence[RoundTrip]
    forecasts: Mapping[str, Forecasts]  # "signals" and "predictions"
    headlines: Headlines
    horizon: int | None = None  # of the predictions in ms; None if the card of the model is missing
    kinds: Sequence[str] = ()  # kind of news of each of `headlines`; empty if the model has none
    own: int = 0  # of `headlines`, whose score is the model's score for the symbol itself


def evidence_of(run: RunRecord) -> RunEvidence:
    """Compute the evidence of a run; the reason for each missing part is in `absent`."""
    config, absent = run.config, dict[str, str]()
    period = period_of(config.market.interval)
    per_year = periods_per_year(config.market.category, period)
    equity = last_of_day(run.ts, run.equity)
    own = equity.returns(run.initial)
    closes = {symbol: found.since(run.start) for symbol, found in run.closes.items()}
    known = [found for found in closes.values() if len(found.ts)]
    hold = DailyValues(own.day, hold_returns(known, (own.day + 1) * DAY_MS)) if known else None
    study, decay = _news(run, closes, absent)
    moves = (move for moves in run.moves.values() for move in moves)
    return RunEvidence(
        costs=cost_breakdown(moves, config.paper.half_spread_bps, run.net),
        significance=_significance(own, hold, per_year, absent, plural(period)),
        period=period,
        rolling=_rolling(own, hold, per_year, absent, plural(period)),
        **_breakdowns(run, equity, own, hold, per_year, absent)._asdict(),
        outcomes=_outcomes(run, closes, absent),
        event_study=study,
        kinds=kind_study(
            run.headlines,
            np.array(run.kinds, np.str_),
            run.own,
            closes,
            config.market.interval,
            config.signals.kinds,
        ),
        decay=decay,
        absent=absent,
    )


def _significance(
    own: DailyValues, hold: DailyValues | None, per_year: float, absent: dict[str, str], units: str
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
    own: DailyValues, hold: DailyValues | None, per_year: float, absent: dict[str, str], units: str
) -> Rolling | None:
    periods = len(own.value)
    window = next((window for least, window in _WINDOWS if periods >= least), None)
    if window is None:
        absent["rolling"] = f"the run has fewer than {_WINDOWS[-1][0]} {units}"
        return None
    return Rolling(
        window,
        _curve(rolling_sharpe(own, window, per_year)),
        _curve(rolling_sharpe(hold, window, per_year)) if hold is not None else Curve(),
    )


def _curve(days: DailyValues) -> Curve:
    return Curve(((days.day + 1) * DAY_MS).tolist(), days.value.tolist())


class _Breakdowns(NamedTuple):
    """Fields of `RunEvidence`."""

    years: dict[str, PeriodGroup]
    symbol_years: dict[str, dict[str, PeriodGroup]]
    regimes: dict[str, dict[str, PeriodGroup]]


def _breakdowns(
    run: RunRecord,
    equity: DailyValues,
    own: DailyValues,
    hold: DailyValues | None,
    per_year: float,
    absent: dict[str, str],
) -> _Breakdowns:
    """Break the run down by year and regime, as a whole (key "") and by symbol."""
    before = np.concatenate(((run.initial,), equity.value[:-1]))[: len(own.day)]
    unknown = np.full(len(own.day), np.nan)
    results = {
        "": PeriodResults(own.day, own.value, own.value * before, unknown if hold is None else hold.value)
    }
    names = {"": _market_regimes(run.closes)}
    for symbol, closes in sorted(run.closes.items()):
        if len(closes.ts):
            prices = last_of_day(*closes)
            pnl = daily_pnl(run.moves.get(symbol, ()), closes, own.day)
            share = np.divide(pnl, before, out=np.zeros_like(pnl), where=before > 0)
            results[symbol] = PeriodResults(own.day, share, pnl, _price_returns(prices, own.day))
            names[symbol] = _regime_of_day(prices)
    trades = {symbol: [trade for trade in run.trades if symbol in ("", trade.symbol)] for symbol in results}
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
        units = plural(period_of(run.config.market.interval))
        absent["regimes"] = (
            f"the rule needs {RULE.lookback + 1} {units} of closes before a period, and no period has them"
        )
        grouped = {}
    years = own.day.astype("datetime64[D]").astype("datetime64[Y]").astype(str).tolist()
    by_year = {
        symbol: break_down(years, result, trades[symbol], per_year) for symbol, result in results.items()
    }
    return _Breakdowns(by_year.pop(""), by_year, grouped)


def _price_returns(prices: DailyValues, days: Ints) -> Floats:
    """Return the price change of each of `days`; NaN on the first day without an earlier close."""
    before = np.concatenate((prices.at(days[:1] - 1), prices.at(days)[:-1]))[: len(days)]
    return prices.at(days) / before - 1


def _regime_of_day(prices: DailyValues) -> dict[int, Regime]:
    return dict(zip(prices.day.tolist(), regimes(prices), strict=True))


def _market_regimes(closes: Mapping[str, Closes]) -> dict[int, Regime]:
    """Return the regimes of the equal-weight market: the mean of the symbols' log returns."""
    days = [last_of_day(*found) for found in closes.values() if len(found.ts)]
    if not days:
        return {}
    every = np.unique(np.concatenate([found.day for found in days]))
    steps = np.array([np.diff(np.log(found.at(every)), prepend=np.nan) for found in days])
    known = ~np.isnan(steps)
    mean = np.where(known, steps, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return _regime_of_day(DailyValues(every, np.exp(np.cumsum(mean))))


def _outcomes(run: RunRecord, closes: Mapping[str, Closes], absent: dict[str, str]) -> list[Outcomes]:
    interval = run.config.market.interval
    signals = run.config.signals
    lifetime = min(signals.half_life, signals.window)
    horizons = {"signals": lifetime, "predictions": run.horizon or lifetime}
    compared = [
        outcomes(kind, forecasts, closes, interval, max(1, horizons[kind] // interval))
        for kind, forecasts in run.forecasts.items()
        if len(forecasts.ts)
    ]
    found = [result for result in compared if result is not None]
    if not found:
        absent["outcomes"] = "the run has no signal or prediction with a known outcome"
    return found


def _news(
    run: RunRecord, closes: Mapping[str, Closes], absent: dict[str, str]
) -> tuple[EventStudy | None, Decay | None]:
    headlines, interval = run.headlines, run.config.market.interval
    if not len(headlines.ts):
        absent["event_study"] = absent["decay"] = "the run scored no headline about its symbols"
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
