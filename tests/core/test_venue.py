"""The core's side of a venue: whatever comes, in whatever order and however often, is booked once and leads to the same end."""

from __future__ import annotations

import random
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import parse
from agent.core.engine import Engine
from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    FundingPayment,
    FundingSettlement,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    PositionSnapshot,
    RiskEvent,
    RiskState,
    Side,
)
from agent.core.portfolio import Portfolio
from agent.core.sinks import ListSink
from agent.core.strategy import Strategy
from agent.core.venue import VenueExchange
from tests.support.netting import NetPosition

SYMBOL, T0, MINUTE = "BTCUSDT", 1_735_689_600_000, 60_000
D = Decimal


class World:
    """An engine in testnet mode whose account is known: 10,000 USDT, a mark of 100."""

    def __init__(
        self,
        foreign: str = "refuse",
        category: str = "linear",
        holdings: tuple[PositionSnapshot, ...] = (),
        strategy: Strategy | None = None,
        *,
        states_cash: bool = True,
    ) -> None:
        config = parse(
            {
                "market": {"symbols": [SYMBOL], "category": category},
                "execution": {"mode": "testnet", "testnet": {"foreign": foreign}},
                "strategy": {"name": "sma_cross"},
            },
            where="test",
        )
        self.config = config
        self.sink = ListSink()
        self.strategy = strategy or Strategy()
        self.engine = Engine(
            config, self.strategy, self.sink, run_id="run", exchange=config.execution.exchange()
        )
        ledger = self.engine.exchange
        assert isinstance(ledger, VenueExchange)
        self.ledger = ledger
        self.now = T0
        self.balance = D(10_000)
        self.tell(
            Command(
                "life",
                T0,
                T0,
                {"incarnation": "a", "cash": "stated"} if states_cash else {"incarnation": "a"},
            )
        )
        self.bar(100.0)
        self.account(holdings)

    def tell(self, *events: Event) -> list[Decision]:
        """What these inputs lead to."""
        before = len(self.sink.decisions)
        for event in events:
            self.engine.handle(event)
        return self.sink.decisions[before:]

    def bar(self, price: float) -> list[Decision]:
        start, self.now = self.now, self.now + MINUTE
        return self.tell(Kline(SYMBOL, MINUTE, start, self.now, self.now, price, price, price, price, 1.0))

    def account(
        self,
        holdings: tuple[PositionSnapshot, ...] = (),
        *,
        usdt: str | None = None,
        foreign: bool = False,
        settled: bool = True,
        **coins: str,
    ) -> list[Decision]:
        balances = {"USDT": self.balance if usdt is None else D(usdt)} | {
            coin: D(qty) for coin, qty in coins.items()
        }
        return self.tell(
            AccountSnapshot(self.now, self.now, balances, holdings, foreign=foreign, settled=settled)
        )

    def order(self, weight: float = 0.1, **more: Any) -> Order:
        """A strategy's target; the order that it leads to."""
        self.strategy.target(SYMBOL, weight=weight, **more)
        found = [one for one in self.bar(100.0) if isinstance(one, Order)]
        assert len(found) == 1
        return found[0]

    def fill(self, order: Order, qty: str, number: int = 1, **more: Any) -> Fill:
        given = {"price": D(100), "fee": D("0.05")} | more
        return Fill(f"{order.id}.{number}", order.id, SYMBOL, self.now, self.now, order.side, D(qty), **given)

    def update(self, order: Order, status: OrderStatus, filled: str = "0") -> OrderUpdate:
        return OrderUpdate(order.id, SYMBOL, self.now, self.now, status, D(filled))

    @property
    def qty(self) -> Decimal:
        return self.engine.portfolio.positions[SYMBOL].qty


def folded(world: World) -> Portfolio:
    """The ledger as its decisions alone lead to it: what dashboard, report and MQTT see."""
    ledger = Portfolio(D(10_000), [SYMBOL])
    ledger.positions[SYMBOL].mark = world.engine.portfolio.positions[SYMBOL].mark
    for decision in world.sink.decisions:
        match decision:
            case Fill():
                ledger.apply(decision)
            case FundingPayment():
                ledger.pay(decision)
            case CashAdjustment():
                ledger.transfer(decision.amount)
    return ledger


