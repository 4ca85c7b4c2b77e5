"""A kill or flatten closes every position against strategy and rejections, or raises an alarm."""

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


def command(minute: float, action: str, **args: str) -> Command:
    at = T0 + int(minute * MINUTE_MS) + 1
    return Command(action, at, at, args, by="test")


def of(kind: type, decisions: Sequence[Decision]) -> list[Any]:
    return [one for one in decisions if isinstance(one, kind)]


def in_order(*events: Event) -> list[Event]:
    return sorted(events, key=lambda event: (event.available_at, isinstance(event, Kline)))


class Insisting(Strategy):
    """Sets the same target on every bar and every fill."""

    weight = 0.5

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(SYMBOL, weight=self.weight)

    def on_fill(self, fill: Fill, market: Market) -> None:
        self.target(SYMBOL, weight=self.weight)


class Flipping(Insisting):
    """Reverses its target after a kill, so that its order would cancel the closing order."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(SYMBOL, weight=self.weight if market.risk_state is RiskState.ACTIVE else -self.weight)


def thin(bars: int, volume: float = 100.0) -> list[Kline]:
    """Bars with much volume for the entry, then with `volume`."""
    return [bar(minute, 100, 100, 100, 100, 1000.0 if minute < 3 else volume) for minute in range(bars)]


@pytest.mark.parametrize("strategy", [Insisting, Flipping])
def test_a_target_on_every_bar_does_not_undo_a_kill(
    strategy: type[Strategy],
) -> None:
    engine, sink = run(strategy(), in_order(*thin(20), command(5.5, "kill", flatten="true")), config(**THIN))
    assert engine.portfolio.positions[SYMBOL].qty == 0
    killed = [one for one in of(Order, sink.decisions) if one.ts > T0 + 5 * MINUTE_MS]
    assert [(one.qty, one.reduce_only, one.reason) for one in killed] == [(50, True, "flatten")]
    assert [one.qty for one in of(Fill, sink.decisions) if one.reason == "flatten"] == [10] * 5
    assert engine.counts["targets ignored after a kill or flatten"] > 10
    notes = [one for one in of(RiskEvent, sink.decisions) if "targets are ignored" in one.detail]
    assert [(one.rule, one.symbol) for one in notes] == [(KILL, SYMBOL)]


def test_a_kill_closes_the_position_of_the_crossover_with_shorts() -> None:
    closes = [100 + 0.3 * i for i in range(30)] + [109 - 0.4 * i for i in range(60)]
    strategy = SmaCross(SmaCross.Params(fast=2, slow=6, weight=0.5, allow_short=True))
    bars = [bar(i, c, c, c, c, 4000.0 if i < 28 else 100.0) for i, c in enumerate(closes)]
    before, _ = run(SmaCross(strategy.params), bars[:30], config(**THIN))
    assert before.portfolio.positions[SYMBOL].qty > 40
    engine, _ = run(strategy, in_order(*bars, command(30.5, "kill", flatten="true")), config(**THIN))
    assert engine.portfolio.positions[SYMBOL].qty == 0


def test_a_strategy_can_not_interrupt_a_flatten_and_trades_again_after_it() -> None:
    engine, sink = run(
        Insisting(), in_order(LIFE, *thin(20), command(5.5, "flatten")), config(**THIN), finish=False
    )
    closing = [one for one in of(Order, sink.decisions) if one.reason == "flatten"]
    assert [one.qty for one in closing] == [50]
    flat_at = next(
        n
        for n, one in enumerate(sink.decisions)
        if isinstance(one, OrderUpdate) and one.order_id == closing[0].id and one.status is OrderStatus.FILLED
    )
    begun = sink.decisions.index(closing[0])
    assert not of(Order, sink.decisions[begun + 1 : flat_at])
    assert of(Order, sink.decisions[flat_at:])
    assert engine.risk.state is RiskState.ACTIVE
    assert not engine.flattener.open


def test_a_flatten_in_a_run_without_recorded_lives_decides_as_before() -> None:
    _, sink = run(Insisting(), in_order(*thin(20), command(5.5, "flatten")), config(**THIN), finish=False)
    closing = next(one for one in of(Order, sink.decisions) if one.reason == "flatten")
    ends = [one for one in of(OrderUpdate, sink.decisions) if one.order_id == closing.id and one.status.final]
    assert [(one.status, one.reason) for one in ends] == [
        (OrderStatus.CANCELLED, "replaced by a newer target")
    ]


def test_resuming_ends_a_flatten() -> None:
    commands = (command(5.5, "kill", flatten="true"), command(7.5, "resume", confirm=RESUME_FROM_KILL))
    engine, _ = run(Insisting(), in_order(LIFE, *thin(8), *commands), config(**THIN), finish=False)
    assert engine.flattener.open == []
    assert engine.risk.state is RiskState.ACTIVE
    assert 0 < engine.portfolio.positions[SYMBOL].qty < 50


def test_a_second_kill_keeps_the_closing_order() -> None:
    engine, sink = run(
        Insisting(),
        in_order(*thin(20), command(5.5, "kill", flatten="true"), command(6.5, "kill")),
        config(**THIN),
    )
    assert engine.portfolio.positions[SYMBOL].qty == 0
    assert len([one for one in of(Order, sink.decisions) if one.reason == "flatten"]) == 1


def test_missing_volume_raises_one_alarm_until_the_position_can_close() -> None:
    bars = [*thin(6), *(bar(minute, 100, 100, 100, 100, 0.0) for minute in range(6, 16))]
    engine, sink = run(Insisting(), in_order(*bars, command(5.5, "kill", flatten="true")), config(**THIN))
    alarms = [one for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN]
    assert ["BTCUSDT could not be closed" in one.detail for one in alarms] == [True]
    assert engine.flattener.open == [SYMBOL]
    more = [bar(minute, 100, 100, 100, 100, 1000.0) for minute in range(16, 20)]
    engine, sink = run(
        Insisting(), in_order(*bars, *more, command(5.5, "kill", flatten="true")), config(**THIN)
    )
    assert engine.portfolio.positions[SYMBOL].qty == 0
    assert [one.detail for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN][1:] == [
        "flat after all"
    ]


def test_a_spot_position_too_small_to_sell_is_reported_once() -> None:
    """0.06 bought for 6 USDT are worth 3 at 50, below the venue's minimum of 5."""
    spot = {
        "market": {"category": "spot"},
        "instruments": {SYMBOL: {"tick_size": "0.01", "qty_step": "0.001", "min_notional": 5}},
    }

    class Small(Insisting):
        weight = 0.0006

    bars = flat_bars([100, 100, 100, 50, 50, 50, 50])
    engine, sink = run(Small(), in_order(*bars, command(4.5, "kill", flatten="true")), config(**spot))
    assert engine.portfolio.positions[SYMBOL].qty == Decimal("0.060")
    reported = [one.detail for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN]
    assert reported == ["0.060 BTCUSDT stay: the venue takes no order that small"]
    assert not engine.flattener.open


