"""A kill or a flatten closes every position, whatever the strategy insists on and the market refuses; else it is an alarm."""

from __future__ import annotations

import random
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.engine import Engine
from agent.core.events import (
    MINUTE_MS,
    Cancel,
    Command,
    Decision,
    Event,
    Fill,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    RiskEvent,
    RiskState,
    TimeInForce,
)
from agent.core.risk import FLATTEN, KILL, RESUME_FROM_KILL, TAKEN_ID
from agent.core.sinks import ListSink
from agent.core.strategy import Market, Strategy
from strategies.sma_cross import SmaCross
from tests.core.test_venue import EngineHarness
from tests.support.market import SYMBOL, T0, bar, config, flat_bars, run

THIN = {"paper": {"liquidity": "participation", "max_participation": 0.1}}
LIFE = Command("life", T0, T0, {"incarnation": "1" * 32})


def word(minute: float, action: str, **args: str) -> Command:
    at = T0 + int(minute * MINUTE_MS) + 1
    return Command(action, at, at, args, by="test")


def of(kind: type, decisions: Sequence[Decision]) -> list[Any]:
    return [one for one in decisions if isinstance(one, kind)]


def in_order(*events: Event) -> list[Event]:
    return sorted(events, key=lambda event: (event.available_at, isinstance(event, Kline)))


class Insisting(Strategy):
    """Wants the same exposure on every bar, and on every fill."""

    weight = 0.5

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(SYMBOL, weight=self.weight)

    def on_fill(self, fill: Fill, market: Market) -> None:
        self.target(SYMBOL, weight=self.weight)


