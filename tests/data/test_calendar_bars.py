"""Bars of calendar months, and of days in a zone with daylight saving time."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import quantstats.stats as qs

from agent.analysis.report.report_loader import load_report_data
from agent.config import Config
from agent.core.engine import Engine
from agent.core.errors import DataError
from agent.core.events import (
    DAY_MS,
    HOUR_MS,
    Fill,
    Funding,
    FundingPayment,
    Gap,
    Kline,
    News,
    Order,
    RiskEvent,
)
from agent.core.sinks import ListSink
from agent.data.klines import KlineFile
from agent.data.merge import merge
from agent.replay.history import History
from agent.replay.history import Plan as Window
from agent.store.database import open_database
from agent.system.clock import iso
from tests.cli.conftest import Outcome
from tests.cli.conftest import tapewire as tapewire
from tests.support.market import SYMBOL, Plan, config

MONTH, QUARTER = 31 * DAY_MS, 92 * DAY_MS
Tapewire = Callable[..., Outcome]


def written(
    folder: Path, times: Sequence[object], prices: Sequence[float] = (), name: str = "BTCUSDT.csv"
) -> Path:
    """Write a file of flat bars."""
    path = folder / name
    rows = [
        f"{time},{p},{p},{p},{p},1e9" for time, p in zip(times, prices or [100] * len(times), strict=True)
    ]
    path.write_text("open_time,open,high,low,close,volume\n" + "\n".join(rows) + "\n")
    return path


def short(moment: int) -> str:
    return iso(moment)[:16].removesuffix("T00:00")


def spans(file: KlineFile) -> list[str]:
    """Format open time and availability of each bar; of a gap its start, end and availability."""
    return [
        f"gap {short(event.start)} {short(event.end)} {short(event.available_at)}"
        if isinstance(event, Gap)
        else f"{short(event.start)} {short(event.available_at)}"
        for event in file
    ]


def ms(*date: int) -> int:
    return int(datetime(*date, tzinfo=UTC).timestamp()) * 1_000  # type: ignore[misc, arg-type]


# times in the file, arguments of `KlineFile`, its interval, open and close time of each bar
FILES: list[tuple[list[object], dict[str, Any], int, list[str]]] = [
    (  # data.binance.vision and Bybit, interval M: 29, 31 and 30 days
        [ms(2024, 2, 1), ms(2024, 3, 1), ms(2024, 4, 1)],
        {},
        MONTH,
        ["2024-02-01 2024-03-01", "2024-03-01 2024-04-01", "2024-04-01 2024-05-01"],
    ),
    (  # newest first, and a month is missing
        [ms(2024, 4, 1), ms(2024, 2, 1), ms(2024, 1, 1)],
        {},
        MONTH,
        [
            "2024-01-01 2024-02-01",
            "2024-02-01 2024-03-01",
            "gap 2024-03-01 2024-04-01 2024-05-01",
            "2024-04-01 2024-05-01",
        ],
    ),
    (  # OKX 1M begins at midnight in Hong Kong
        [ms(2023, 12, 31, 16), ms(2024, 1, 31, 16), ms(2024, 2, 29, 16)],
        {},
        MONTH,
        [
            "2023-12-31T16:00 2024-01-31T16:00",
            "2024-01-31T16:00 2024-02-29T16:00",
            "2024-02-29T16:00 2024-03-31T16:00",
        ],
    ),
    # yfinance 1mo: midnight in New York, UTC-5 in March, UTC-4 in April; the last bar may end at either
    (
        ["2024-02-01 00:00:00-05:00", "2024-03-01 00:00:00-05:00", "2024-04-01 00:00:00-04:00"],
        {"around_the_clock": False},
        MONTH,
        [
            "2024-02-01T05:00 2024-03-01T05:00",
            "2024-03-01T05:00 2024-04-01T04:00",
            "2024-04-01T04:00 2024-05-01T05:00",
        ],
    ),
    (  # the same as dates with a stated zone
        ["2024-02-01", "2024-03-01", "2024-04-01"],
        {"around_the_clock": False, "timezone": "America/New_York"},
        MONTH,
        [
            "2024-02-01T05:00 2024-03-01T05:00",
            "2024-03-01T05:00 2024-04-01T04:00",
            "2024-04-01T04:00 2024-05-01T04:00",
        ],
    ),
    (  # Stooq and Alpha Vantage: the month's last day, or last session (Good Friday was March 29)
        ["2024-01-31", "2024-02-29", "2024-03-28"],
        {"around_the_clock": False, "timezone": "UTC"},
        MONTH,
        ["2024-01-01 2024-02-01", "2024-02-01 2024-03-01", "2024-03-01 2024-04-01"],
    ),
    (  # TradingView 1M of shares: the first session's opening bell
        ["2024-01-02T14:30:00Z", "2024-02-01T14:30:00Z", "2024-03-01T14:30:00Z"],
        {"around_the_clock": False},
        MONTH,
        [
            "2024-01-02T14:30 2024-02-01T14:30",
            "2024-02-01T14:30 2024-03-01T14:30",
            "2024-03-01T14:30 2024-04-01T14:30",
        ],
    ),
    (  # quarters of 91, 91 and 92 days
        ["2024-01-01", "2024-04-01", "2024-07-01"],
        {"timezone": "UTC"},
        QUARTER,
        ["2024-01-01 2024-04-01", "2024-04-01 2024-07-01", "2024-07-01 2024-10-01"],
    ),
    (  # quarters by their last day
        ["2024-03-31", "2024-06-30", "2024-09-30"],
        {"timezone": "UTC"},
        QUARTER,
        ["2024-01-01 2024-04-01", "2024-04-01 2024-07-01", "2024-07-01 2024-10-01"],
    ),
    (  # years of 366, 365 and 365 days
        ["2024-01-01", "2025-01-01", "2026-01-01"],
        {"timezone": "UTC"},
        366 * DAY_MS,
        ["2024-01-01 2025-01-01", "2025-01-01 2026-01-01", "2026-01-01 2027-01-01"],
    ),
    (  # days in Berlin: the last of March 2024 has 23 hours
        ["2024-03-30", "2024-03-31", "2024-04-01", "2024-04-02"],
        {"timezone": "Europe/Berlin"},
        DAY_MS,
        [
            "2024-03-29T23:00 2024-03-30T23:00",
            "2024-03-30T23:00 2024-03-31T22:00",
            "2024-03-31T22:00 2024-04-01T22:00",
            "2024-04-01T22:00 2024-04-02T22:00",
        ],
    ),
    (  # weeks in New York, one of which has 169 hours; another is missing
        [
            f"2024-{day}:00"
            for day in ("10-21T00:00-04", "10-28T00:00-04", "11-04T00:00-05", "11-18T00:00-05")
        ],
        {},
        7 * DAY_MS,
        [
            "2024-10-21T04:00 2024-10-28T04:00",
            "2024-10-28T04:00 2024-11-04T05:00",
            "2024-11-04T05:00 2024-11-11T05:00",
            "gap 2024-11-11T05:00 2024-11-18T05:00 2024-11-25T05:00",
            "2024-11-18T05:00 2024-11-25T05:00",
        ],
    ),
    (  # weeks of shares: 167 hours once
        [
            f"2024-{day}:00"
            for day in ("02-26T00:00-05", "03-04T00:00-05", "03-11T00:00-04", "03-18T00:00-04")
        ],
        {"around_the_clock": False},
        7 * DAY_MS,
        [
            "2024-02-26T05:00 2024-03-04T05:00",
            "2024-03-04T05:00 2024-03-11T04:00",
            "2024-03-11T04:00 2024-03-18T04:00",
            "2024-03-18T04:00 2024-03-25T05:00",
        ],
    ),
]


@pytest.mark.parametrize(("times", "given", "interval", "expected"), FILES)
def test_a_calendar_bar_is_available_when_the_next_opens(
    tmp_path: Path, times: list[object], given: dict[str, Any], interval: int, expected: list[str]
) -> None:
    file = KlineFile(written(tmp_path, times), **given)
    assert file.interval == interval
    assert spans(file) == expected
    assert short(file.stats.end) == expected[-1].split()[-1]
    assert file.closes()[0][-1] == file.stats.end


@pytest.mark.parametrize(("times", "given", "interval", "expected"), FILES)
def test_a_window_of_calendar_bars_is_a_slice_of_all(
    tmp_path: Path, times: list[object], given: dict[str, Any], interval: int, expected: list[str]
) -> None:
    path = written(tmp_path, times)
    second = [event for event in KlineFile(path, **given) if isinstance(event, Kline)][1].start
    assert spans(KlineFile(path, start=second, **given)) == expected[1:]
    assert spans(KlineFile(path, start=second, warmup_bars=1, **given)) == expected


def test_bars_dated_by_their_last_day_are_noted(tmp_path: Path) -> None:
    file = KlineFile(written(tmp_path, ["2024-01-31", "2024-02-29", "2024-03-31"]), timezone="UTC")
    assert file.notes == ["BTCUSDT.csv: its dates are the last days of its bars, which are calendar months"]


def test_a_repeated_month_is_dropped_if_identical_and_refused_otherwise(tmp_path: Path) -> None:
    times = [ms(2024, 1, 1), ms(2024, 2, 1), ms(2024, 2, 1), ms(2024, 3, 1)]
    file = KlineFile(written(tmp_path, times))
    assert spans(file) == ["2024-01-01 2024-02-01", "2024-02-01 2024-03-01", "2024-03-01 2024-04-01"]
    assert file.stats.duplicates == 1
    with pytest.raises(DataError, match="row 3 is a second bar of 2024-02-01"):
        list(KlineFile(written(tmp_path, times, [1, 2, 3, 4])))


@pytest.mark.parametrize(
    "times",
    [
        [ms(2024, 1, 1), ms(2024, 2, 1), ms(2024, 2, 15), ms(2024, 3, 1), ms(2024, 4, 1)],  # a half month
        # an hour off and back
        [ms(2024, 3, 1), ms(2024, 3, 2), ms(2024, 3, 2, 23), ms(2024, 3, 4), ms(2024, 3, 5)],
    ],
)
def test_times_that_follow_no_calendar_are_mixed_intervals(tmp_path: Path, times: list[object]) -> None:
    with pytest.raises(DataError, match="mixed intervals"):
        list(KlineFile(written(tmp_path, times)))


def test_bars_of_four_weeks_are_not_months(tmp_path: Path) -> None:
    times = [ms(2024, 1, 1) + n * 28 * DAY_MS for n in range(4)]
    assert KlineFile(written(tmp_path, times)).interval == 28 * DAY_MS


def test_the_files_of_a_run_must_have_one_interval(tmp_path: Path) -> None:
    """Files of months have one interval, regardless of their lengths and zones; quarters have another."""
    months = written(tmp_path, [ms(2024, month, 1) for month in (1, 2, 3, 4)])
    okx = written(tmp_path, [ms(2024, 3, 31, 16), ms(2024, 4, 30, 16)], name="ETHUSDT.csv")
    quarters = written(tmp_path, [ms(2024, month, 1) for month in (1, 4, 7)], name="SOLUSDT.csv")
    history = History(Window(((months, None), (okx, None))), config())
    assert (history.config.market.interval, history.config.market.calendar_bars) == (MONTH, True)
    assert history.end == ms(2024, 5, 31, 16)
    with pytest.raises(DataError, match=r"bars of 3 months.*of 1 month"):
        History(Window(((months, None), (quarters, None))), config())


# -- replayed ------------------------------------------------------------------------------------------------


def months(count: int, size: int = 1, year: int = 2019) -> list[object]:
    return [ms(year + n * size // 12, n * size % 12 + 1, 1) for n in range(count)]


def replayed(path: Path, plan: dict[int, dict[str, Any]], *events: Any, zone: str | None = None) -> ListSink:
    """Replay a file's bars and other events through the engine; `plan` maps bar numbers to targets."""
    history = History(Window(((path, None),), timezone=zone), config())
    sink = ListSink()
    engine = Engine(history.config, Plan(plan), sink, run_id="r")
    for event in merge([*history.klines, list(events)]):
        engine.handle(event)
    engine.finish()
    return sink