def test_a_heartbeat_raises_the_alarm_if_no_data_arrive() -> None:
    events = in_order(LIFE, *thin(5), command(5.5, "kill", flatten="true"))
    engine, sink = run(Insisting(), events, config(**THIN), finish=False)
    at = T0 + 9 * MINUTE_MS
    assert engine.flattener.due(at)
    engine.handle(Command("heartbeat", at, at))
    assert [one.symbol for one in of(RiskEvent, sink.decisions) if one.rule == FLATTEN] == [SYMBOL]
    assert not engine.flattener.due(at + 10 * MINUTE_MS)


# -- at a venue ----------------------------------------------------------------------------------------------


class HoldingHarness(EngineHarness):
    """A testnet engine that holds 10 and, if `killed`, was killed with flatten."""

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


def test_the_rest_of_a_cancelled_closing_order_is_closed_at_once() -> None:
    harness = HoldingHarness()
    assert (harness.closing.qty, harness.closing.reduce_only) == (10, True)
    assert not of(Order, harness.handle(harness.fill(harness.closing, "4")))
    (rest,) = of(Order, harness.handle(harness.update(harness.closing, OrderStatus.CANCELLED, "4")))
    assert (rest.qty, rest.reduce_only, rest.id != harness.closing.id) == (6, True, True)
    harness.handle(harness.fill(rest, "6"), harness.update(rest, OrderStatus.FILLED, "6"))
    assert harness.qty == 0
    assert harness.engine.flattener.open == []