class Flipping(Insisting):
    """Wants the other side once it was killed, so that its own order would cancel the one that closes."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(SYMBOL, weight=self.weight if market.risk_state is RiskState.ACTIVE else -self.weight)


def thin(bars: int, volume: float = 100.0) -> list[Kline]:
    """Much volume until a position is held, then bars of `volume`."""
    return [bar(minute, 100, 100, 100, 100, 1000.0 if minute < 3 else volume) for minute in range(bars)]


@pytest.mark.parametrize("strategy", [Insisting, Flipping])
def test_a_strategy_that_states_its_target_on_every_bar_does_not_undo_a_kill(
    strategy: type[Strategy],
) -> None:
    engine, sink = run(strategy(), in_order(*thin(20), word(5.5, "kill", flatten="true")), config(**THIN))
    assert engine.portfolio.positions[SYMBOL].qty == 0
    killed = [one for one in of(Order, sink.decisions) if one.ts > T0 + 5 * MINUTE_MS]
    assert [(one.qty, one.reduce_only, one.reason) for one in killed] == [(50, True, "flatten")]
    assert [one.qty for one in of(Fill, sink.decisions) if one.reason == "flatten"] == [10] * 5
    assert engine.counts["targets ignored after a kill or flatten"] > 10
    notes = [one for one in of(RiskEvent, sink.decisions) if "targets are ignored" in one.detail]
    assert [(one.rule, one.symbol) for one in notes] == [(KILL, SYMBOL)]


def test_the_built_in_crossover_with_shorts_does_not_keep_its_position_after_a_kill() -> None:
    closes = [100 + 0.3 * i for i in range(30)] + [109 - 0.4 * i for i in range(60)]
    strategy = SmaCross(SmaCross.Params(fast=2, slow=6, weight=0.5, allow_short=True))
    bars = [bar(i, c, c, c, c, 4000.0 if i < 28 else 100.0) for i, c in enumerate(closes)]
    before, _ = run(SmaCross(strategy.params), bars[:30], config(**THIN))
    assert before.portfolio.positions[SYMBOL].qty > 40
    engine, _ = run(strategy, in_order(*bars, word(30.5, "kill", flatten="true")), config(**THIN))
    assert engine.portfolio.positions[SYMBOL].qty == 0


def test_a_strategy_does_not_cut_a_flatten_short_and_trades_again_when_it_is_over() -> None:
    engine, sink = run(
        Insisting(), in_order(LIFE, *thin(20), word(5.5, "flatten")), config(**THIN), finish=False
    )
    closing = [one for one in of(Order, sink.decisions) if one.reason == "flatten"]
    assert [one.qty for one in closing] == [50]
    flat_at = next(n for n, one in enumerate(sink.decisions) if isinstance(one, OrderUpdate) and one.order_id == closing[0].id
                   and one.status is OrderStatus.FILLED)  # fmt: skip
    begun = sink.decisions.index(closing[0])
    assert not of(Order, sink.decisions[begun + 1 : flat_at])
    assert of(Order, sink.decisions[flat_at:])
    assert engine.risk.state is RiskState.ACTIVE
    assert not engine.flattener.open


def test_a_run_that_recorded_no_lives_decides_on_a_flatten_as_it_did() -> None:
    _, sink = run(Insisting(), in_order(*thin(20), word(5.5, "flatten")), config(**THIN), finish=False)
    closing = next(one for one in of(Order, sink.decisions) if one.reason == "flatten")
    ends = [one for one in of(OrderUpdate, sink.decisions) if one.order_id == closing.id and one.status.final]
    assert [(one.status, one.reason) for one in ends] == [
        (OrderStatus.CANCELLED, "replaced by a newer target")
    ]


def test_a_resumption_ends_a_flatten() -> None:
    words = (word(5.5, "kill", flatten="true"), word(7.5, "resume", confirm=RESUME_FROM_KILL))
    engine, _ = run(Insisting(), in_order(LIFE, *thin(8), *words), config(**THIN), finish=False)
    assert engine.flattener.open == []
    assert engine.risk.state is RiskState.ACTIVE
    assert 0 < engine.portfolio.positions[SYMBOL].qty < 50


def test_a_second_kill_leaves_the_order_that_closes() -> None:
    engine, sink = run(
        Insisting(), in_order(*thin(20), word(5.5, "kill", flatten="true"), word(6.5, "kill")), config(**THIN)
    )
    assert engine.portfolio.positions[SYMBOL].qty == 0
    assert len([one for one in of(Order, sink.decisions) if one.reason == "flatten"]) == 1


def test_a_market_without_volume_is_an_alarm_once_and_the_position_closes_when_there_is_some() -> None:
    bars = [*thin(6), *(bar(minute, 100, 100, 100, 100, 0.0) for minute in range(6, 16))]
    engine, sink = run(Insisting(), in_order(*bars, word(5.5, "kill", flatten="true")), config(**THIN))
    alarms = [one for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN]
    assert ["BTCUSDT could not be closed" in one.detail for one in alarms] == [True]
    assert engine.flattener.open == [SYMBOL]
    more = [bar(minute, 100, 100, 100, 100, 1000.0) for minute in range(16, 20)]
    engine, sink = run(Insisting(), in_order(*bars, *more, word(5.5, "kill", flatten="true")), config(**THIN))
    assert engine.portfolio.positions[SYMBOL].qty == 0
    assert [one.detail for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN][1:] == [
        "flat after all"
    ]


def test_on_spot_what_is_too_small_to_sell_is_noted_once() -> None:
    """0.06 for 6 USDT; at 50 they are worth 3, and the venue takes no order below 5."""
    spot = {
        "market": {"category": "spot"},
        "instruments": {SYMBOL: {"tick_size": "0.01", "qty_step": "0.001", "min_notional": 5}},
    }

    class Small(Insisting):
        weight = 0.0006

    bars = flat_bars([100, 100, 100, 50, 50, 50, 50])
    engine, sink = run(Small(), in_order(*bars, word(4.5, "kill", flatten="true")), config(**spot))
    assert engine.portfolio.positions[SYMBOL].qty == Decimal("0.060")
    told = [one.detail for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN]
    assert told == ["0.060 BTCUSDT stay: the venue takes no order that small"]
    assert not engine.flattener.open


def test_without_data_a_heartbeat_raises_the_alarm() -> None:
    events = in_order(LIFE, *thin(5), word(5.5, "kill", flatten="true"))
    engine, sink = run(Insisting(), events, config(**THIN), finish=False)
    at = T0 + 9 * MINUTE_MS
    assert engine.flattener.due(at)
    engine.handle(Command("heartbeat", at, at))
    assert [one.symbol for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN] == [SYMBOL]
    assert not engine.flattener.due(at + 10 * MINUTE_MS)


# -- at a venue --------------------------------------------------------------------------------------------------------


class Desk(EngineHarness):
    """An engine in testnet mode that lives, holds 10, and was killed and flattened."""

    def __init__(self, *, killed: bool = True) -> None:
        super().__init__()
        self.handle(Command("life", self.now, self.now, {"incarnation": "a" * 32}))
        entry = self.order(0.1)
        self.handle(self.fill(entry, "10"), self.update(entry, OrderStatus.FILLED, "10"))
        if killed:
            (self.closing,) = of(Order, self.command("kill", flatten="true"))

    def command(self, action: str, **args: str) -> list[Decision]:
        return self.handle(Command(action, self.now, self.now, args, "test"))

    def wait(self, ms: int) -> list[Decision]:
        self.now += ms
        return self.command("heartbeat")


def test_what_is_left_of_a_partial_fill_is_closed_at_once() -> None:
    desk = Desk()
    assert (desk.closing.qty, desk.closing.reduce_only) == (10, True)
    assert not of(Order, desk.handle(desk.fill(desk.closing, "4")))
    (rest,) = of(Order, desk.handle(desk.update(desk.closing, OrderStatus.CANCELLED, "4")))
    assert (rest.qty, rest.reduce_only, rest.id != desk.closing.id) == (6, True, True)
    desk.handle(desk.fill(rest, "6"), desk.update(rest, OrderStatus.FILLED, "6"))
    assert desk.qty == 0
    assert desk.engine.flattener.open == []


def test_a_closing_order_that_is_refused_is_followed_by_others_and_then_an_alarm() -> None:
    desk = Desk()
    alarms, orders, order = 0, 1, desk.closing
    for _ in range(6):
        made = desk.handle(desk.update(order, OrderStatus.REJECTED))
        assert not of(Order, made)  # not at once: the venue would be asked for ever
        for _ in range(100):
            made = desk.wait(1_000)
            alarms += len([one for one in of(RiskEvent, made) if one.rule == FLATTEN])
            if found := of(Order, made):
                order, orders = found[0], orders + 1
                break
    assert orders == 7
    assert alarms == 1
    desk.handle(desk.fill(order, "10"), desk.update(order, OrderStatus.FILLED, "10"))
    assert desk.qty == 0


def test_an_order_that_fills_after_the_kill_is_closed_too() -> None:
    desk = Desk(killed=False)
    entry = desk.order(0.2)
    made = desk.command("kill", flatten="true")
    assert [one.order_id for one in of(Cancel, made)] == [entry.id]
    (closing,) = of(Order, made)
    desk.handle(desk.fill(closing, "10"), desk.update(closing, OrderStatus.FILLED, "10"))
    assert desk.qty == 0
    made = desk.handle(desk.fill(entry, "3", 7))
    assert [(one.qty, one.side.value, one.reduce_only) for one in of(Order, made)] == [(3, "SELL", True)]
    desk.handle(desk.update(entry, OrderStatus.CANCELLED, "3"))
    (late,) = of(Order, made)
    desk.handle(desk.fill(late, "3"), desk.update(late, OrderStatus.FILLED, "3"))
    assert desk.engine.flattener.open == []


def test_a_kill_without_flatten_closes_nothing_that_fills_later() -> None:
    desk = Desk(killed=False)
    entry = desk.order(0.2)
    desk.command("kill")
    assert not of(Order, desk.handle(desk.fill(entry, "3", 7)))
    assert desk.qty == 13


def test_a_target_that_waited_for_a_cancel_is_not_pursued_after_a_kill() -> None:
    desk = Desk(killed=False)
    resting = desk.order(0.2, limit=90.0)
    desk.strategy.target(SYMBOL, weight=-0.2)
    desk.bar(100.0)
    desk.command("kill")
    assert not of(Order, desk.handle(desk.update(resting, OrderStatus.CANCELLED)))


def test_an_order_that_closes_goes_out_under_a_new_id_if_its_id_is_another_orders() -> None:
    desk = Desk()
    made = desk.command("taken-id", order=desk.closing.id, symbol=SYMBOL, detail="side BUY instead of SELL")
    (again,) = of(Order, made)
    assert (again.qty, again.reduce_only, again.id != desk.closing.id) == (10, True, True)
    assert [one.status for one in of(OrderUpdate, made)] == [OrderStatus.REJECTED]
    assert [one.detail for one in of(RiskEvent, made) if one.rule == TAKEN_ID] == ["side BUY instead of SELL"]


def test_a_stop_goes_out_under_a_new_id_and_an_entry_does_not() -> None:
    desk = Desk(killed=False)
    entry = desk.order(0.2, stop=-0.05)
    made = desk.handle(desk.fill(entry, "10", 5), desk.update(entry, OrderStatus.FILLED, "10"))
    (stop,) = of(Order, made)
    (again,) = of(Order, desk.command("taken-id", order=stop.id, symbol=SYMBOL, detail="x"))
    assert (again.type, again.trigger, again.qty, again.oco) == (OrderType.STOP, stop.trigger, 20, stop.oco)
    late = desk.order(0.4)
    assert not of(Order, desk.command("taken-id", order=late.id, symbol=SYMBOL, detail="x"))


def test_each_life_has_ids_of_its_own() -> None:
    def ids(*incarnations: str) -> list[str]:
        lives = [Command("life", T0, T0, {"incarnation": name}) for name in incarnations]
        _, sink = run(Insisting(), [*lives, *flat_bars([100.0] * 3)])
        return [one.id for one in of(Order, sink.decisions)]

    (old,), (first,), (again,), (second,) = ids(), ids("a"), ids("a"), ids("a", "b")
    assert first == again
    assert len({old, first, second}) == 3
    assert {len(one) for one in (old, first, second)} == {35}
    assert first[:11] == second[:11]


# -- properties --------------------------------------------------------------------------------------------------------


class Erratic(Strategy):
    """Asks for anything at any time, by dice."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.dice = random.Random(seed)

    def on_kline(self, kline: Kline, market: Market) -> None:
        dice = self.dice
        if dice.random() < 0.8:
            side = dice.choice((1, 1, -1))
            self.target(
                SYMBOL,
                weight=dice.choice((0.0, 0.3, 0.9, 2.0)) * side,
                limit=round(kline.close * dice.uniform(0.98, 1.02), 2) if dice.random() < 0.4 else None,
                stop=-0.02 * side if dice.random() < 0.4 else None,
                take_profit=0.02 * side if dice.random() < 0.4 else None,
                tif=dice.choice((TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)),
            )

    def on_fill(self, fill: Fill, market: Market) -> None:
        if self.dice.random() < 0.3:
            self.target(SYMBOL, weight=self.dice.choice((-1.0, 0.5, 1.0)))