def assert_folds(world: World) -> None:
    ours, theirs = world.engine.portfolio, folded(world)
    assert (theirs.initial, theirs.cash, theirs.equity()) == (ours.initial, ours.cash, ours.equity())


def of(kind: type, decisions: list[Decision]) -> list[Any]:
    return [one for one in decisions if isinstance(one, kind)]


def test_an_order_leaves_as_a_decision_and_is_not_filled_by_bars() -> None:
    world = World()
    order = world.order(0.1)
    assert (order.type, order.qty) == (OrderType.MARKET, D(10))
    assert not of(Fill, world.bar(50.0))
    assert world.qty == 0


def test_an_order_is_asked_back_once_however_often_a_person_says_so() -> None:
    world = World()
    order = world.order(0.1, limit=90.0)
    halts = [Command(action, world.now, world.now, {}, "test") for action in ("kill", "halt", "kill")]
    assert [one.order_id for one in of(Cancel, world.tell(*halts))] == [order.id]


ANSWERS = ("NEW", "fill 4", "fill 6", "PARTIALLY_FILLED 4", "FILLED 10")


@pytest.mark.parametrize("answers", sorted(permutations(ANSWERS))[::7])
def test_the_order_of_a_venues_answers_does_not_matter(answers: tuple[str, ...]) -> None:
    world = World()
    order = world.order(0.1)
    for answer in (*answers, *answers):  # and all once more
        word, _, qty = answer.partition(" ")
        world.tell(
            world.fill(order, qty, int(qty))
            if word == "fill"
            else world.update(order, OrderStatus(word), qty or "0")
        )
    assert world.qty == D(10)
    assert not world.ledger.orders
    assert not world.engine.states[SYMBOL].book
    ends = [one for one in of(OrderUpdate, world.sink.decisions) if one.status.final]
    assert [(one.status, one.filled) for one in ends] == [(OrderStatus.FILLED, D(10))]
    assert world.engine.portfolio.fees == D("0.10")
    world.engine.portfolio.reconcile()


@given(
    st.lists(
        st.sampled_from(
            ["fill 1", "fill 2", "NEW", "PARTIALLY_FILLED 3", "CANCELLED 3", "CANCELLED 0", "REJECTED 0"]
        ),
        max_size=12,
    )
)
def test_no_story_of_a_venue_books_a_fill_twice_or_leaves_the_ledger_unsound(story: list[str]) -> None:
    world = World()
    order = world.order(0.1)
    for word in story:
        kind, _, number = word.partition(" ")
        world.tell(
            world.fill(order, number, int(number))
            if kind == "fill"
            else world.update(order, OrderStatus(kind), number or "0")
        )
    told = {word for word in story if word.startswith("fill")}
    assert world.qty == sum((D(word[-1]) for word in told), D(0))
    world.engine.portfolio.reconcile()
    finals = [one for one in of(OrderUpdate, world.sink.decisions) if one.status.final]
    assert len(finals) <= 1
    assert_folds(world)


def test_a_cancel_that_meets_a_fill_loses_nothing() -> None:
    world = World()
    order = world.order(0.1, limit=99.0)
    world.tell(world.update(order, OrderStatus.NEW))
    world.strategy.target(SYMBOL, weight=0.0)
    cancels = of(Cancel, world.bar(100.0))
    assert [one.order_id for one in cancels] == [order.id]
    assert not of(Cancel, world.bar(100.0))  # asked once
    assert not of(Order, world.tell(world.fill(order, "2")))  # filled a little before the venue took it back
    after = world.tell(world.update(order, OrderStatus.CANCELLED, "5"))
    assert order.id in world.ledger.orders  # a fill of 3 is still under way
    after += world.tell(world.fill(order, "3", 2))
    assert order.id not in world.ledger.orders
    (out,) = of(Order, after)
    assert (out.side, out.qty, out.reduce_only) == (Side.SELL, D(5), True)


def test_a_target_waits_for_what_stands_in_its_way() -> None:
    world = World()
    entry = world.order(0.1, limit=99.0)
    world.tell(world.update(entry, OrderStatus.NEW))
    world.strategy.target(SYMBOL, weight=0.05)
    first = world.bar(100.0)
    assert (len(of(Cancel, first)), len(of(Order, first))) == (1, 0)
    (order,) = of(Order, world.tell(world.update(entry, OrderStatus.CANCELLED)))
    assert order.qty == D(5)


