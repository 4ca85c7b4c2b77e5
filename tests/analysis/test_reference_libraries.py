"""Rolling Sharpe ratios, months, years, drawdowns and ratios compared with empyrical and quantstats."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from agent.analysis.breakdown import PeriodResults, break_down
from agent.analysis.daily import DailyValues, rolling_sharpe
from agent.analysis.equity import EquityCurve
from agent.analysis.run_metrics import compute
from agent.analysis.trades import TradeBook
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from tests.analysis.test_run_metrics import START, metrics_of
from tests.support.lazy import LazyModule

empyrical = LazyModule("empyrical")
qs = LazyModule("quantstats.stats")

FIRST_DAY = START // DAY_MS
CASES = [(400, 0.001, 0.01, 365, 90), (800, -0.002, 0.03, 252, 126), (120, 0.0, 0.002, 365, 30)]
CASE = ("length", "drift", "noise", "per_year", "window")


def daily(length: int, drift: float, noise: float) -> pd.Series:
    """Return daily returns from 2024-01-01 on."""
    returns = np.random.default_rng(length).normal(drift, noise, length)
    return pd.Series(returns, index=pd.date_range("2024-01-01", periods=length))


def days_of(series: pd.Series) -> DailyValues:
    return DailyValues(FIRST_DAY + np.arange(len(series)), series.to_numpy())


@pytest.mark.parametrize(CASE, CASES)
def test_rolling_sharpe(length: int, drift: float, noise: float, per_year: int, window: int) -> None:
    series = daily(length, drift, noise)
    ours = rolling_sharpe(days_of(series), window, per_year)
    by_empyrical = empyrical.roll_sharpe_ratio(series, window=window, annualization=per_year)
    by_quantstats = qs.rolling_sharpe(
        series, rolling_period=window, periods_per_year=per_year, prepare_returns=False
    ).dropna()
    assert ours.value == pytest.approx(by_empyrical.to_numpy(), rel=1e-9)
    assert ours.value == pytest.approx(by_quantstats.to_numpy(), rel=1e-9)
    assert ours.day[0] == FIRST_DAY + window - 1


@pytest.mark.parametrize(CASE, CASES)
@pytest.mark.parametrize("interval", [DAY_MS, HOUR_MS])
def test_monthly_returns(
    length: int, drift: float, noise: float, per_year: int, window: int, interval: int
) -> None:
    bars = DAY_MS // interval
    returns = np.random.default_rng(length).normal(drift / bars, noise / bars**0.5, length * bars)
    metrics = metrics_of(100 * np.cumprod(1 + returns), interval=interval)
    # Open times, because a bar that closes at midnight belongs to the day before
    stamps = START + np.arange(length * bars) * interval
    series = pd.Series(returns, index=pd.to_datetime(stamps, unit="ms"))
    theirs = empyrical.aggregate_returns(series, "monthly")
    assert list(metrics.months) == [f"{year}-{month:02}" for year, month in theirs.index]
    assert [month.total_return for month in metrics.months.values()] == pytest.approx(
        theirs.tolist(), rel=1e-9
    )
    table = qs.monthly_returns(series, eoy=False)
    names = [f"{year}-{number + 1:02}" for year in table.index for number in range(12)]
    by_quantstats = dict(zip(names, table.to_numpy().ravel().tolist(), strict=True))
    assert {name: month.total_return for name, month in metrics.months.items()} == pytest.approx(
        {name: by_quantstats[name] for name in metrics.months}, rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize(CASE, CASES)
def test_years(length: int, drift: float, noise: float, per_year: int, window: int) -> None:
    series = daily(length, drift, noise)
    days = days_of(series)
    nothing = np.full(length, np.nan)
    years = series.index.year.astype(str).tolist()
    groups = break_down(years, PeriodResults(days.day, days.value, nothing, nothing), [], per_year)
    assert {year: group.total_return for year, group in groups.items()} == pytest.approx(
        {str(year): value for year, value in empyrical.aggregate_returns(series, "yearly").items()}, rel=1e-9
    )
    for year, group in groups.items():
        own = series[year]
        assert group.max_drawdown == pytest.approx(empyrical.max_drawdown(own), rel=1e-9)
        assert group.sharpe == pytest.approx(empyrical.sharpe_ratio(own, annualization=per_year), rel=1e-9)


@pytest.mark.parametrize(CASE, CASES)
def test_ratios_of_daily_runs(length: int, drift: float, noise: float, per_year: int, window: int) -> None:
    series = daily(length, drift, noise)
    category = {365: "linear", 252: "equity"}[per_year]
    found = metrics_of(100 * np.cumprod(1 + series.to_numpy()), category=category).performance
    assert found.sharpe == pytest.approx(empyrical.sharpe_ratio(series, annualization=per_year), rel=1e-9)
    assert found.volatility == pytest.approx(
        empyrical.annual_volatility(series, annualization=per_year), rel=1e-9
    )
    assert found.max_drawdown == pytest.approx(empyrical.max_drawdown(series), rel=1e-9)
    assert found.total_return == pytest.approx(empyrical.cum_returns_final(series), rel=1e-9)
    if per_year == 365:  # for equities empyrical counts sessions, Tapewire calendar time
        assert found.cagr == pytest.approx(empyrical.cagr(series, annualization=per_year), rel=1e-9)


# Category, length of a bar (ms), and periods in a year by the calendar
SPACINGS = [
    ("linear", 7 * DAY_MS, 365 / 7),
    ("spot", 7 * DAY_MS, 365 / 7),
    ("equity", 7 * DAY_MS, 365 / 7),
    ("equity", 14 * DAY_MS, 365 / 14),
    ("equity", 30 * DAY_MS, 12),
    ("linear", 31 * DAY_MS, 12),
    ("linear", DAY_MS, 365),
    ("linear", HOUR_MS, 365 * 24),
    ("linear", MINUTE_MS, 365 * 1440),
]


@pytest.mark.parametrize(("category", "interval", "per_year"), SPACINGS)
def test_ratios_follow_the_spacing_of_the_bars(category: str, interval: int, per_year: float) -> None:
    returns = np.random.default_rng(7).normal(0.0004, 0.01, 3_000)
    metrics = metrics_of(100 * np.cumprod(1 + returns), interval=interval, category=category)
    assert metrics.periods_per_year == pytest.approx(per_year, rel=1e-12)
    own, series = metrics.performance, pd.Series(returns)
    assert own.sharpe == pytest.approx(qs.sharpe(series, periods=per_year), rel=1e-9)
    assert own.sortino == pytest.approx(qs.sortino(series, periods=per_year), rel=1e-9)
    assert own.volatility == pytest.approx(
        qs.volatility(series, periods=per_year, prepare_returns=False), rel=1e-9
    )


# Opening time (minutes after midnight UTC), bars and their minutes; the third spans midnight, as Sydney does
SESSIONS = [
    (14 * 60 + 30, 7, 60),
    (14 * 60 + 30, 390, 1),
    (23 * 60, 6, 60),
    (0, 6, 60),
    (13 * 60 + 30, 2, 240),
]


@pytest.mark.parametrize(("opens", "bars", "minutes"), SESSIONS)
def test_intraday_equity_bars_count_as_many_as_a_session_has(opens: int, bars: int, minutes: int) -> None:
    """Seven hourly bars a session are 252 * 7 a year, although the last bar of New York is half an hour."""
    nights = [day for day in range(120) if day % 7 < 5]
    ts = np.array(
        [
            START + day * DAY_MS + (opens + (bar + 1) * minutes) * MINUTE_MS
            for day in nights
            for bar in range(bars)
        ]
    )
    returns = np.random.default_rng(3).normal(0.0, 0.002, len(ts))
    curve = EquityCurve(100.0, minutes * MINUTE_MS)
    curve.extend(ts[:50], 100 * np.cumprod(1 + returns)[:50])
    curve.extend(ts[50:], 100 * np.cumprod(1 + returns)[50:])  # in blocks, as during a run
    metrics = compute(curve, TradeBook(), category="equity", interval=minutes * MINUTE_MS)
    assert metrics.periods_per_year == pytest.approx(252 * bars)
    assert metrics.performance.sharpe == pytest.approx(
        qs.sharpe(pd.Series(returns), periods=252 * bars), rel=1e-9
    )


def test_a_currency_pair_that_trades_five_days_around_the_clock_has_24_hourly_bars_a_session() -> None:
    ts = np.array([START + hour * HOUR_MS for hour in range(1, 100 * 24) if (hour // 24) % 7 < 5])
    curve = EquityCurve(100.0, HOUR_MS)
    curve.extend(ts, 100 + np.sin(ts / 1e7))
    assert compute(curve, TradeBook(), category="equity", interval=HOUR_MS).periods_per_year == pytest.approx(
        252 * 24, rel=0.01
    )
