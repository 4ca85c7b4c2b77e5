"""Another strategy decides after `use-strategy`; the account, its protection and the bars stay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.bar_history import Bar
from agent.core.engine import Engine
from agent.core.errors import StrategyError
from agent.core.events import (
    HOUR_MS,
    MINUTE_MS,
    Command,
    Event,
    Fill,
    Kline,
    Notice,
    Order,
    OrderStatus,
    OrderUpdate,
    PastBars,
    RiskEvent,
    RiskState,
    StrategyChange,
)
from agent.core.risk import SHORT_HISTORY, STRATEGY
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from agent.core.strategy_version import label_of
from agent.replay.engine_state import capture, restore, version_part
from tests.support.market import SYMBOL, T0, bar, config

CALM = (100.0, 101.0, 99.0, 100.0)


class Old(Strategy):
    """Buys with a stop, then places an entry far below the price."""

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bars += 1
        if self.bars == 1:
            self.target(SYMBOL, weight=0.5, stop=-0.05, reason="old")
        if self.bars == 3:
            self.target(SYMBOL, weight=0.8, limit=90.0, reason="old entry")

    def on_fill(self, fill: Fill, market: Market) -> None:
        self.notify(f"{type(self).__name__} is told of {fill.side.value} {fill.qty}")


class New(Old):
    """Counts its bars from its own start and sells half of what it finds at the second one."""

    def on_start(self, market: Market) -> None:
        self.notify(f"started with {float(market.position(SYMBOL)):g}")

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bars += 1
        if self.bars == 2:
            self.target(SYMBOL, weight=0.25, reason="new")


class Fails(Old):
    def on_kline(self, kline: Kline, market: Market) -> None:
        super().on_kline(kline, market)
        if self.bars == 4:
            raise ValueError("four")


class FailsAtTheStart(New):
    def on_start(self, market: Market) -> None:
        self.target(SYMBOL, weight=0.9)
        raise KeyError("start")


class Hourly(Strategy):
    """Notes the hours that it is given, and how many it finds at its start."""

    intervals: Any = ("1m", "1h")

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.hours: list[tuple[float, ...]] = []
        self.found: list[tuple[float, float, float, float, float]] = []

    def on_start(self, market: Market) -> None:
        hours = market.bars(SYMBOL, "1h", 10)
        columns = (hours.open, hours.high, hours.low, hours.close, hours.missing)
        self.found = list(zip(*(column.tolist() for column in columns), strict=True))

    def on_bar(self, bar: Bar, market: Market) -> None:
        if bar.interval == "1h":
            self.hours.append((bar.open, bar.high, bar.low, bar.close, bar.missing))


class Minutes(Strategy):
    intervals = ("1m",)


class Quarters(Hourly):
    intervals = ("60m", "15m")


KINDS: dict[str, type[Strategy]] = {
    kind.__name__: kind for kind in (Old, New, Fails, FailsAtTheStart, Hourly, Minutes, Quarters, Strategy)
}


def load(args: Mapping[str, str]) -> Strategy:
    name = args["strategy"]
    if name not in KINDS:
        raise StrategyError(f"no {name}")
    return KINDS[name]()


def engine(first: str = "Old", *, contain: bool = True) -> tuple[Engine, ListSink]:
    sink = ListSink()
    made = Engine(
        config(), KINDS[first](), sink, run_id="r", equity_block=1, contain_errors=contain, loader=load
    )
    made.handle(Command("life", T0, T0, {"incarnation": "a"}, "daemon"))
    return made, sink


def use(name: str, minute: int, **args: str) -> Command:
    now = T0 + minute * MINUTE_MS
    more = {"class": name, "sha256": "5e" * 32, "params": '{"fast": 5}', **args}
    return Command("use-strategy", now, now, {"strategy": name, **more}, "ann")


def feed(one: Engine, *events: Event) -> None:
    for event in events:
        one.handle(event)


def calm(first: int, last: int) -> list[Kline]:
    return [bar(number, *CALM) for number in range(first, last + 1)]


def of(kind: type, sink: ListSink) -> list[Any]:
    return [one for one in sink.decisions if isinstance(one, kind)]


def test_the_new_strategy_takes_over_a_position_with_its_stop_and_without_the_working_entry() -> None:
    one, sink = engine()
    old = one.strategy
    feed(one, *calm(0, 4), use("New", 5))

    [change] = of(StrategyChange, sink)
    assert change == StrategyChange(T0 + 5 * MINUTE_MS, "New", "New", "5e" * 32, '{"fast": 5}', False, "ann")
    assert [(u.status, u.reason) for u in of(OrderUpdate, sink) if u.status is OrderStatus.CANCELLED] == [
        (OrderStatus.CANCELLED, "strategy replaced")
    ]
    assert [working.order.reason for working in one.exchange.books[SYMBOL]] == ["stop"]
    assert float(one.portfolio.positions[SYMBOL].qty) == 50.0
    assert [notice.text for notice in of(Notice, sink)] == ["Old is told of BUY 50.000", "started with 50"]

    feed(one, *calm(5, 8))
    old.notify("I am still here")
    old.target(SYMBOL, weight=1.0)
    feed(one, *calm(9, 9))
    assert old.bars == 5  # type: ignore[attr-defined]
    assert [order.reason for order in of(Order, sink)] == ["old", "stop", "old entry", "new"]
    assert [notice.text for notice in of(Notice, sink)][2:] == ["New is told of SELL 25.000"]
    assert float(one.portfolio.positions[SYMBOL].qty) == 25.0


def test_with_flatten_the_position_is_closed_before_the_new_strategy_may_open_another() -> None:
    one, sink = engine()
    feed(one, *calm(0, 4), use("New", 5, flatten="true"))
    feed(one, *calm(5, 5))
    assert of(StrategyChange, sink)[0].flatten
    assert [order.reason for order in of(Order, sink)][-1] == "strategy replaced"
    assert float(one.portfolio.positions[SYMBOL].qty) == 0.0
    assert one.exchange.books[SYMBOL] == []
    feed(one, *calm(6, 8))
    assert float(one.portfolio.positions[SYMBOL].qty) == 25.0


def test_a_strategy_that_cannot_be_loaded_changes_nothing() -> None:
    one, sink = engine()
    feed(one, *calm(0, 4))
    before, decisions = one.strategy, len(sink.decisions)
    with pytest.raises(StrategyError, match="no Missing"):
        feed(one, use("Missing", 5))
    assert (one.strategy, len(sink.decisions), one.version) == (before, decisions, {})
    assert [working.order.reason for working in one.exchange.books[SYMBOL]] == ["stop", "old entry"]


def test_an_engine_without_a_loader_refuses_a_change() -> None:
    one = Engine(config(), Old(), ListSink(), run_id="r")
    with pytest.raises(StrategyError, match="can't be loaded here"):
        feed(one, use("New", 5))


def test_after_an_error_the_new_strategy_trades_once_an_operator_resumes() -> None:
    one, sink = engine("Fails")
    feed(one, *calm(0, 3))
    assert one.guard is not None
    error = Command("strategy-error", T0, T0 + 4 * MINUTE_MS, {"detail": one.guard.failure}, "daemon")
    feed(one, error, *calm(4, 4), use("New", 5), *calm(5, 8))
    assert one.risk.state is RiskState.HALTED
    assert [order.reason for order in of(Order, sink)] == [
        "old",
        "stop",
        "old entry",
        "new",
    ]  # it only reduces
    feed(one, use("Old", 9), *calm(9, 10))
    assert [r.rule for r in of(RiskEvent, sink)] == [STRATEGY, "state HALTED"]
    feed(one, Command("resume", T0, T0 + 11 * MINUTE_MS, {}, "ann"), *calm(11, 12))
    assert one.risk.state is RiskState.ACTIVE
    assert [order.reason for order in of(Order, sink)][4:] == ["old entry"]


def test_an_error_that_was_not_reported_before_the_change_halts_without_stopping_the_new_strategy() -> None:
    one, sink = engine("Fails")
    feed(one, *calm(0, 3), use("New", 4))
    assert one.guard is not None
    assert one.guard.failure.startswith("strategy Fails failed")
    feed(one, Command("strategy-error", T0, T0 + 4 * MINUTE_MS, {"detail": one.guard.failure}, "daemon"))
    assert (one.risk.state, one.risk.rule) == (RiskState.HALTED, STRATEGY)
    assert (one.guard.failure, one.guard.stopped) == ("", False)
    feed(one, *calm(4, 8))
    assert [order.reason for order in of(Order, sink)][-1] == "new"


def test_an_error_in_on_start_stops_the_new_strategy_and_sends_nothing() -> None:
    one, sink = engine()
    feed(one, *calm(0, 4), use("FailsAtTheStart", 5))
    assert one.guard is not None
    assert one.guard.stopped
    assert "KeyError: 'start'" in one.guard.failure
    feed(one, *calm(5, 9))
    assert [order.reason for order in of(Order, sink)] == ["old", "stop", "old entry"]


def waves(first: int, last: int) -> list[Kline]:
    """Bars that open at ten more than their number, and close half a unit higher."""
    return [
        bar(number, number + 10, number + 11, number + 9, number + 10.5) for number in range(first, last + 1)
    ]


FIRST_HOUR = (10.0, 70.0, 9.0, 69.5, 0.0)
SECOND_HOUR = (70.0, 130.0, 69.0, 129.5, 0.0)


@pytest.mark.parametrize(
    ("first", "found", "later"),
    [
        (
            "Minutes",
            [FIRST_HOUR],
            [SECOND_HOUR],
        ),  # folded from the minutes
        ("Hourly", [FIRST_HOUR], [SECOND_HOUR]),  # taken over with the hour in progress
        ("Quarters", [FIRST_HOUR], [SECOND_HOUR]),  # likewise, under another spelling
        ("Strategy", [], []),  # no bars at hand: the second hour is incomplete, and left out
    ],
)
def test_the_new_strategy_finds_the_bars_at_hand(first: str, found: list[Any], later: list[Any]) -> None:
    one, _ = engine(first)
    feed(one, *waves(0, 89), use("Hourly", 90))
    new = one.strategy
    assert isinstance(new, Hourly)
    feed(one, *waves(90, 119))
    assert (new.found, new.hours) == (found, later)
    feed(one, *waves(120, 179))
    assert new.hours[-1] == (130.0, 190.0, 129.0, 189.5, 0.0)


def past(interval: int, bars: list[Kline], at: int) -> PastBars:
    """The bars as read from the venue at minute `at`."""
    rows = tuple((one.start, one.open, one.high, one.low, one.close, one.volume) for one in bars)
    return PastBars(SYMBOL, interval, T0 + at * MINUTE_MS, T0 + at * MINUTE_MS, rows)


HOUR_BEFORE = Kline(SYMBOL, HOUR_MS, T0 - HOUR_MS, T0, T0, 5.0, 15.0, 4.0, 14.0, 600.0)


@pytest.mark.parametrize("first", ["Strategy", "Minutes", "Hourly"])
def test_bars_read_from_the_venue_come_before_those_at_hand(first: str) -> None:
    one, sink = engine(first)
    begin = Command("strategy-history", T0, T0 + 87 * MINUTE_MS, {}, "ann")
    # The run began in the middle of the first hour; two bars come while the venue is asked
    feed(one, *waves(40, 86), begin, *waves(87, 88))
    feed(one, past(HOUR_MS, [HOUR_BEFORE], 88), past(MINUTE_MS, waves(0, 87), 88), *waves(89, 89))
    feed(one, use("Hourly", 90, needs='{"1h": "2", "1m": "70"}'))
    new = one.strategy
    assert isinstance(new, Hourly)
    assert new.found == [(5.0, 15.0, 4.0, 14.0, 0.0), FIRST_HOUR]
    minutes = one.market.bars(SYMBOL, "1m", 200)
    assert minutes.start.tolist() == [T0 + number * MINUTE_MS for number in range(90)]
    feed(one, *waves(90, 179))
    assert new.hours == [SECOND_HOUR, (130.0, 190.0, 129.0, 189.5, 0.0)]
    assert [r.rule for r in of(RiskEvent, sink)] == []
    assert one.counts["bars of 1h with missing bars"] == 0


@pytest.mark.parametrize("ends", ["life", "use-strategy"])
def test_past_bars_are_forgotten_once_no_strategy_waits_for_them(ends: str) -> None:
    one, _ = engine("Strategy")
    feed(one, *waves(0, 9), Command("strategy-history", T0, T0 + 10 * MINUTE_MS, {}, "ann"), *waves(10, 11))
    feed(one, Command("life", T0, T0, {"incarnation": "b"}) if ends == "life" else use("Old", 12))
    feed(one, past(MINUTE_MS, waves(0, 11), 12), use("Hourly", 12))
    assert len(one.market.bars(SYMBOL, "1m", 50)) == 0
    assert one.counts["past bars that no strategy waits for"] == 12


def test_a_short_history_is_noted() -> None:
    one, sink = engine("Minutes")
    feed(one, *waves(0, 89), use("Hourly", 90, needs='{"1h": "3", "1m": "90"}'))
    [note] = of(RiskEvent, sink)
    assert (note.rule, note.symbol) == (SHORT_HISTORY, SYMBOL)
    assert note.detail == "1 of 3 bars of 1h are at hand for the warm-up"


@settings(max_examples=60, deadline=None)
@given(
    changes=st.dictionaries(
        st.integers(1, 150), st.tuples(st.sampled_from(sorted(KINDS)), st.booleans()), max_size=5
    ),
    asked=st.dictionaries(st.integers(1, 150), st.integers(1, 90), max_size=3),
    saved=st.integers(1, 150),
)
def test_a_restart_from_a_snapshot_decides_like_the_fold(
    changes: dict[int, tuple[str, bool]], asked: dict[int, int], saved: int
) -> None:
    one, sink = engine()
    again, rest = engine()
    state: tuple[bytes, bytes] | None = None
    for number in range(160):
        if number == saved:
            state = capture(one), version_part(one)
            restore(again, *state)
            sink.decisions.clear()
            rest.decisions.clear()
        events: list[Event] = []
        if number in changes:
            name, flatten = changes[number]
            events.append(use(name, number, **({"flatten": "true"} if flatten else {})))
        if number in asked:
            events.append(Command("strategy-history", T0, T0 + number * MINUTE_MS, {}, "ann"))
        if number - 1 in asked:
            events.append(past(MINUTE_MS, calm(number - asked[number - 1], number - 1), number))
        events += [bar(number, 100 + number % 7, 108, 91, 100 + (number + 1) % 7)]
        for which in (one, again) if state is not None else (one,):
            feed(which, *events)
            if which.guard is not None and which.guard.failure:
                now = T0 + (number + 1) * MINUTE_MS
                feed(which, Command("strategy-error", now, now, {"detail": "it failed"}, "daemon"))
    assert rest.decisions == sink.decisions
    assert capture(again) == capture(one)


@pytest.mark.parametrize(
    ("strategy", "class_name", "label"),
    [
        ("sma_cross", "SmaCross", "sma_cross"),
        ("/home/me/mine.py", "Mine", "mine.py:Mine"),
        ("package.mine:Mine", "Mine", "package.mine:Mine"),
        ("mine.py", "", "mine.py"),
    ],
)
def test_a_label_names_file_and_class(strategy: str, class_name: str, label: str) -> None:
    assert label_of(strategy, class_name) == label