def test_protection_is_placed_at_the_first_fill_follows_the_position_and_excludes_itself() -> None:
    world = World()
    entry = world.order(0.1, stop=-0.1, take_profit=0.2)
    stop, profit = of(Order, world.tell(world.fill(entry, "4", 1)))
    assert [(one.type, one.side, one.qty, one.trigger) for one in (stop, profit)] == [
        (OrderType.STOP, Side.SELL, D(4), D("90.0")), (OrderType.TAKE_PROFIT, Side.SELL, D(4), D("120.0")),
    ]  # fmt: skip
    assert stop.reduce_only
    assert stop.oco == profit.oco == entry.id
    amends = of(Amend, world.tell(world.fill(entry, "6", 2)))
    assert {(one.order_id, one.qty) for one in amends} == {(stop.id, D(10)), (profit.id, D(10))}
    cancels = of(Cancel, world.tell(world.fill(stop, "10", 1)))
    assert [one.order_id for one in cancels] == [profit.id]
    world.tell(world.update(profit, OrderStatus.CANCELLED))
    assert not world.ledger.orders
    assert world.qty == 0


def test_a_stop_that_the_venue_refuses_closes_the_position() -> None:
    world = World()
    entry = world.order(0.1, stop=-0.1)
    (stop,) = of(Order, world.tell(world.fill(entry, "10")))
    after = world.tell(world.update(stop, OrderStatus.REJECTED))
    (closing,) = of(Order, after)
    assert (closing.type, closing.side, closing.qty, closing.reduce_only) == (
        OrderType.MARKET,
        Side.SELL,
        D(10),
        True,
    )


def test_a_kill_asks_for_every_order_back() -> None:
    world = World()
    entry = world.order(0.1, stop=-0.1)
    (stop,) = of(Order, world.tell(world.fill(entry, "4")))
    after = world.tell(Command("kill", world.now, world.now, {}, "test"))
    assert {one.order_id for one in of(Cancel, after)} == {entry.id, stop.id}
    assert world.engine.risk.state is RiskState.HALTED


def test_a_gap_in_the_record_takes_entries_back_and_opens_nothing_until_a_person_resumes() -> None:
    world = World()
    entry = world.order(0.1, stop=-0.1)
    (stop,) = of(Order, world.tell(world.fill(entry, "4")))
    behind = Command(
        "record-behind", world.now, world.now, {"detail": "the store lacks the last 5 events"}, "daemon"
    )
    after = world.tell(behind)
    assert [one.order_id for one in of(Cancel, after)] == [entry.id]  # protection stays
    assert stop.reduce_only
    (alarm,) = of(RiskEvent, after)
    assert (alarm.state, alarm.rule, alarm.detail) == (
        RiskState.REDUCING,
        "older record",
        "the store lacks the last 5 events",
    )
    world.tell(world.update(entry, OrderStatus.CANCELLED, "4"))
    world.strategy.target(SYMBOL, weight=0.2)
    assert not of(Order, world.bar(100.0))
    world.tell(Command("resume", world.now, world.now, {}, "person"))
    assert world.order(0.2)


def test_funding_counts_once() -> None:
    world = World()
    paid = FundingSettlement("f1", SYMBOL, world.now, world.now, D("0.0001"), D(10), D(100), D("-0.1"))
    assert len(of(FundingPayment, world.tell(paid, paid))) == 1
    assert world.engine.portfolio.funding == D("-0.1")


# -- the account -------------------------------------------------------------------------------------------------------


def test_every_change_of_cash_is_a_decision() -> None:
    """The account has 10,250 USDT at the start, 3 BTC are held by hand at 90, and a person accepts 10,240."""
    world = World()
    world.ledger.opened = False
    world.account(usdt="10250")
    (first,) = of(CashAdjustment, world.sink.decisions)
    assert (first.amount, first.currency, first.reason) == (
        D(250),
        "USDT",
        "the account's balance when the run began",
    )
    held = (PositionSnapshot(SYMBOL, D(3), D(90)),)
    world.account(held, usdt="10240"), world.account(held, usdt="10240")
    world.tell(Command("resume", world.now, world.now, {}, "test"))
    world.account(held, usdt="10240")
    (second,) = of(CashAdjustment, world.sink.decisions)[1:]
    assert second.amount == D(-10)
    assert world.engine.portfolio.exact_equity() == D(10_240) + 3 * 10
    assert_folds(world)