def hourly(first: int, last: int) -> list[Funding]:
    return [Funding(SYMBOL, ts, ts, 0.001) for ts in range(first, last + 1, HOUR_MS)]


def test_an_order_of_a_months_close_is_filled_as_the_next_month_opens(tmp_path: Path) -> None:
    # decided at January's close, 100; bought at February's open, 110
    sink = replayed(written(tmp_path, months(4), [100, 110, 120, 130]), {0: {"weight": 0.5}})
    fill = next(decision for decision in sink.decisions if isinstance(decision, Fill))
    assert (short(fill.ts), float(fill.price)) == ("2019-02-01", 110.0)
    assert [short(sample.ts) for sample in sink.samples] == [
        "2019-02-01",
        "2019-03-01",
        "2019-04-01",
        "2019-05-01",
    ]


def test_funding_within_a_month_applies_to_the_position_held(tmp_path: Path) -> None:
    # 50 * 100 held from February 1 on: 28 days of 3 stamps, the last at March 1, 00:00, each costing 5. As
    # March opens, the position is closed, so there are no further payments.
    stamps = [Funding(SYMBOL, ts, ts, 0.001) for ts in range(ms(2019, 1, 1), ms(2019, 4, 1), 8 * HOUR_MS)]
    sink = replayed(written(tmp_path, months(3)), {0: {"weight": 0.5}, 1: {"weight": 0.0}}, *stamps)
    paid = [decision for decision in sink.decisions if isinstance(decision, FundingPayment)]
    assert [short(payment.ts) for payment in (paid[0], paid[-1])] == ["2019-02-01T08:00", "2019-03-01"]
    assert [float(payment.amount) for payment in paid] == [-5.0] * 84


