"""What the report shows over time, against empyrical and quantstats: rolling Sharpe, months, years, drawdowns, and the daily ratios."""

from __future__ import annotations

import empyrical
import numpy as np
import pandas as pd
import pytest
import quantstats.stats as qs

from agent.analysis.breakdown import DailyResult, break_down
from agent.analysis.daily import Days
from agent.analysis.rolling import rolling_sharpe
from agent.events import DAY_MS, HOUR_MS
from tests.analysis.test_metrics import START, metrics_of

FIRST_DAY = START // DAY_MS
CASES = [(400, 0.001, 0.01, 365, 90), (800, -0.002, 0.03, 252, 126), (120, 0.0, 0.002, 365, 30)]
CASE = ("length", "drift", "noise", "per_year", "window")


def daily(length: int, drift: float, noise: float) -> pd.Series:
    """Returns by day, from 2024-01-01 on."""
    returns = np.random.default_rng(length).normal(drift, noise, length)
    return pd.Series(returns, index=pd.date_range("2024-01-01", periods=length))


def days_of(series: pd.Series) -> Days:
    return Days(FIRST_DAY + np.arange(len(series)), series.to_numpy())


@pytest.mark.parametrize(CASE, CASES)
def test_rolling_sharpe(length: int, drift: float, noise: float, per_year: int, window: int) -> None:
    series = daily(length, drift, noise)
    ours = rolling_sharpe(days_of(series), window, per_year)
    by_empyrical = empyrical.roll_sharpe_ratio(series, window=window, annualization=per_year)
    by_quantstats = qs.rolling_sharpe(series, rolling_period=window, periods_per_year=per_year, prepare_returns=False).dropna()
    assert ours.value == pytest.approx(by_empyrical.to_numpy(), rel=1e-9)
    assert ours.value == pytest.approx(by_quantstats.to_numpy(), rel=1e-9)
    assert ours.day[0] == FIRST_DAY + window - 1


@pytest.mark.parametrize(CASE, CASES)
@pytest.mark.parametrize("interval", [DAY_MS, HOUR_MS])
def test_monthly_returns(length: int, drift: float, noise: float, per_year: int, window: int, interval: int) -> None:
    bars = DAY_MS // interval
    returns = np.random.default_rng(length).normal(drift / bars, noise / bars**0.5, length * bars)
    metrics = metrics_of(100 * np.cumprod(1 + returns), interval=interval)
    stamps = START + np.arange(length * bars) * interval  # the bars' beginnings: what closes at midnight is of the day before
    series = pd.Series(returns, index=pd.to_datetime(stamps, unit="ms"))
    theirs = empyrical.aggregate_returns(series, "monthly")
    assert list(metrics.months) == [f"{year}-{month:02}" for year, month in theirs.index]
    assert [month.total_return for month in metrics.months.values()] == pytest.approx(theirs.tolist(), rel=1e-9)
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
    groups = break_down(years, DailyResult(days.day, days.value, nothing, nothing), [], per_year)
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
    assert found.volatility == pytest.approx(empyrical.annual_volatility(series, annualization=per_year), rel=1e-9)
    assert found.max_drawdown == pytest.approx(empyrical.max_drawdown(series), rel=1e-9)
    assert found.total_return == pytest.approx(empyrical.cum_returns_final(series), rel=1e-9)
    if per_year == 365:  # of shares, empyrical counts sessions as a year's parts, and we count calendar time
        assert found.cagr == pytest.approx(empyrical.cagr(series, annualization=per_year), rel=1e-9)
