"""Histories of bars: what is folded, what a strategy sees after a gap, and that it sees nothing later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from math import isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.bar_history import KEPT, Bar, Bars
from agent.core.engine import Engine
from agent.core.errors import ConfigError, StrategyError
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS, Command, Event, Gap, Kline
from agent.core.intervals import MONTH, WEEK_MS, parse_interval, period_end, period_start, periods_before
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from agent.replay.engine_state import capture, restore
from tests.support.market import SYMBOL, T0, bar, config, flat_bars, run

CLOSES = [100.0 + n * 7 % 13 for n in range(200)]


class Recorder(Strategy):
    """Notes each bar that it is called for."""

    intervals: Sequence[str] = ("1m", "5m", "15m")

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[Bar] = []
        self.seen_at: list[int] = []

    def on_bar(self, bar: Bar, market: Market) -> None:
        self.bars.append(bar)
        self.seen_at.append(market.now)

    def of(self, interval: str) -> list[Bar]:
        return [one for one in self.bars if one.interval == interval]


def utc(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def hourly(text: str, count: int) -> list[Kline]:
    """Return bars of an hour, each with volume 1, whose close is their number."""
    starts = (utc(text) + n * HOUR_MS for n in range(count))
    return [
        Kline(SYMBOL, HOUR_MS, start, start + HOUR_MS, start + HOUR_MS, n, n + 0.5, n - 0.5, n, 1.0)
        for n, start in enumerate(starts, 1)
    ]


@pytest.mark.parametrize(
    ("interval", "moment", "start", "end"),
    [
        ("15m", "2025-03-05T10:44:59", "2025-03-05T10:30:00", "2025-03-05T10:45:00"),
        ("4h", "2025-03-05T11:59:00", "2025-03-05T08:00:00", "2025-03-05T12:00:00"),
        ("1d", "2025-03-05T23:59:00", "2025-03-05T00:00:00", "2025-03-06T00:00:00"),
        ("1w", "2025-03-09T23:59:00", "2025-03-03T00:00:00", "2025-03-10T00:00:00"),
        ("1w", "2025-03-10T00:00:00", "2025-03-10T00:00:00", "2025-03-17T00:00:00"),
        ("1M", "2024-02-29T12:00:00", "2024-02-01T00:00:00", "2024-03-01T00:00:00"),
        ("1M", "2024-12-01T00:00:00", "2024-12-01T00:00:00", "2025-01-01T00:00:00"),
    ],
)
def test_periods_are_aligned_as_at_bybit(interval: str, moment: str, start: str, end: str) -> None:
    ms = parse_interval(interval)
    assert period_start(utc(moment), ms) == utc(start)
    assert period_end(utc(start), ms) == utc(end)


def test_periods_before_a_moment_are_whole_ones() -> None:
    assert periods_before(utc("2025-03-05T10:44:00"), HOUR_MS, 2) == utc("2025-03-05T08:00:00")
    assert periods_before(utc("2025-03-05T10:00:00"), HOUR_MS, 2) == utc("2025-03-05T08:00:00")
    assert periods_before(utc("2025-03-05T10:00:00"), WEEK_MS, 1) == utc("2025-02-24T00:00:00")
    assert periods_before(utc("2025-01-15T00:00:00"), MONTH, 2) == utc("2024-11-01T00:00:00")


@pytest.mark.parametrize("text", ["7m", "2d", "0m", "1y", "hour", "-1h", "1.5h", ""])
def test_other_intervals_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="1w, 1M"):
        parse_interval(text)


def test_a_higher_bar_closes_with_the_bar_that_ends_it_the_shortest_interval_first() -> None:
    strategy = Recorder()
    run(strategy, flat_bars([10.0, 12.0, 9.0, 11.0, 10.5, 13.0]))
    assert [one.interval for one in strategy.bars] == ["1m"] * 5 + ["5m", "1m"]
    assert strategy.of("5m") == [Bar(SYMBOL, "5m", T0, T0 + 5 * MINUTE_MS, 10, 12, 9, 10.5, 5_000, 0)]
    assert strategy.seen_at[4] == strategy.seen_at[5] == T0 + 5 * MINUTE_MS


def test_the_columns_have_the_last_closed_bars_oldest_first() -> None:
    columns: dict[str, Bars] = {}

    class Reader(Recorder):
        def on_kline(self, kline: Kline, market: Market) -> None:
            columns.update({name: market.bars(SYMBOL, name, 3) for name in ("1m", "5m")})

    run(Reader(), flat_bars(CLOSES[:14]))
    minutes, fives = columns["1m"], columns["5m"]
    assert minutes.close.tolist() == CLOSES[11:14]
    assert minutes.start.tolist() == [T0 + n * MINUTE_MS for n in (11, 12, 13)]
    assert len(fives) == 2
    assert fives.close.tolist() == [CLOSES[4], CLOSES[9]]
    assert fives.open.tolist() == [CLOSES[0], CLOSES[4]]
    assert fives.high.tolist() == [max(CLOSES[:5]), max(CLOSES[4:10])]
    assert fives.low.tolist() == [min(CLOSES[:5]), min(CLOSES[4:10])]
    assert fives.volume.tolist() == [5_000, 5_000]


@pytest.mark.parametrize(
    ("interval", "first", "ends"),
    [
        ("4h", "2025-03-05T00:00:00", [4, 8, 12, 16]),
        ("1d", "2025-03-05T00:00:00", [24, 48]),
        ("1w", "2025-03-08T00:00:00", [48 + 168]),  # a Saturday, in a week whose beginning is unknown
        ("1M", "2025-03-31T00:00:00", [24 + 720]),
    ],
)
def test_days_weeks_and_months_are_folded_from_hours(interval: str, first: str, ends: list[int]) -> None:
    class Of(Recorder):
        intervals = (interval,)

    strategy = Of()
    run(strategy, hourly(first, ends[-1]), config(market={"interval": "1h"}))
    assert [one.close for one in strategy.bars] == ends
    assert [one.missing for one in strategy.bars] == [0] * len(ends)
    assert [one.volume for one in strategy.bars] == [(one.ts - one.start) / HOUR_MS for one in strategy.bars]


def test_the_period_in_which_the_history_begins_is_left_out_unless_it_is_read_from_its_beginning() -> None:
    strategy = Recorder()
    run(strategy, [bar(minute, 1, 1, 1, 1) for minute in range(3, 20)])
    assert [one.start for one in strategy.of("5m")] == [
        T0 + 5 * MINUTE_MS,
        T0 + 10 * MINUTE_MS,
        T0 + 15 * MINUTE_MS,
    ]
    assert strategy.of("15m") == []


GAPS = {
    "in the middle": ([0, 1, 3, 4, 5], [(0, 1)]),
    "at the beginning": ([0, 1, 2, 3, 4, 6, 7, 8, 9, 10], [(0, 0), (5, 1)]),
    "at the end": ([0, 1, 2, 5, 6], [(0, 2)]),
    "over a whole bar": ([0, 1, 2, 3, 4, 10, 11, 12, 13, 14], [(0, 0), (10, 0)]),
}


@pytest.mark.parametrize("announced", [False, True])
@pytest.mark.parametrize("case", GAPS)
def test_a_higher_bar_with_missing_bars_says_how_many_and_is_counted(case: str, announced: bool) -> None:
    minutes, expected = GAPS[case]
    events: list[Event] = []
    for before, minute in zip([minutes[0] - 1, *minutes], minutes, strict=False):
        if announced and minute > before + 1:
            missing = T0 + (before + 1) * MINUTE_MS, T0 + minute * MINUTE_MS
            events.append(Gap(SYMBOL, MINUTE_MS, *missing, T0 + (minute + 1) * MINUTE_MS))
        events.append(bar(minute, 1, 1, 1, 1))
    strategy = Recorder()
    engine, _ = run(strategy, events)
    assert [((one.start - T0) // MINUTE_MS, one.missing) for one in strategy.of("5m")] == expected
    assert engine.counts["bars of 5m with missing bars"] == sum(missing > 0 for _, missing in expected)


def test_in_a_market_that_closes_absent_bars_are_no_gaps() -> None:
    class Daily(Recorder):
        intervals = ("1d",)

    start = utc("2025-03-05T14:30:00")
    sessions = [
        Kline(SYMBOL, HOUR_MS, at, at + HOUR_MS, at + HOUR_MS, 1, 1, 1, 1, 1)
        for day in range(3)
        for at in range(start + day * DAY_MS, start + day * DAY_MS + 6 * HOUR_MS, HOUR_MS)
    ]
    strategy = Daily()
    engine, _ = run(strategy, sessions, config(market={"interval": "1h", "category": "equity"}))
    (second,) = strategy.bars  # the first day's beginning wasn't read, the third isn't over
    assert second.volume == 6
    assert isnan(second.missing)
    assert strategy.seen_at == [sessions[12].available_at]  # with the next session's first bar
    assert not engine.counts


def test_a_strategy_that_declares_nothing_has_no_history() -> None:
    class Plain(Strategy):
        def on_kline(self, kline: Kline, market: Market) -> None:
            with pytest.raises(StrategyError, match="declares no intervals"):
                market.bars(SYMBOL, "1m", 1)

    engine, _ = run(Plain(), flat_bars(CLOSES[:3]))
    assert engine.states[SYMBOL].history is None


def test_a_strategy_that_only_overrides_on_bar_gets_the_runs_bars() -> None:
    class Bare(Recorder):
        intervals = ()

    strategy = Bare()
    run(strategy, hourly("2025-03-05T00:00:00", 3), config(market={"interval": "1h"}))
    assert [(one.interval, one.close) for one in strategy.bars] == [("1h", 1), ("1h", 2), ("1h", 3)]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"intervals": ("30s",)}, "declares bars of 30s, which can't be made from the run's, of 1m"),
        ({"intervals": ("7m",)}, "bars of 7m don't fill a day evenly"),
        ({"intervals": "1h"}, r'a text, not a tuple of texts \(write intervals = \("1h",\)\)'),
        ({"warm_up": {"1x": 3}}, "'1x' is not an interval"),
        ({"warm_up": {"1h": "200"}}, "warm_up of 1h is '200'"),
        ({"warm_up": {"1h": -1}}, "warm_up of 1h is -1"),
        ({"warm_up": 200}, "warm_up=200 is not bars by interval"),
    ],
)
def test_a_wrong_declaration_is_refused_when_the_strategy_is_loaded(
    declared: dict[str, object], message: str
) -> None:
    strategy = type("Wrong", (Strategy,), declared)()
    with pytest.raises(ConfigError, match=f"^strategy Wrong.*{message}"):
        Engine(config(), strategy, ListSink(), run_id="test")


def test_bars_of_an_undeclared_interval_are_refused_with_the_line_to_write() -> None:
    class Asks(Recorder):
        def on_bar(self, bar: Bar, market: Market) -> None:
            market.bars(SYMBOL, "1h", 1)

    with pytest.raises(StrategyError, match=r"intervals = \('1m', '5m', '15m', '1h'\)"):
        run(Asks(), flat_bars(CLOSES[:3]))


@pytest.mark.parametrize("n", [0, -1, 1_000_000])
def test_a_wrong_number_of_bars_is_refused(n: int) -> None:
    engine, _ = run(Recorder(), flat_bars(CLOSES[:3]))
    with pytest.raises(ValueError, match="ask for 1 to 100,000"):
        engine.market.bars(SYMBOL, "1m", n)


def test_an_interval_can_be_written_in_several_ways() -> None:
    class Hours(Recorder):
        intervals = ("60m",)

    engine, _ = run(Hours(), flat_bars(CLOSES[:120]))
    assert engine.market.bars(SYMBOL, "1h", 5).close.tolist() == [CLOSES[59], CLOSES[119]]


def test_columns_are_read_only_and_later_bars_do_not_change_them() -> None:
    kept: list[tuple[Bars, list[float]]] = []

    class Keeper(Recorder):
        intervals = ("1m",)

        def on_bar(self, bar: Bar, market: Market) -> None:
            bars = market.bars(SYMBOL, "1m", 50)
            kept.append((bars, bars.close.tolist()))

    engine, _ = run(Keeper(), flat_bars([float(n) for n in range(1, 4 * KEPT)]))
    assert all(bars.close.tolist() == closes for bars, closes in kept)
    bars = engine.market.bars(SYMBOL, "1m", 3)
    assert bars.close.flags.c_contiguous
    assert bars.close.dtype == np.float64
    for column in (bars.open, bars.high, bars.low, bars.close, bars.volume, bars.start, bars.missing):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_the_history_is_bounded_and_grows_on_request() -> None:
    class Wants(Recorder):
        intervals = ("1m",)
        wanted = 10
        got = 0

        def on_bar(self, bar: Bar, market: Market) -> None:
            self.got = len(market.bars(SYMBOL, "1m", self.wanted))

    strategy = Wants()
    closes = [1.0] * 10 * KEPT
    engine = Engine(config(), strategy, ListSink(), run_id="test")
    bars = flat_bars(closes)
    for one in bars[: 5 * KEPT]:
        engine.handle(one)
    strategy.wanted = 3 * KEPT
    engine.handle(bars[5 * KEPT])
    assert KEPT <= strategy.got < 2 * KEPT
    assert engine.counts["requests for more bars of 1m than were kept"] == 1
    for one in bars[5 * KEPT + 1 :]:
        engine.handle(one)
    assert strategy.got == 3 * KEPT


def test_the_venues_higher_bars_fill_the_history_and_folding_continues_them() -> None:
    """As a live warm-up: hours until 02:00 from the venue, then minutes from the beginning of the day."""

    class Both(Recorder):
        intervals = ("1h", "1d")

    day = utc("2025-03-05T00:00:00")
    hours = [
        Kline(SYMBOL, HOUR_MS, at, at + HOUR_MS, day + 2 * HOUR_MS, 5, 5, 5, 5, 5)
        for at in range(day - 3 * HOUR_MS, day + 2 * HOUR_MS, HOUR_MS)
    ]
    minutes = [
        Kline(SYMBOL, MINUTE_MS, at, at + MINUTE_MS, max(at + MINUTE_MS, day + 2 * HOUR_MS), 1, 1, 1, 1, 1)
        for at in range(day, day + DAY_MS, MINUTE_MS)
    ]
    strategy = Both()
    engine, _ = run(strategy, [*hours, *minutes, hours[-1]])
    found = engine.market.bars(SYMBOL, "1h", 100)
    assert found.start.tolist() == [day + n * HOUR_MS for n in range(-3, 24)]
    assert found.close.tolist() == [5] * 5 + [1] * 22
    assert [one.start for one in strategy.of("1h")] == [day + n * HOUR_MS for n in range(2, 24)]
    assert [(one.volume, one.missing) for one in strategy.of("1d")] == [(1440, 0)]
    assert engine.counts["klines of other intervals"] == 1  # the repeated one


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=80), st.data())
def test_bars_seen_at_a_time_do_not_depend_on_later_events(closes: list[float], data: st.DataObject) -> None:
    seen: list[list[list[float]]] = []

    class Watches(Recorder):
        def on_kline(self, kline: Kline, market: Market) -> None:
            seen.append([market.bars(SYMBOL, name, 7).close.tolist() for name in self.intervals])

    events: list[Event] = [one for one in flat_bars(closes) if data.draw(st.integers(0, 9))]
    run(Watches(), events)
    whole = list(seen)
    seen.clear()
    run(Watches(), events[: data.draw(st.integers(0, len(events)))])
    assert seen == whole[: len(seen)]


def test_a_restored_history_continues_like_the_original() -> None:
    bars = flat_bars([100.0 + n % 17 for n in range(3_000)])
    for cut in (1, 7, 1_249, 1_250, 1_251, 2_999):
        whole, _ = run(Recorder(), bars[:cut], finish=False)
        again = Engine(config(), Recorder(), ListSink(), run_id="test")
        restore(again, capture(whole))
        for one in bars[cut:]:
            whole.handle(one)
            again.handle(one)
        assert capture(again) == capture(whole)
        for name in Recorder.intervals:
            both = [engine.market.bars(SYMBOL, name, 400) for engine in (whole, again)]
            assert both[0].close.tolist() == both[1].close.tolist()
            assert not both[1].close.flags.writeable


def test_a_strategy_that_fails_on_a_bar_is_contained() -> None:
    class Fails(Recorder):
        def on_bar(self, bar: Bar, market: Market) -> None:
            raise RuntimeError("no")

    engine = Engine(config(), Fails(), ListSink(), run_id="test", contain_errors=True)
    for event in [*flat_bars(CLOSES[:2]), Command("heartbeat", T0, T0 + 3 * MINUTE_MS)]:
        engine.handle(event)
    assert engine.guard is not None
    assert engine.guard.stopped