def test_rejected_closing_orders_are_retried_and_raise_one_alarm() -> None:
    harness = HoldingHarness()
    alarms, orders, order = 0, 1, harness.closing
    for _ in range(6):
        made = harness.handle(harness.update(order, OrderStatus.REJECTED))
        assert not of(Order, made)  # not at once, so that the venue is not flooded
        for _ in range(100):
            made = harness.wait(1_000)
            alarms += len([one for one in of(RiskEvent, made) if one.rule == FLATTEN])
            if found := of(Order, made):
                order, orders = found[0], orders + 1
                break
    assert orders == 7
    assert alarms == 1
    harness.handle(harness.fill(order, "10"), harness.update(order, OrderStatus.FILLED, "10"))
    assert harness.qty == 0


def test_an_entry_that_fills_after_the_kill_is_closed() -> None:
    harness = HoldingHarness(killed=False)
    entry = harness.order(0.2)
    made = harness.command("kill", flatten="true")
    assert [one.order_id for one in of(Cancel, made)] == [entry.id]
    (closing,) = of(Order, made)
    harness.handle(harness.fill(closing, "10"), harness.update(closing, OrderStatus.FILLED, "10"))
    assert harness.qty == 0
    made = harness.handle(harness.fill(entry, "3", 7))
    assert [(one.qty, one.side.value, one.reduce_only) for one in of(Order, made)] == [(3, "SELL", True)]
    harness.handle(harness.update(entry, OrderStatus.CANCELLED, "3"))
    (late,) = of(Order, made)
    harness.handle(harness.fill(late, "3"), harness.update(late, OrderStatus.FILLED, "3"))
    assert harness.engine.flattener.open == []


def test_a_kill_without_flatten_leaves_late_fills_open() -> None:
    harness = HoldingHarness(killed=False)
    entry = harness.order(0.2)
    harness.command("kill")
    assert not of(Order, harness.handle(harness.fill(entry, "3", 7)))
    assert harness.qty == 13


def test_a_target_waiting_for_a_cancel_is_dropped_by_a_kill() -> None:
    harness = HoldingHarness(killed=False)
    resting = harness.order(0.2, limit=90.0)
    harness.strategy.target(SYMBOL, weight=-0.2)
    harness.bar(100.0)
    harness.command("kill")
    assert not of(Order, harness.handle(harness.update(resting, OrderStatus.CANCELLED)))


def test_a_closing_order_whose_id_is_taken_is_placed_under_a_new_id() -> None:
    harness = HoldingHarness()
    made = harness.command(
        "taken-id", order=harness.closing.id, symbol=SYMBOL, detail="side BUY instead of SELL"
    )
    (again,) = of(Order, made)
    assert (again.qty, again.reduce_only, again.id != harness.closing.id) == (10, True, True)
    assert [one.status for one in of(OrderUpdate, made)] == [OrderStatus.REJECTED]
    assert [one.detail for one in of(RiskEvent, made) if one.rule == TAKEN_ID] == ["side BUY instead of SELL"]


def test_a_stop_whose_id_is_taken_is_placed_again_and_an_entry_is_not() -> None:
    harness = HoldingHarness(killed=False)
    entry = harness.order(0.2, stop=-0.05)
    made = harness.handle(harness.fill(entry, "10", 5), harness.update(entry, OrderStatus.FILLED, "10"))
    (stop,) = of(Order, made)
    (again,) = of(Order, harness.command("taken-id", order=stop.id, symbol=SYMBOL, detail="x"))
    assert (again.type, again.trigger, again.qty, again.oco) == (OrderType.STOP, stop.trigger, 20, stop.oco)
    late = harness.order(0.4)
    assert not of(Order, harness.command("taken-id", order=late.id, symbol=SYMBOL, detail="x"))


def test_each_life_has_its_own_order_ids() -> None:
    def ids(*incarnations: str) -> list[str]:
        lives = [Command("life", T0, T0, {"incarnation": name}) for name in incarnations]
        _, sink = run(Insisting(), [*lives, *flat_bars([100.0] * 3)])
        return [one.id for one in of(Order, sink.decisions)]

    (old,), (first,), (again,), (second,) = ids(), ids("a"), ids("a"), ids("a", "b")
    assert first == again
    assert len({old, first, second}) == 3
    assert {len(one) for one in (old, first, second)} == {35}
    assert first[:11] == second[:11]


# -- properties ----------------------------------------------------------------------------------------------


