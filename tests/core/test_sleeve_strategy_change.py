"""The strategy of one sleeve is replaced, and an added sleeve begins with history; figures by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from agent.core.events import MINUTE_MS, Command, Event, Kline, PastBars, RiskEvent, RiskState, StrategyChange
from agent.core.risk import SHORT_HISTORY
from agent.core.sinks import ListSink
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Market, Strategy
from agent.replay.engine_state import capture, restore, version_part
from tests.support.market import T0, flat_bars
from tests.support.sleeves import BTC, Steps, Targets, account, fills, play, sleeve, sleeved_config

DEFINITION = '{"name": "late", "strategy": "late", "share": "0.2"}'


class Minutes(Strategy):
    """Keeps the closes that it is given, and those that its history has at its start."""

    intervals = ("1m",)

    def __init__(self) -> None:
        super().__init__()
        self.closes: list[float] = []
        self.found: list[float] = []

    def on_start(self, market: Market) -> None:
        self.found = market.bars(BTC, "1m", 10).close.tolist()

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.closes.append(kline.close)
        self.target(kline.symbol, weight=0.5)


def command(action: str, minute: int, **args: str) -> Command:
    return Command(action, T0 + minute * MINUTE_MS, T0 + minute * MINUTE_MS, args, "test")


def opened(
    strategies: Mapping[str, Strategy | Targets], later: Mapping[str, Strategy | Targets], **shares: float
) -> tuple[SleevedEngine, ListSink]:
    """Return an account whose sleeves have these strategies; `later` are those of commands, by name."""

    def load(args: Mapping[str, str]) -> Strategy:
        one = later[args["strategy"]]
        return one if isinstance(one, Strategy) else Steps(one)

    sleeves = [sleeve(name, share) for name, share in shares.items()]
    return account(sleeved_config(*sleeves), strategies, loader=load)


def bars(closes: list[float], first: int = 0) -> list[Event]:
    """Return the bars of these closes from minute `first` on."""
    return list(flat_bars([100.0] * first + closes))[first:]


def use(minute: int, name: str, **args: str) -> Command:
    return command("use-strategy", minute, **{"strategy": name, "sleeve": "x", **args})


def changes(sink: ListSink) -> list[StrategyChange]:
    return [one for one in sink.decisions if isinstance(one, StrategyChange)]


def test_one_sleeve_goes_on_with_the_other_strategy_and_the_others_as_before() -> None:
    """x buys 0.5 x 5,000 / 100 = 25; the new strategy's second bar makes them 0.2 x 5,000 / 100 = 10."""
    step = {"x": {0: {"weight": 0.5}, 4: {"weight": -1}}, "y": {5: {"weight": 0.4}}}
    engine, sink = opened(step, {"z": {1: {"weight": 0.2}}}, x=0.5, y=0.5)
    other = engine.sleeves["y"].engine.strategy
    play(engine, [*bars([100] * 2), use(2, "z"), *bars([100] * 5, 2)])
    traded = [(one.sleeve, one.side.sign * one.qty) for one in fills(sink)]
    assert traded == [("x", 25), ("x", -15), ("y", 20)]
    (change,) = changes(sink)
    assert (change.sleeve, change.strategy, change.flatten) == ("x", "z", False)
    assert engine.sleeves["x"].engine.version["strategy"] == "z"
    assert (engine.sleeves["y"].engine.strategy is other, engine.sleeves["y"].engine.version) == (True, {})
    assert engine.version == {}


@pytest.mark.parametrize("halted", [False, True])
def test_flatten_closes_the_positions_of_this_sleeve_alone(halted: bool) -> None:
    step = {"x": {0: {"weight": 0.5}}, "y": {0: {"weight": 0.4}}}
    engine, _ = opened(step, {"z": {}}, x=0.5, y=0.5)
    halts = [command("halt", 2, sleeve="x")] if halted else []
    life = command("life", 0, incarnation="one", cash="stated")
    play(engine, [life, *bars([100] * 2), *halts, use(2, "z", flatten="true"), *bars([100] * 3, 2)])
    held = {name: one.engine.portfolio.positions[BTC].qty for name, one in engine.sleeves.items()}
    assert held == {"x": 0, "y": 20}
    state = engine.sleeves["x"].engine.risk.state
    assert state is (RiskState.HALTED if halted else RiskState.ACTIVE)
    assert engine.risk.state is RiskState.ACTIVE


def test_a_command_for_no_sleeve_or_a_leaving_one_changes_nothing() -> None:
    engine, sink = opened({"x": {0: {"weight": 0.5}}}, {"z": {}}, x=0.5)
    play(engine, [*bars([100] * 2), use(2, "z", sleeve="nobody"), command("remove-sleeve", 2, sleeve="x")])
    play(engine, [use(2, "z")])
    assert not changes(sink)
    details = [one.detail for one in sink.decisions if isinstance(one, RiskEvent)]
    assert "use-strategy of nobody by test is ignored: there is no such sleeve" in details
    assert "use-strategy of x by test is ignored: the sleeve is being removed" in details