def test_a_life_of_an_earlier_version_decides_as_it_did() -> None:
    world = World(states_cash=False)
    world.ledger.opened = False
    world.account(usdt="10250")
    assert world.engine.portfolio.cash == D(10_250)
    assert not of(CashAdjustment, world.sink.decisions)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["resume", "account", "strangers"]),
            st.integers(-5, 5),
            st.integers(9_900, 10_100),
        ),
        max_size=12,
    ),
    st.sampled_from(["adopt", "ignore", "refuse"]),
)
def test_the_decisions_lead_to_the_ledger_whatever_the_account_does(
    story: list[tuple[str, int, int]], foreign: str
) -> None:
    world = World(foreign)
    for what, qty, usdt in story:
        held = (PositionSnapshot(SYMBOL, D(qty), D(95)),) if qty else ()
        if what == "resume":
            world.tell(Command("resume", world.now, world.now, {}, "test"))
        world.account(held, usdt=str(usdt), foreign=what == "strangers")
        assert_folds(world)


def test_the_first_account_is_where_the_ledger_begins() -> None:
    world = World()
    assert world.engine.portfolio.exact_equity() == D(10_000)
    assert not world.engine.risk.unreconciled
    world.account(usdt="9999.99")
    assert world.ledger.drift == ""  # a cent is no drift
    world.account(usdt="9999.90")
    assert world.ledger.drift == "USDT: 9999.90 at the venue, 10000 in the ledger"


def test_drift_is_an_alarm_when_it_stays_and_ends_by_itself_or_by_a_person() -> None:
    world = World()
    held = (PositionSnapshot(SYMBOL, D(3), D(100)),)
    assert not world.account(held)
    (alarm,) = world.account(held)
    assert (alarm.state, alarm.rule) == (RiskState.REDUCING, "drift")
    (relief,) = world.account()
    assert relief.state is RiskState.ACTIVE
    world.account(held), world.account(held)
    world.tell(Command("resume", world.now, world.now, {}, "test"))
    world.account(held)
    assert (world.qty, world.ledger.drift) == (D(3), "")


def test_a_person_accepts_no_account_that_may_not_show_the_last_executions() -> None:
    """A stranger has just bought 1 of 3: the view still shows 2, and the settled look after it 3."""
    world = World()
    older, newer = (PositionSnapshot(SYMBOL, D(2), D(100)),), (PositionSnapshot(SYMBOL, D(3), D(100)),)
    world.account(older), world.account(older)
    world.tell(Command("resume", world.now, world.now, {}, "test"))
    assert not of(Fill, world.account(older, settled=False))
    assert (world.qty, world.ledger.drift, world.engine.risk.state) == (D(0), "", RiskState.ACTIVE)
    world.account(newer)
    assert (world.qty, world.ledger.drift) == (D(3), "")
    assert not world.account(newer)


def test_an_account_that_differs_does_not_open_trading() -> None:
    world = World()
    world.tell(Command("reconciling", world.now, world.now))
    world.account(usdt="5")
    assert world.engine.risk.unreconciled
    world.account()
    assert not world.engine.risk.unreconciled


@pytest.mark.parametrize(("foreign", "ours"), [("adopt", "3"), ("ignore", "0"), ("refuse", "0")])
def test_a_position_from_before_is_adopted_or_set_aside(foreign: str, ours: str) -> None:
    world = World(foreign, holdings=(PositionSnapshot(SYMBOL, D(3), D(90)),))
    assert world.qty == D(ours)
    assert world.ledger.held(SYMBOL) == D(3)
    assert world.engine.portfolio.exact_equity() == D(10_000) + D(ours) * 10  # its gain is not realised yet


def test_what_others_do_later_is_none_of_our_business_where_so_configured() -> None:
    world = World("ignore")
    world.account((PositionSnapshot(SYMBOL, D(2), D(100)),), usdt="9000", foreign=True)
    assert (world.qty, world.ledger.drift) == (0, "")
    world.account((PositionSnapshot(SYMBOL, D(2), D(100)),), usdt="9000")
    assert world.ledger.drift == ""