def erratic_bars(dice: random.Random, count: int) -> list[Kline]:
    bars, price = [], 100.0
    for minute in range(count):
        close = round(price * dice.uniform(0.98, 1.02), 2)
        high, low = max(price, close) * 1.005, min(price, close) * 0.995
        bars.append(bar(minute, price, round(high, 2), round(low, 2), close, dice.choice((0.0, 20.0, 300.0))))
        price = close
    return bars


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), minute=st.integers(2, 40), latency=st.sampled_from((0, 250, 90_000)))
def test_after_a_kill_that_flattens_and_enough_volume_the_position_is_flat_and_nothing_opens(
    seed: int, minute: int, latency: int
) -> None:
    dice = random.Random(seed)
    bars = erratic_bars(dice, minute + 20)
    calm = [bar(minute + 20 + n, bars[-1].close, *[bars[-1].close] * 3, 10_000.0) for n in range(10)]
    kill = word(minute + 0.5, "kill", flatten="true")
    engine = Engine(
        config(paper=THIN["paper"] | {"latency": latency}), Erratic(seed), sink := ListSink(), run_id="r"
    )
    held = Decimal(0)
    for event in in_order(LIFE, *bars, *calm, kill):
        before = len(sink.decisions)
        engine.handle(event)
        if event.available_at >= kill.available_at:
            assert not [one for one in of(Order, sink.decisions[before:]) if not one.reduce_only]
            assert abs(engine.portfolio.positions[SYMBOL].qty) <= abs(held) or event is kill
        held = engine.portfolio.positions[SYMBOL].qty
    engine.finish()
    assert held == 0
    assert engine.flattener.open == []


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 25))
def test_at_a_venue_that_fills_in_parts_refuses_and_fills_late_a_kill_ends_flat(
    seed: int, steps: int
) -> None:
    dice = random.Random(seed)
    world = EngineHarness(strategy=Erratic(seed))
    world.handle(Command("life", world.now, world.now, {"incarnation": "a" * 32}))
    open_orders: dict[str, Order] = {}
    filled: dict[str, Decimal] = {}
    numbers = iter(range(10**6))

    def meet(made: list[Decision], calm: bool) -> None:
        """What the venue says to decisions, and so on until nothing is decided any more."""
        again = True
        while made or again:
            again = False
            open_orders.update({one.id: one for one in of(Order, made)})
            taken_back = {one.order_id for one in of(Cancel, made)}
            for one in of(OrderUpdate, made):
                if one.status.final:
                    open_orders.pop(one.order_id, None)
            made = []
            for order in list(open_orders.values()):
                held = world.qty
                closable = abs(held) if held * order.side.sign < 0 else Decimal(0)
                rest = order.qty - filled.get(order.id, Decimal(0))
                most = min(rest, closable) if order.reduce_only else rest
                chance = dice.random()
                waits = order.trigger is not None or order.type is OrderType.LIMIT
                if order.id in taken_back and (waits or chance < 0.5):
                    status = OrderStatus.CANCELLED
                elif waits or (chance < 0.4 and not calm):
                    continue
                elif chance < 0.6 and not calm:
                    status = OrderStatus.CANCELLED if filled.get(order.id) else OrderStatus.REJECTED
                elif most <= 0:
                    status = OrderStatus.CANCELLED
                else:
                    part = most if calm else (most * dice.choice((1, 2, 4)) / 4).quantize(Decimal("0.001"))
                    if part > 0:
                        filled[order.id] = filled.get(order.id, Decimal(0)) + part
                        made += world.handle(world.fill(order, str(part), next(numbers)))
                    done = filled.get(order.id) == order.qty
                    status = OrderStatus.FILLED if done else OrderStatus.CANCELLED
                open_orders.pop(order.id, None)
                made += world.handle(world.update(order, status, str(filled.get(order.id, 0))))

    for _ in range(steps):
        meet(world.bar(100.0), calm=False)
    made = world.handle(Command("kill", world.now, world.now, {"flatten": "true"}, "test"))
    meet(made, calm=False)
    for n in range(40):
        made = world.bar(100.0)
        assert not [one for one in of(Order, made) if not one.reduce_only]
        meet(made, calm=n > 10)
        world.now += MINUTE_MS
        meet(world.handle(Command("heartbeat", world.now, world.now)), calm=n > 10)
    assert world.qty == 0
    assert world.engine.flattener.open == []