def test_funding_in_every_hour_of_a_25_hour_day_applies_to_the_position_held(tmp_path: Path) -> None:
    # bought as November 3 opens (04:00 UTC): 24 stamps in it, 05:00 to 04:00, and one at its close, 05:00
    days = [f"2024-11-{day:02}" for day in (1, 2, 3, 4)]
    stamps = hourly(ms(2024, 11, 1, 4), ms(2024, 11, 4, 5))
    sink = replayed(written(tmp_path, days), {1: {"weight": 0.5}}, *stamps, zone="America/New_York")
    paid = [short(decision.ts) for decision in sink.decisions if isinstance(decision, FundingPayment)]
    assert paid == [short(ms(2024, 11, 3, 5) + n * HOUR_MS) for n in range(25)]


@pytest.mark.parametrize(
    ("times", "zone", "hours"),
    [
        (months(3), None, [ms(2019, 2, 28, 23), ms(2019, 3, 31, 23)]),  # months of 28 and 31 days
        # 25 hours
        ([f"2024-11-{day:02}" for day in (1, 2, 3, 4)], "America/New_York", [ms(2024, 11, 4, 4) + 1_000]),
    ],
)
def test_nothing_is_stale_before_the_bar_is_due(
    tmp_path: Path, times: list[object], zone: str | None, hours: list[int]
) -> None:
    class Buyer(Plan):
        def on_news(self, news: News, market: Any) -> None:
            self.target(SYMBOL, weight=0.1 if market.position(SYMBOL) <= 0 else 0.2)

    history = History(
        Window(((written(tmp_path, times), None),), timezone=zone), config(risk={"stale_after": "1m"})
    )
    sink = ListSink()
    engine = Engine(history.config, Buyer({}), sink, run_id="r")
    news = [News(str(at), at, at, "news") for at in hours]
    for event in merge([*history.klines, news]):
        engine.handle(event)
    assert [order.ts for order in sink.decisions if isinstance(order, Order)] == hours
    assert not [event for event in sink.decisions if isinstance(event, RiskEvent)]