class Netted(NetPosition):
    """The account's one position, and its wallet."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    @property
    def wallet(self) -> Decimal:
        return D(10_000) + self.realised

    def look(self, *, missing: str = "0", foreign: bool = False) -> str:
        """What the ledger finds to differ from the account, less what is `missing` of its money."""
        holdings = (PositionSnapshot(SYMBOL, self.qty, self.entry.quantize(D("1e-8"))),) if self.qty else ()
        self.world.account(holdings, usdt=str(self.wallet - D(missing)), foreign=foreign)
        return self.world.ledger.drift


TRADES = st.lists(st.tuples(st.integers(-5, 5).filter(bool), st.integers(50, 200)), max_size=8)


@given(TRADES, st.randoms(use_true_random=False))
def test_fills_that_are_heard_of_in_another_order_are_no_drift(
    trades: list[tuple[int, int]], dice: random.Random
) -> None:
    """Which profit is realised depends on the order; what was paid in all does not."""
    world = World()
    venue = Netted(world)
    fills = []
    for number, (qty, price) in enumerate(trades):
        venue.trade(D(qty), D(price))
        side = Side.BUY if qty > 0 else Side.SELL
        fills.append(Fill(str(number), "", SYMBOL, world.now, world.now, side, D(abs(qty)), D(price), D(0)))
    dice.shuffle(fills)
    world.tell(*fills)
    assert venue.look() == ""
    assert venue.look(missing="0.02") != ""


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5).filter(bool), st.integers(50, 200)), max_size=8))
def test_what_strangers_hold_of_the_same_symbol_is_no_drift(trades: list[tuple[bool, int, int]]) -> None:
    """A venue nets their position with ours, and realises profits by an average that isn't ours."""
    world = World("ignore")
    venue = Netted(world)
    for number, (theirs, qty, price) in enumerate(trades):
        venue.trade(D(qty), D(price))
        if not theirs:
            side = Side.BUY if qty > 0 else Side.SELL
            world.tell(Fill(str(number), "", SYMBOL, world.now, world.now, side, D(abs(qty)), D(price), D(0)))
        assert venue.look(foreign=theirs) == ""
    ours = sum(qty for theirs, qty, _ in trades if not theirs)
    assert (world.qty, world.ledger.held(SYMBOL)) == (ours, venue.qty)
    assert venue.look(missing="0.02") != ""
    assert venue.look() == ""
    if not ours and not venue.qty:
        assert world.ledger.wallet() == venue.wallet


def test_a_position_that_is_taken_over_has_the_entry_price_of_the_account() -> None:
    world = World("adopt")
    ledger = world.ledger
    world.tell(Fill("1", "", SYMBOL, world.now, world.now, Side.BUY, D(1), D(100), D(0)))
    (
        world.account((PositionSnapshot(SYMBOL, D(4), D(90)),)),
        world.account((PositionSnapshot(SYMBOL, D(4), D(90)),)),
    )
    assert ledger.drift
    world.tell(Command("resume", world.now, world.now, {}, "test"))
    world.account((PositionSnapshot(SYMBOL, D(4), D(90)),))
    position = world.engine.portfolio.positions[SYMBOL]
    assert (position.qty, position.entry_price, ledger.wallet()) == (D(4), D(90), D(10_000))
    world.engine.portfolio.reconcile()


@pytest.mark.parametrize("held", [-3, -1, 1, 3])
def test_each_part_of_a_position_that_is_taken_over_is_a_fill_of_its_own(held: int) -> None:
    world = World("adopt")
    world.tell(Fill("1", "", SYMBOL, world.now, world.now, Side.BUY, D(2), D(100), D(0)))
    holdings = (PositionSnapshot(SYMBOL, D(held), D(90)),)
    world.account(holdings), world.account(holdings)
    world.tell(Command("resume", world.now, world.now, {}, "test"))
    parts = of(Fill, world.account(holdings))
    assert [(one.side.sign * one.qty, one.price) for one in parts] == [(-2, 100), (held, 90)]
    assert len({one.id for one in parts}) == 2


def test_an_account_that_is_accepted_has_no_strangers_any_more() -> None:
    world = World("ignore", holdings=(PositionSnapshot(SYMBOL, D(3), D(100)),))
    held = (PositionSnapshot(SYMBOL, D(5), D(100)),)
    world.account(held), world.account(held)
    world.tell(Command("resume", world.now, world.now, {}, "test"))
    world.account(held)
    assert (world.qty, world.ledger.held(SYMBOL), world.ledger.drift) == (D(5), D(5), "")


