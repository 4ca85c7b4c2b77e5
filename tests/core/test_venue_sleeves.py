"""Sleeves at a venue: whose a report is, what cancels out inside, and what belongs to nobody."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.config import parse
from agent.core.errors import ConfigError
from agent.core.events import (
    AccountSnapshot,
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
from agent.core.sinks import ListSink
from agent.core.sleeve_roster import id_prefix
from agent.core.sleeve_venue import EXCESS
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Strategy
from agent.core.venue import OPENING
from agent.replay.open_engine import check_sleeved
from tests.support.sleeves import BTC

T0, MINUTE = 1_735_689_600_000, 60_000
D = Decimal
BUY, SELL = Side.BUY, Side.SELL


class Account:
    """An account of 10,000 USDT at a venue, reconciled, at a mark of 100; it fills orders when told to."""

    def __init__(
        self,
        *sleeves: tuple[str, str],
        balance: str = "10000",
        foreign: str = "refuse",
        warm: int = 1,
        category: str = "linear",
        limits: dict[str, float] | None = None,
    ) -> None:
        loose = {"max_order": 2.0, "max_position": 1.0, "max_daily_loss": 1.0, "max_drawdown": 1.0}
        named = sleeves or (("x", "0.5"), ("y", "0.4"))
        config = parse(
            {
                "market": {"symbols": [BTC], "category": category},
                "account": {"initial_capital": "10000"},
                "execution": {"mode": "testnet", "testnet": {"foreign": foreign}},
                "risk": loose | (limits or {}),
                "instruments": {BTC: {"qty_step": "0.001", "min_qty": "0.001", "tick_size": "0.1"}},
                "sleeves": [{"name": n, "strategy": n, "share": share} for n, share in named],
            },
            where="test",
        )
        self.config = config
        self.strategies = {name: Strategy() for name, _ in named} | {"later": Strategy()}
        self.sink = ListSink()
        self.engine = SleevedEngine(
            config,
            lambda name, *_: self.strategies[name],
            self.sink,
            run_id="run",
            account=config.execution.account(),
        )
        self.now = T0
        self.number = 0
        self.net, self.wallet = D(0), D(balance)
        self.handle(Command("life", T0, T0, {"incarnation": "a", "cash": "stated"}))
        for _ in range(warm):
            self.bar(100.0)
        self.snapshot()

    def handle(self, *events: Event) -> list[Decision]:
        """Handle events, after each of which the sleeves add up; return the decisions."""
        before = len(self.sink.decisions)
        for event in events:
            self.engine.handle(event)
            self.engine.check()
            self.engine.portfolio.reconcile()
        return self.sink.decisions[before:]

    def bar(self, price: float) -> list[Decision]:
        start, self.now = self.now, self.now + MINUTE
        return self.handle(Kline(BTC, MINUTE, start, self.now, self.now, price, price, price, price, 1.0))

    def snapshot(self, **more: Any) -> list[Decision]:
        held = (PositionSnapshot(BTC, self.net, D(100)),) if self.net else ()
        return self.handle(AccountSnapshot(self.now, self.now, {"USDT": self.wallet}, held, **more))

    def command(self, action: str, **args: str) -> list[Decision]:
        return self.handle(Command(action, self.now, self.now, args, "test"))

    def decide(self, **targets: Any) -> list[Order]:
        """Set targets by sleeve, a weight or arguments; return the orders that go to the venue."""
        for name, target in targets.items():
            self.strategies[name].target(BTC, **(target if isinstance(target, dict) else {"weight": target}))
        return self.leaving(self.bar(100.0))

    def leaving(self, decisions: list[Decision]) -> list[Order]:
        """Return the orders among decisions that the gateway would send."""
        over = {one.order_id for one in decisions if isinstance(one, OrderUpdate) and one.status.final}
        return [one for one in decisions if isinstance(one, Order) and one.id not in over]

    def fill(self, order: Order, qty: str = "", price: str = "100", **more: Any) -> list[Decision]:
        """Report an execution of an order; what is left open of it stays."""
        self.number += 1
        size = D(qty) if qty else order.qty
        self.net += order.side.sign * size
        fee = size * D(price) * D("0.0005")
        name = more.pop("order_id", order.id)
        return self.handle(
            Fill(f"e{self.number}", name, BTC, self.now, self.now, order.side, size, D(price), fee, **more)
        )

    def enter(self, **targets: Any) -> dict[str, Order]:
        """Let the sleeves open positions; return their orders."""
        orders = self.decide(**targets)
        for order in orders:
            self.fill(order)
        return {str(order.sleeve): order for order in orders}

    def held(self, name: str) -> Decimal:
        return self.engine.sleeves[name].engine.portfolio.positions[BTC].qty

    @property
    def unassigned(self) -> Decimal:
        return self.engine.unassigned.positions[BTC].qty


def of(kind: type, decisions: list[Decision]) -> list[Any]:
    return [one for one in decisions if isinstance(one, kind)]


# -- orders --------------------------------------------------------------------------------------------------


def test_the_id_of_an_order_names_its_sleeve() -> None:
    account = Account()
    orders = account.enter(x=0.5, y=0.5)
    for name, order in orders.items():
        assert order.id.startswith(id_prefix("run", name))
        assert len(order.id) == 35
    state = account.engine.venue.open_state()
    assert state.order_ids == {order.id for order in orders.values()}
    assert all(one.startswith(state.run_prefix) for one in state.order_ids)


def test_opposite_orders_of_one_bar_cross_at_the_mark_and_the_rest_goes_out_under_another_id() -> None:
    account = Account()
    account.strategies["x"].target(BTC, weight=0.5)  # buys 25
    account.strategies["y"].target(BTC, weight=-0.25)  # sells 10
    decisions = account.bar(100.0)
    (rest,) = account.leaving(decisions)
    assert (rest.sleeve, rest.side, rest.qty) == ("x", BUY, D(15))
    crossed = of(Fill, decisions)
    assert [(f.sleeve, f.side, f.qty, f.price, f.fee, f.kind) for f in crossed] == [
        ("x", BUY, D(10), D(100), D(0), FillKind.INTERNAL),
        ("y", SELL, D(10), D(100), D(0), FillKind.INTERNAL),
    ]
    first = next(one for one in of(Order, decisions) if one.sleeve == "x")
    ends = {one.order_id: one for one in of(OrderUpdate, decisions)}
    assert (ends[first.id].status, ends[first.id].filled) == (OrderStatus.CANCELLED, D(10))
    assert rest.id in ends[first.id].reason
    assert account.engine.portfolio.positions[BTC].qty == 0
    account.fill(rest)
    assert (account.held("x"), account.held("y")) == (D(25), D(-10))
    assert account.engine.portfolio.positions[BTC].qty == D(15)


def test_an_order_of_an_earlier_event_has_left_and_crosses_nothing() -> None:
    account = Account()
    (bought,) = account.decide(x=0.5)
    (sold,) = account.decide(y=-0.25)
    assert (bought.sleeve, sold.sleeve) == ("x", "y")
    assert not [one for one in of(Fill, account.sink.decisions) if one.kind is FillKind.INTERNAL]


def test_a_report_concerns_the_sleeve_of_its_order_alone() -> None:
    account = Account()
    orders = account.decide(x=0.5, y=0.25)
    account.handle(
        OrderUpdate(orders[0].id, BTC, account.now, account.now, OrderStatus.REJECTED, reason="no margin")
    )
    account.fill(orders[1])
    assert (account.held("x"), account.held("y")) == (D(0), D(10))
    # y bought at 100 for a fee of 0.05 %: 10 x 100 x 0.0005
    assert account.engine.sleeves["y"].engine.portfolio.fees == D("0.5")
    assert account.engine.sleeves["x"].engine.portfolio.cash == D(5000)


def test_the_same_execution_is_booked_once() -> None:
    account = Account()
    (order,) = account.decide(x=0.5)
    fill = Fill("e", order.id, BTC, account.now, account.now, BUY, order.qty, D(100), D(1))
    account.handle(fill, fill)
    assert account.held("x") == order.qty
    assert account.engine.counts["duplicate fills"] == 1


# -- protection ----------------------------------------------------------------------------------------------


def test_the_stop_of_one_sleeve_closes_its_part_and_no_other() -> None:
    account = Account()
    account.enter(x={"weight": 0.5, "stop": -0.1})
    account.enter(y=0.25)
    (stop,) = [w.order for w in account.engine.states[BTC].book]
    assert (stop.type, stop.qty) == (OrderType.STOP, D(25))
    account.fill(stop, price="90")
    assert (account.held("x"), account.held("y")) == (D(0), D(10))


def test_a_trailing_stop_becomes_a_fixed_one() -> None:
    account = Account()
    account.enter(x={"weight": 0.5, "trail": -0.1})
    (working,) = account.engine.states[BTC].book
    assert (working.order.type, working.order.trigger) == (OrderType.STOP, D("90.0"))
    assert account.engine.counts["x: trailing stops that stay fixed, on spot or in a shared position"] == 1


def test_what_exceeds_a_position_is_closed_again() -> None:
    account = Account()
    account.enter(x={"weight": 0.5, "stop": -0.1, "take_profit": 0.1})
    stop, profit = (w.order for w in account.engine.states[BTC].book)
    account.fill(profit, price="110")  # both were triggered before the cancel arrived
    (again,) = of(Order, account.fill(stop, price="90"))
    assert (again.side, again.qty, again.type, again.reason) == (BUY, D(25), OrderType.MARKET, EXCESS)
    assert account.held("x") == D(-25)
    account.fill(again, price="91")
    assert account.held("x") == 0
    assert account.engine.counts["x: fills of reducing orders that exceeded the position"] == 1


# -- attribution ---------------------------------------------------------------------------------------------


def test_the_balance_at_the_start_is_shared_out_and_later_changes_are_unassigned() -> None:
    account = Account(balance="8000", foreign="ignore")
    opening = of(CashAdjustment, account.sink.decisions)
    assert [(one.sleeve or "", one.amount) for one in opening] == [
        ("x", D(-1000)),
        ("y", D(-800)),
        ("", D(-200)),
    ]
    assert all(one.reason == OPENING for one in opening)
    assert account.engine.capital == D(8000)
    assert [one.engine.portfolio.cash for one in account.engine.sleeves.values()] == [D(4000), D(3200)]
    assert account.engine.idle == D(800)
    account.wallet += 100
    (later,) = of(CashAdjustment, account.snapshot(foreign=True))
    assert not later.sleeve
    assert account.engine.idle == D(900)


def test_a_balance_far_below_the_configured_capital_is_no_drawdown() -> None:
    account = Account(balance="500", warm=3, limits={"max_drawdown": 0.1, "max_daily_loss": 0.05})
    for _ in range(3):
        account.bar(100.0)
    assert account.engine.risk.state is RiskState.ACTIVE
    assert [one.engine.risk.state for one in account.engine.sleeves.values()] == [RiskState.ACTIVE] * 2
    account.enter(x=0.5)
    assert account.held("x") == D("1.25")  # half of a half of 500
    for price in (100.0, 50.0, 50.0, 50.0):
        account.bar(price)
    assert account.engine.risk.rule == "max_drawdown"


@pytest.mark.parametrize(
    ("targets", "settled", "expected"),
    [
        ({"x": 0.5, "y": -0.25}, "15", {"x": "-2.5", "y": "1.0"}),  # 25 long and 10 short
        ({"x": 0.5, "y": 0.25}, "35", {"x": "-2.5", "y": "-1.0"}),
        ({"x": 0.5}, "30", {"x": "-2.5", "": "-0.5"}),  # 5 more than the sleeves had
    ],
)
def test_funding_is_paid_by_each_sleeve_for_its_own_position(
    targets: dict[str, float], settled: str, expected: dict[str, str]
) -> None:
    account = Account()
    account.enter(**targets)
    stamp, qty, rate = account.now, D(settled), D("0.001")
    settlement = FundingSettlement("f", BTC, stamp, account.now, rate, qty, D(100), -qty * 100 * rate)
    account.now += 1_000
    payments = of(FundingPayment, account.handle(settlement))
    assert {one.sleeve or "": one.amount for one in payments} == {
        name: D(amount) for name, amount in expected.items()
    }
    assert sum(one.amount for one in payments) == settlement.amount
    assert not of(FundingPayment, account.handle(settlement))


def test_funding_is_for_the_positions_at_the_stamp() -> None:
    account = Account()
    account.enter(x=0.5)
    stamp = account.now
    account.now += 1_000
    account.enter(y=0.25)  # after the stamp, and before the venue reports it
    (payment,) = of(
        FundingPayment,
        account.handle(FundingSettlement("f", BTC, stamp, account.now, D("0.001"), D(25), D(100), D("-2.5"))),
    )
    assert (payment.sleeve, payment.amount) == ("x", D("-2.5"))


@pytest.mark.parametrize("kind", [FillKind.LIQUIDATION, FillKind.TRADE])
def test_what_closes_the_account_s_position_is_divided_among_the_sleeves_that_have_it(kind: FillKind) -> None:
    account = Account(("x", "0.5"), ("y", "0.25"), ("z", "0.25"))
    account.enter(x=0.5, y=0.2)  # 25 and 5
    account.enter(z=-0.4)  # 10 short
    closing = Order("", BTC, account.now, SELL, OrderType.MARKET, D(20))
    name = "twk-0123" if kind is FillKind.TRADE else "theirs"
    parts = of(Fill, account.fill(closing, price="90", kind=kind, order_id=name))
    # 20 in proportion to 25 and 5, in lots of 0.001
    assert [(one.sleeve, one.qty) for one in parts] == [("x", D("16.666")), ("y", D("3.334"))]
    assert sum(one.fee for one in parts) == D(20) * 90 * D("0.0005")
    assert account.engine.portfolio.positions[BTC].qty == 0
    assert account.unassigned == 0
    # what is left of the sleeves nets to nothing at the venue, and a flatten crosses it internally
    orders = account.leaving(account.command("flatten"))
    assert not orders
    assert all(not account.held(name) for name in "xyz")


def test_a_fee_in_base_coin_on_spot_is_of_the_sleeve_that_bought() -> None:
    account = Account(category="spot")
    (bought,) = account.decide(x=0.5)
    account.fill(bought)
    fee = Fill("e.fee", bought.id, BTC, account.now, account.now, SELL, D("0.025"), D(100), D(0))
    account.handle(replace(fee, kind=FillKind.FEE))
    account.enter(y=0.25)
    assert (account.held("x"), account.held("y")) == (D("24.975"), D(10))
    closing, other = account.leaving(account.command("flatten"))
    assert (closing.sleeve, closing.qty, other.sleeve, other.qty) == ("x", D("24.975"), "y", D(10))


def test_an_execution_of_no_sleeve_is_unassigned_and_a_flatten_closes_it() -> None:
    account = Account()
    account.command("older-record", detail="lost")
    lost = Order("tw-ffffffffffffffff", BTC, account.now, BUY, OrderType.MARKET, D(3))
    (fill,) = of(Fill, account.fill(lost))
    assert not fill.sleeve
    assert account.unassigned == D(3)
    assert (account.held("x"), account.held("y")) == (0, 0)
    (closing,) = account.leaving(account.command("flatten"))
    assert (closing.side, closing.qty, closing.reduce_only) == (SELL, D(3), True)
    assert not closing.sleeve
    assert account.engine.flattener.open == [BTC]
    account.fill(closing)
    assert account.unassigned == 0
    assert account.engine.flattener.open == []


def test_an_execution_that_the_record_lacks_belongs_to_the_sleeve_that_its_id_names() -> None:
    account = Account()
    lost = Order(id_prefix("run", "y") + "0" * 18, BTC, account.now, BUY, OrderType.MARKET, D(3))
    account.fill(lost)
    assert account.held("y") == D(3)


def test_a_drift_is_the_account_s_and_an_accepted_account_changes_no_sleeve() -> None:
    account = Account()
    account.enter(x=0.5)
    account.wallet -= D("1.25")  # the fee of 25 x 100
    account.net += 2
    account.snapshot()
    (alarm,) = of(RiskEvent, account.snapshot())
    assert (alarm.sleeve or "", alarm.state, alarm.rule) == ("", RiskState.REDUCING, "drift")
    assert not account.decide(y=0.25)  # no sleeve opens anything
    account.command("resume")
    account.snapshot()
    assert account.unassigned == D(2)
    assert account.held("x") == D(25)
    assert account.engine.venue.held(BTC) == D(27)


# -- commands ------------------------------------------------------------------------------------------------


def test_one_sleeve_is_flattened_and_halted_alone() -> None:
    account = Account()
    account.enter(x={"weight": 0.5, "stop": -0.1})
    account.enter(y=0.25)
    (closing,) = account.leaving(account.command("flatten", sleeve="x"))
    assert (closing.sleeve, closing.side, closing.qty) == ("x", SELL, D(25))
    cancels = of(Cancel, account.fill(closing))
    assert [one.reason for one in cancels] == ["position closed"]
    account.command("halt", sleeve="x")
    assert account.engine.sleeves["x"].engine.risk.halted
    assert account.engine.risk.state is RiskState.ACTIVE
    (order,) = account.decide(x=0.5, y=0.5)
    assert (order.sleeve, account.held("y")) == ("y", D(10))


def test_a_kill_closes_all_sleeves_and_opposite_positions_cross() -> None:
    account = Account()
    account.enter(x=0.5)
    account.enter(y=-0.25)
    decisions = account.command("kill", flatten="true")
    (rest,) = account.leaving(decisions)
    assert (rest.sleeve, rest.side, rest.qty) == ("x", SELL, D(15))
    account.fill(rest)
    assert (account.held("x"), account.held("y")) == (0, 0)
    assert account.engine.risk.killed
    assert not account.decide(x=0.5, y=-0.5)


def test_a_sleeve_is_added_and_removed_at_a_venue_with_its_share_of_the_balance() -> None:
    account = Account(balance="8000")
    definition = '{"name": "later", "strategy": "later", "share": "0.1"}'
    account.command("add-sleeve", sleeve="later", definition=definition)
    ledger = account.engine.sleeves["later"].engine.portfolio
    assert (ledger.cash, account.engine.idle) == (D(800), D(0))
    account.enter(later=0.5)
    assert account.held("later") == D(4)
    (closing,) = account.leaving(account.command("remove-sleeve", sleeve="later"))
    account.fill(closing)
    account.bar(100.0)
    assert "later" not in account.engine.sleeves
    assert account.engine.idle == D(800) - 2 * D("0.2")  # 4 x 100 x 0.0005, twice


def test_a_leaving_sleeve_gives_up_what_the_venue_takes_no_order_for() -> None:
    account = Account()
    account.enter(x=0.5)
    (closing,) = account.leaving(account.command("remove-sleeve", sleeve="x"))
    account.fill(closing, qty="24.999")  # the rest, worth 0.1, is below the smallest order
    account.handle(OrderUpdate(closing.id, BTC, account.now, account.now, OrderStatus.CANCELLED, D("24.999")))
    account.bar(100.0)
    assert "x" not in account.engine.sleeves
    assert account.unassigned == D("0.001")
    notes = [one.detail for one in of(RiskEvent, account.sink.decisions)]
    assert "0.001 BTCUSDT of x are too small to close, and unassigned" in notes
    assert not account.leaving(account.command("flatten"))
    last = of(RiskEvent, account.sink.decisions)[-1]
    assert last.detail == "0.001 BTCUSDT stay: the venue takes no order that small"


def test_adopted_positions_would_be_of_no_sleeve() -> None:
    with pytest.raises(ConfigError, match="adopted positions would be of none"):
        check_sleeved(Account(foreign="adopt").config)


# -- in any order --------------------------------------------------------------------------------------------

_STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("x", "y", "both", "fill", "part", "reject", "liquidate", "funding", "flatten", "one")
        ),
        st.integers(-4, 4),
        st.integers(0, 3),
    ),
    max_size=25,
)


@given(_STEPS)
def test_the_sleeves_add_up_to_the_account_whatever_the_venue_reports(
    steps: list[tuple[str, int, int]],
) -> None:
    account, waiting = Account(), list[Order]()
    for what, weight, which in steps:
        begun = len(account.sink.decisions)
        order = waiting[which % len(waiting)] if waiting else None
        if what in ("x", "y"):
            account.decide(**{what: {"weight": weight / 8, "stop": -0.1 if weight > 0 else 0.1}})
        elif what == "both":
            account.decide(x=weight / 8, y=-weight / 10)
        elif what in ("fill", "part") and order is not None:
            done = account.engine.venue.open_state().orders
            left = next((one.order.qty - one.executed_qty for one in done if one.order.id == order.id), D(0))
            qty = left if what == "fill" else (left / 2).quantize(D("0.001"))
            if qty > 0:
                account.fill(order, qty=str(qty), price=str(100 + weight))
        elif what == "reject" and order is not None:
            account.handle(OrderUpdate(order.id, BTC, account.now, account.now, OrderStatus.CANCELLED))
        elif what == "liquidate" and (net := account.engine.portfolio.positions[BTC].qty):
            side = SELL if net > 0 else BUY
            closing = Order("", BTC, account.now, side, OrderType.MARKET, abs(net))
            account.fill(closing, kind=FillKind.LIQUIDATION, order_id="theirs")
        elif what == "funding":
            qty = account.engine.portfolio.positions[BTC].qty
            amount = -qty * D("0.0123456789")
            account.number += 1
            account.handle(
                FundingSettlement(
                    f"f{account.number}", BTC, account.now, account.now, D("0.0001"), qty, D(100), amount
                )
            )
        elif what in ("flatten", "one"):
            account.command("flatten", **({"sleeve": "x"} if what == "one" else {}))
        waiting += account.leaving(account.sink.decisions[begun:])
    fills = of(Fill, account.sink.decisions)
    for name in ("x", "y"):
        mine = [one for one in fills if one.sleeve == name]
        assert account.held(name) == sum((one.side.sign * one.qty for one in mine), D(0))
    assert sum((one.side.sign * one.qty for one in fills if one.kind is FillKind.INTERNAL), D(0)) == 0