# -- a whole run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "per_year"), [(1, 12), (3, 4)])
@pytest.mark.parametrize("category", ["linear", "equity"])
def test_metrics_of_months_and_quarters_equal_those_of_quantstats(
    tapewire: Tapewire, tmp_path: Path, size: int, per_year: int, category: str
) -> None:
    """98 % are bought at the first month's close (fill = "close"); then equity follows the closes."""
    count = 60
    closes = (100 * np.cumprod(1 + np.random.default_rng(size).normal(0.01, 0.06, count))).round(2)
    written(tmp_path, months(count, size), closes.tolist())
    Path("c.toml").write_text(
        f'[market]\ncategory = "{category}"\n[account]\ninitial_capital = 1000000000\n'
        "[risk]\nmax_daily_loss = 1\nmax_drawdown = 1\nmax_leverage = 10\nmax_position = 10\nmax_order = 10\n"
        '[paper]\nfill = "close"\nlatency = 0\nhalf_spread_bps = 0\nslippage = "none"\n'
        'liquidity = "infinite"\nfees = "none"\n'
        'funding_rate = 0\n[instruments.BTCUSDT]\ntick_size = "0.01"\n'
    )
    done = tapewire(
        "backtest", "-c", "c.toml", "--strategy", "buy_and_hold", "--klines", "BTCUSDT.csv", "--json"
    )
    assert done.code == 0, done.err
    result = json.loads(done.out)
    metrics = result["metrics"]
    with closing(open_database(Config().store.url, create=False)) as database:
        data = load_report_data(database)
    equity = np.array(data.equity.values)
    returns = pd.Series(np.diff(equity) / equity[:-1])
    assert len(returns) == count
    assert equity[1:] == pytest.approx(1e9 * (1 + 0.98 * (closes / closes[0] - 1)), rel=1e-6)
    assert metrics["periods_per_year"] == per_year
    own = metrics["performance"]
    assert own["sharpe"] == pytest.approx(qs.sharpe(returns, periods=per_year), rel=1e-9)
    assert own["sortino"] == pytest.approx(qs.sortino(returns, periods=per_year), rel=1e-9)
    assert own["volatility"] == pytest.approx(
        qs.volatility(returns, periods=per_year, prepare_returns=False), rel=1e-9
    )
    # from the first bar's open to the last one's close
    years = (metrics["end"] - metrics["start"]) / (365 * DAY_MS)
    assert (short(metrics["start"]), short(metrics["end"])) == (
        "2019-01-01",
        short(months(count + 1, size)[-1]),
    )
    assert own["cagr"] == pytest.approx((equity[-1] / equity[0]) ** (1 / years) - 1, rel=1e-9)

    evidence = data.evidence
    assert evidence.significance.probabilistic_sharpe == pytest.approx(
        float(qs.probabilistic_sharpe_ratio(returns, periods=1)), abs=1e-3
    )
    rolling = qs.rolling_sharpe(
        returns, rolling_period=30, periods_per_year=per_year, prepare_returns=False
    ).dropna()
    assert evidence.rolling is not None
    assert evidence.rolling.window == 30
    assert evidence.rolling.own.values == pytest.approx(rolling.tolist(), rel=1e-9)
    regimes = evidence.regimes[""]
    assert sum(group.periods for group in regimes.values()) == count
    # 30 returns and the close before them precede the first classified period
    assert regimes["unknown"].periods == 31

    verified = tapewire("verify")
    assert (verified.code, "identical" in verified.out) == (0, True), verified.err