def test_a_fee_in_base_coin_is_a_little_less_of_it() -> None:
    world = World(category="spot")
    order = world.order(0.1)
    trade = world.fill(order, "10", price=D(100), fee=D(1))
    kept = Fill(
        f"{trade.id}.fee",
        order.id,
        SYMBOL,
        world.now,
        world.now,
        Side.SELL,
        D("0.01"),
        D(100),
        D(0),
        kind=FillKind.FEE,
    )
    world.tell(trade, kept, world.update(order, OrderStatus.FILLED, "10"))
    assert world.qty == D("9.99")
    assert not world.account((PositionSnapshot(SYMBOL, D("9.99")),), usdt="9000")
    assert world.ledger.drift == ""
    assert not world.ledger.orders


# -- moved stops -----------------------------------------------------------------------------------------------------


def protected(world: World) -> Order:
    """A filled entry of 10 at 100 whose stop at 95 the venue has; the stop."""
    entry = world.order(stop=-0.05)
    [stop] = [d for d in world.tell(world.fill(entry, str(entry.qty))) if isinstance(d, Order)]
    world.tell(world.update(stop, OrderStatus.UNTRIGGERED))
    return stop


def moved(world: World, stop: float) -> tuple[list[Decision], Order]:
    """What the same weight with another stop leads to, and its new order."""
    world.strategy.target(SYMBOL, weight=0.1, stop=stop)
    decisions = world.bar(100.0)
    [order] = [d for d in decisions if isinstance(d, Order)]
    return decisions, order


def test_a_moved_stop_is_placed_first_and_the_old_one_cancelled_once_the_venue_has_it() -> None:
    world = World()
    old = protected(world)

    decisions, new = moved(world, -0.02)

    assert (new.type, new.trigger, new.qty, new.oco) == (OrderType.STOP, D("98.00"), old.qty, old.oco)
    assert not [d for d in decisions if isinstance(d, Cancel)]
    [cancel] = [d for d in world.tell(world.update(new, OrderStatus.UNTRIGGERED)) if isinstance(d, Cancel)]
    assert (cancel.order_id, cancel.reason) == (old.id, "replaced by a newer trigger")
    world.tell(world.update(old, OrderStatus.CANCELLED))
    assert [w.order.id for w in world.ledger.books[SYMBOL]] == [new.id]


def test_a_moved_stop_that_the_venue_refuses_leaves_the_old_one_at_work() -> None:
    world = World()
    old = protected(world)
    _, new = moved(world, -0.02)

    decisions = world.tell(world.update(new, OrderStatus.REJECTED))

    assert not [d for d in decisions if isinstance(d, Order | Cancel)]
    assert [w.order.id for w in world.ledger.books[SYMBOL]] == [old.id]


def test_a_moved_stop_that_was_reached_meanwhile_closes_the_position() -> None:
    world = World()
    protected(world)
    _, new = moved(world, -0.02)
    world.bar(97.0)

    decisions = world.tell(world.update(new, OrderStatus.REJECTED))

    [closing] = [d for d in decisions if isinstance(d, Order)]
    assert (closing.type, closing.side, closing.reduce_only) == (OrderType.MARKET, Side.SELL, True)


def test_a_stop_that_is_moved_twice_before_the_venue_has_it_leaves_the_newest() -> None:
    world = World()
    old = protected(world)
    _, first = moved(world, -0.03)
    _, second = moved(world, -0.02)

    cancels = [
        d.order_id for d in world.tell(world.update(first, OrderStatus.UNTRIGGERED)) if isinstance(d, Cancel)
    ]
    cancels += [
        d.order_id for d in world.tell(world.update(second, OrderStatus.UNTRIGGERED)) if isinstance(d, Cancel)
    ]

    assert cancels == [old.id, first.id]


def test_a_target_with_the_stop_that_works_changes_nothing() -> None:
    world = World()
    protected(world)

    world.strategy.target(SYMBOL, weight=0.1, stop=-0.05)

    assert world.bar(100.0) == []


def test_history_moves_no_stop() -> None:
    world = World()
    protected(world)
    world.tell(Command("warm-up", world.now, world.now, {}, "daemon"))

    world.strategy.target(SYMBOL, weight=0.1, stop=-0.02)

    assert not [d for d in world.bar(100.0) if isinstance(d, Order)]