def test_an_error_of_the_replaced_strategy_is_reported_and_does_not_stop_the_next() -> None:
    engine, _ = opened({"x": {1: {"error": "broken"}}}, {"z": {0: {"weight": 0.5}}}, x=0.5)
    play(engine, [*bars([100] * 2), use(2, "z")])
    assert "broken" in engine.failures["x"]  # the shell has yet to report it
    play(engine, [command("strategy-error", 2, sleeve="x", detail="broken")])
    assert not engine.failures
    own = engine.sleeves["x"].engine
    assert (own.risk.state, own.guard and own.guard.stopped) == (RiskState.HALTED, False)


def test_bars_that_were_asked_for_one_sleeve_reach_it_alone() -> None:
    later = Minutes()
    engine, _ = opened({"x": {}, "y": {}}, {"z": later}, x=0.5, y=0.5)
    rows = tuple((T0 + (n - 5) * MINUTE_MS, *[90.0 + n] * 4, 1.0) for n in range(5))
    past = PastBars(BTC, MINUTE_MS, T0 + 2 * MINUTE_MS, T0 + 2 * MINUTE_MS, rows)
    play(engine, [*bars([100] * 2), command("strategy-history", 2, sleeve="x"), past])
    play(engine, [*bars([101], 2), use(3, "z", needs='{"1m": "6"}')])
    # those of the first two bars were not kept: the strategy before declared no interval
    assert later.found == [90, 91, 92, 93, 94, 101]
    assert not engine.counts
    play(engine, [past])
    assert engine.counts == {"past bars that no strategy waits for": 5}


def test_an_added_sleeve_is_given_the_bars_before_it_without_trading() -> None:
    """2,000 of capital: its first order is of 0.5 x 2,000 / 104 on the first bar after it was added."""
    late = Minutes()
    engine, sink = opened({"x": {}, "late": late}, {}, x=0.5)
    begin = command("strategy-history", 2)
    rows = tuple((T0 + (n - 3) * MINUTE_MS, *[90.0 + n] * 4, 1.0) for n in range(5))  # two of them the run's
    past = PastBars(BTC, MINUTE_MS, T0 + 3 * MINUTE_MS, T0 + 3 * MINUTE_MS, rows)
    add = command("add-sleeve", 3, sleeve="late", definition=DEFINITION, needs='{"1m": "7"}')
    play(engine, [*bars([100] * 2), begin, *bars([103], 2), past, add])
    assert late.closes == [90, 91, 92, 93, 94, 103]  # bars that came while collecting are those of the run
    own = engine.sleeves["late"].engine
    (short,) = [one for one in sink.decisions if isinstance(one, RiskEvent) and one.rule == SHORT_HISTORY]
    assert (short.sleeve, short.detail) == ("late", "6 of 7 bars of 1m are at hand for the warm-up")
    assert not fills(sink)
    assert not own.risk.warming_up
    play(engine, bars([104, 104], 3))
    (fill,) = fills(sink)
    assert (fill.sleeve, str(fill.qty)) == ("late", "9.615")  # 1,000 / 104, in lots of 0.001
    assert engine.counts == {}
    engine.finish()


def test_a_new_life_forgets_what_was_collected() -> None:
    late = Minutes()
    engine, _ = opened({"x": {}, "late": late}, {}, x=0.5)
    play(engine, [*bars([100]), command("strategy-history", 1), *bars([100], 1)])
    play(engine, [command("life", 2, incarnation="two")])
    play(engine, [command("add-sleeve", 2, sleeve="late", definition=DEFINITION)])
    assert late.closes == []


def test_bars_that_are_being_collected_are_part_of_the_state() -> None:
    def fresh() -> tuple[SleevedEngine, Minutes]:
        late = Minutes()
        return opened({"x": {}, "late": late}, {}, x=0.5)[0], late

    engine, _ = fresh()
    play(engine, [*bars([100]), command("strategy-history", 1), *bars([103], 1)])
    again, late = fresh()
    restore(again, capture(engine), version_part(engine))
    play(again, [command("add-sleeve", 2, sleeve="late", definition=DEFINITION)])
    assert late.closes == [103]
    assert capture(fresh()[0]) != capture(engine)


def test_the_state_of_a_replaced_strategy_is_restored_into_a_fresh_engine() -> None:
    step: dict[str, Any] = {"x": {0: {"weight": 0.5}}, "y": {}}
    later: dict[str, Any] = {"z": {2: {"weight": 0.1}}}
    engine, sink = opened(step, later, x=0.5, y=0.5)
    first, rest = [*bars([100] * 2), use(2, "z"), *bars([100], 2)], bars([100] * 4, 3)
    play(engine, first)
    again, other = opened(step, later, x=0.5, y=0.5)
    restore(again, capture(engine), version_part(engine))
    done = len(sink.decisions)
    assert not other.decisions
    play(engine, rest)
    play(again, rest)
    assert other.decisions == sink.decisions[done:] != []