class Erratic(Strategy):
    """Sets random targets."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)

    def on_kline(self, kline: Kline, market: Market) -> None:
        rng = self.rng
        if rng.random() < 0.8:
            side = rng.choice((1, 1, -1))
            self.target(
                SYMBOL,
                weight=rng.choice((0.0, 0.3, 0.9, 2.0)) * side,
                limit=round(kline.close * rng.uniform(0.98, 1.02), 2) if rng.random() < 0.4 else None,
                stop=-0.02 * side if rng.random() < 0.4 else None,
                take_profit=0.02 * side if rng.random() < 0.4 else None,
                tif=rng.choice((TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK)),
            )

    def on_fill(self, fill: Fill, market: Market) -> None:
        if self.rng.random() < 0.3:
            self.target(SYMBOL, weight=self.rng.choice((-1.0, 0.5, 1.0)))


def erratic_bars(rng: random.Random, count: int) -> list[Kline]:
    bars, price = [], 100.0
    for minute in range(count):
        close = round(price * rng.uniform(0.98, 1.02), 2)
        high, low = max(price, close) * 1.005, min(price, close) * 0.995
        bars.append(bar(minute, price, round(high, 2), round(low, 2), close, rng.choice((0.0, 20.0, 300.0))))
        price = close
    return bars


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), minute=st.integers(2, 40), latency=st.sampled_from((0, 250, 90_000)))
def test_a_kill_with_flatten_ends_flat_and_opens_nothing(seed: int, minute: int, latency: int) -> None:
    rng = random.Random(seed)
    bars = erratic_bars(rng, minute + 20)
    calm = [bar(minute + 20 + n, bars[-1].close, *[bars[-1].close] * 3, 10_000.0) for n in range(10)]
    kill = command(minute + 0.5, "kill", flatten="true")
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
def test_a_kill_ends_flat_at_a_venue_with_partial_late_and_rejected_fills(seed: int, steps: int) -> None:
    rng = random.Random(seed)
    world = EngineHarness(strategy=Erratic(seed))
    world.handle(Command("life", world.now, world.now, {"incarnation": "a" * 32}))
    open_orders: dict[str, Order] = {}
    filled: dict[str, Decimal] = {}
    numbers = iter(range(10**6))

    def meet(made: list[Decision], calm: bool) -> None:
        """Let the venue respond to decisions until no more follow."""
        again = True
        while made or again:
            again = False
            open_orders.update({one.id: one for one in of(Order, made)})
            cancelled = {one.order_id for one in of(Cancel, made)}
            for one in of(OrderUpdate, made):
                if one.status.final:
                    open_orders.pop(one.order_id, None)
            made = []
            for order in list(open_orders.values()):
                held = world.qty
                closable = abs(held) if held * order.side.sign < 0 else Decimal(0)
                rest = order.qty - filled.get(order.id, Decimal(0))
                most = min(rest, closable) if order.reduce_only else rest
                chance = rng.random()
                waits = order.trigger is not None or order.type is OrderType.LIMIT
                if order.id in cancelled and (waits or chance < 0.5):
                    status = OrderStatus.CANCELLED
                elif waits or (chance < 0.4 and not calm):
                    continue
                elif chance < 0.6 and not calm:
                    status = OrderStatus.CANCELLED if filled.get(order.id) else OrderStatus.REJECTED
                elif most <= 0:
                    status = OrderStatus.CANCELLED
                else:
                    part = most if calm else (most * rng.choice((1, 2, 4)) / 4).quantize(Decimal("0.001"))
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


class InBoth(Strategy):
    """Holds two symbols."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.target(kline.symbol, weight=0.2)


@pytest.mark.parametrize(
    ("args", "closed"),
    [
        ({"symbol": SYMBOL}, [SYMBOL]),
        ({"symbol": "ETHUSDT"}, ["ETHUSDT"]),
        ({}, ["ETHUSDT", SYMBOL]),
        ({"symbol": "DOGEUSDT"}, []),  # which the run doesn't trade
    ],
)
@pytest.mark.parametrize("lives", [(LIFE,), ()])
def test_a_flatten_of_a_symbol_closes_only_its_position(
    args: dict[str, str], closed: list[str], lives: tuple[Command, ...]
) -> None:
    both = config(market={"symbols": [SYMBOL, "ETHUSDT"]})
    bars = [
        bar(minute, 100, 100, 100, 100, symbol=symbol)
        for minute in range(8)
        for symbol in (SYMBOL, "ETHUSDT")
    ]
    _, sink = run(InBoth(), in_order(*lives, *bars, command(5.5, "flatten", **args)), both, finish=False)
    orders = [one for one in of(Order, sink.decisions) if one.reason == "flatten"]
    assert sorted({one.symbol for one in orders}) == sorted(closed)
    assert all(one.reduce_only for one in orders) or not lives
