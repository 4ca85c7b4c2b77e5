"""The venue exchange books every report once, whatever the order and number of reports."""

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


class EngineHarness:
    """An engine in testnet mode with a reconciled account of 10,000 USDT and a mark price of 100."""

    def __init__(
        self,
        foreign: str = "refuse",
        category: str = "linear",
        holdings: tuple[PositionSnapshot, ...] = (),
        strategy: Strategy | None = None,
        *,
        states_cash: bool = True,
        discounts_transfers: bool = True,
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
        exchange = self.engine.exchange
        assert isinstance(exchange, VenueExchange)
        self.exchange = exchange
        self.now = T0
        self.balance = D(10_000)
        abilities = {"cash": "stated"} if states_cash else {}
        abilities |= {"transfers": "discounted"} if discounts_transfers else {}
        self.handle(Command("life", T0, T0, {"incarnation": "a"} | abilities))
        self.bar(100.0)
        self.account(holdings)

    def handle(self, *events: Event) -> list[Decision]:
        """Handle events; return the decisions that they lead to."""
        before = len(self.sink.decisions)
        for event in events:
            self.engine.handle(event)
        return self.sink.decisions[before:]

    def bar(self, price: float) -> list[Decision]:
        start, self.now = self.now, self.now + MINUTE
        return self.handle(Kline(SYMBOL, MINUTE, start, self.now, self.now, price, price, price, price, 1.0))

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
        return self.handle(
            AccountSnapshot(self.now, self.now, balances, holdings, foreign=foreign, settled=settled)
        )

    def order(self, weight: float = 0.1, **more: Any) -> Order:
        """Set a target; return the order that it leads to."""
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


def folded(harness: EngineHarness) -> Portfolio:
    """Rebuild the ledger from decisions alone, as dashboard, report and MQTT do."""
    ledger = Portfolio(D(10_000), [SYMBOL])
    ledger.positions[SYMBOL].mark = harness.engine.portfolio.positions[SYMBOL].mark
    for decision in harness.sink.decisions:
        match decision:
            case Fill():
                ledger.apply(decision)
            case FundingPayment():
                ledger.pay(decision)
            case CashAdjustment():
                ledger.transfer(decision.amount)
    return ledger


def assert_folds(harness: EngineHarness) -> None:
    ours, theirs = harness.engine.portfolio, folded(harness)
    assert (theirs.initial, theirs.cash, theirs.equity()) == (ours.initial, ours.cash, ours.equity())


def of(kind: type, decisions: list[Decision]) -> list[Any]:
    return [one for one in decisions if isinstance(one, kind)]


def test_an_order_leaves_as_a_decision_and_is_not_filled_by_bars() -> None:
    harness = EngineHarness()
    order = harness.order(0.1)
    assert (order.type, order.qty) == (OrderType.MARKET, D(10))
    assert not of(Fill, harness.bar(50.0))
    assert harness.qty == 0


def test_an_order_is_cancelled_once_however_many_commands_cancel_it() -> None:
    harness = EngineHarness()
    order = harness.order(0.1, limit=90.0)
    halts = [Command(action, harness.now, harness.now, {}, "test") for action in ("kill", "halt", "kill")]
    assert [one.order_id for one in of(Cancel, harness.handle(*halts))] == [order.id]


ANSWERS = ("NEW", "fill 4", "fill 6", "PARTIALLY_FILLED 4", "FILLED 10")


@pytest.mark.parametrize("answers", sorted(permutations(ANSWERS))[::7])
def test_reports_may_come_in_any_order_and_twice(answers: tuple[str, ...]) -> None:
    harness = EngineHarness()
    order = harness.order(0.1)
    for answer in (*answers, *answers):  # each report twice
        word, _, qty = answer.partition(" ")
        harness.handle(
            harness.fill(order, qty, int(qty))
            if word == "fill"
            else harness.update(order, OrderStatus(word), qty or "0")
        )
    assert harness.qty == D(10)
    assert not harness.exchange.orders
    assert not harness.engine.states[SYMBOL].book
    ends = [one for one in of(OrderUpdate, harness.sink.decisions) if one.status.final]
    assert [(one.status, one.filled) for one in ends] == [(OrderStatus.FILLED, D(10))]
    assert harness.engine.portfolio.fees == D("0.10")
    harness.engine.portfolio.reconcile()


@given(
    st.lists(
        st.sampled_from(
            ["fill 1", "fill 2", "NEW", "PARTIALLY_FILLED 3", "CANCELLED 3", "CANCELLED 0", "REJECTED 0"]
        ),
        max_size=12,
    )
)
def test_no_sequence_of_reports_books_a_fill_twice_or_breaks_the_ledger(story: list[str]) -> None:
    harness = EngineHarness()
    order = harness.order(0.1)
    for word in story:
        kind, _, number = word.partition(" ")
        harness.handle(
            harness.fill(order, number, int(number))
            if kind == "fill"
            else harness.update(order, OrderStatus(kind), number or "0")
        )
    told = {word for word in story if word.startswith("fill")}
    assert harness.qty == sum((D(word[-1]) for word in told), D(0))
    harness.engine.portfolio.reconcile()
    finals = [one for one in of(OrderUpdate, harness.sink.decisions) if one.status.final]
    assert len(finals) <= 1
    assert_folds(harness)


def test_a_fill_during_a_cancel_is_booked() -> None:
    harness = EngineHarness()
    order = harness.order(0.1, limit=99.0)
    harness.handle(harness.update(order, OrderStatus.NEW))
    harness.strategy.target(SYMBOL, weight=0.0)
    cancels = of(Cancel, harness.bar(100.0))
    assert [one.order_id for one in cancels] == [order.id]
    assert not of(Cancel, harness.bar(100.0))  # cancelled once
    assert not of(Order, harness.handle(harness.fill(order, "2")))  # filled just before the cancel
    after = harness.handle(harness.update(order, OrderStatus.CANCELLED, "5"))
    assert order.id in harness.exchange.orders  # a fill of 3 has yet to be reported
    after += harness.handle(harness.fill(order, "3", 2))
    assert order.id not in harness.exchange.orders
    (out,) = of(Order, after)
    assert (out.side, out.qty, out.reduce_only) == (Side.SELL, D(5), True)


def test_a_target_waits_for_the_cancel_of_an_older_order() -> None:
    harness = EngineHarness()
    entry = harness.order(0.1, limit=99.0)
    harness.handle(harness.update(entry, OrderStatus.NEW))
    harness.strategy.target(SYMBOL, weight=0.05)
    first = harness.bar(100.0)
    assert (len(of(Cancel, first)), len(of(Order, first))) == (1, 0)
    (order,) = of(Order, harness.handle(harness.update(entry, OrderStatus.CANCELLED)))
    assert order.qty == D(5)


def test_protection_is_placed_at_the_first_fill_follows_the_position_and_is_one_cancels_other() -> None:
    harness = EngineHarness()
    entry = harness.order(0.1, stop=-0.1, take_profit=0.2)
    stop, profit = of(Order, harness.handle(harness.fill(entry, "4", 1)))
    assert (stop.type, stop.side, stop.qty, stop.trigger) == (OrderType.STOP, Side.SELL, D(4), D(90))
    assert (profit.type, profit.side, profit.qty) == (OrderType.TAKE_PROFIT, Side.SELL, D(4))
    assert profit.trigger == D(120)
    assert stop.reduce_only
    assert stop.oco == profit.oco == entry.id
    amends = of(Amend, harness.handle(harness.fill(entry, "6", 2)))
    assert {(one.order_id, one.qty) for one in amends} == {(stop.id, D(10)), (profit.id, D(10))}
    cancels = of(Cancel, harness.handle(harness.fill(stop, "10", 1)))
    assert [one.order_id for one in cancels] == [profit.id]
    harness.handle(harness.update(profit, OrderStatus.CANCELLED))
    assert not harness.exchange.orders
    assert harness.qty == 0


def test_a_rejected_stop_closes_the_position() -> None:
    harness = EngineHarness()
    entry = harness.order(0.1, stop=-0.1)
    (stop,) = of(Order, harness.handle(harness.fill(entry, "10")))
    after = harness.handle(harness.update(stop, OrderStatus.REJECTED))
    (closing,) = of(Order, after)
    assert (closing.type, closing.side, closing.qty, closing.reduce_only) == (
        OrderType.MARKET,
        Side.SELL,
        D(10),
        True,
    )


def test_a_kill_cancels_every_order() -> None:
    harness = EngineHarness()
    entry = harness.order(0.1, stop=-0.1)
    (stop,) = of(Order, harness.handle(harness.fill(entry, "4")))
    after = harness.handle(Command("kill", harness.now, harness.now, {}, "test"))
    assert {one.order_id for one in of(Cancel, after)} == {entry.id, stop.id}
    assert harness.engine.risk.state is RiskState.HALTED


def test_a_gap_in_the_record_cancels_entries_and_blocks_new_ones_until_resume() -> None:
    harness = EngineHarness()
    entry = harness.order(0.1, stop=-0.1)
    (stop,) = of(Order, harness.handle(harness.fill(entry, "4")))
    behind = Command(
        "record-behind", harness.now, harness.now, {"detail": "the store lacks the last 5 events"}, "daemon"
    )
    after = harness.handle(behind)
    assert [one.order_id for one in of(Cancel, after)] == [entry.id]  # protection stays
    assert stop.reduce_only
    (alarm,) = of(RiskEvent, after)
    assert (alarm.state, alarm.rule, alarm.detail) == (
        RiskState.REDUCING,
        "older record",
        "the store lacks the last 5 events",
    )
    harness.handle(harness.update(entry, OrderStatus.CANCELLED, "4"))
    harness.strategy.target(SYMBOL, weight=0.2)
    assert not of(Order, harness.bar(100.0))
    harness.handle(Command("resume", harness.now, harness.now, {}, "person"))
    assert harness.order(0.2)


def test_a_funding_settlement_is_booked_once() -> None:
    harness = EngineHarness()
    paid = FundingSettlement("f1", SYMBOL, harness.now, harness.now, D("0.0001"), D(10), D(100), D("-0.1"))
    assert len(of(FundingPayment, harness.handle(paid, paid))) == 1
    assert harness.engine.portfolio.funding == D("-0.1")


# -- the account ---------------------------------------------------------------------------------------------


def test_every_change_of_cash_is_a_decision() -> None:
    """The account starts with 10,250 USDT, others buy 3 BTC at 90, and an operator accepts 10,240."""
    harness = EngineHarness()
    harness.exchange.opened = False
    harness.account(usdt="10250")
    (first,) = of(CashAdjustment, harness.sink.decisions)
    assert (first.amount, first.currency, first.reason) == (
        D(250),
        "USDT",
        "the account's balance when the run began",
    )
    held = (PositionSnapshot(SYMBOL, D(3), D(90)),)
    harness.account(held, usdt="10240"), harness.account(held, usdt="10240")
    harness.handle(Command("resume", harness.now, harness.now, {}, "test"))
    harness.account(held, usdt="10240")
    (second,) = of(CashAdjustment, harness.sink.decisions)[1:]
    assert second.amount == D(-10)
    assert harness.engine.portfolio.exact_equity() == D(10_240) + 3 * 10
    assert_folds(harness)


def test_a_life_recorded_by_an_earlier_version_emits_no_cash_adjustments() -> None:
    harness = EngineHarness(states_cash=False)
    harness.exchange.opened = False
    harness.account(usdt="10250")
    assert harness.engine.portfolio.cash == D(10_250)
    assert not of(CashAdjustment, harness.sink.decisions)


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
def test_decisions_alone_rebuild_the_ledger_whatever_the_account_does(
    story: list[tuple[str, int, int]], foreign: str
) -> None:
    harness = EngineHarness(foreign)
    for what, qty, usdt in story:
        held = (PositionSnapshot(SYMBOL, D(qty), D(95)),) if qty else ()
        if what == "resume":
            harness.handle(Command("resume", harness.now, harness.now, {}, "test"))
        harness.account(held, usdt=str(usdt), foreign=what == "strangers")
        assert_folds(harness)


def test_the_first_account_snapshot_starts_the_ledger() -> None:
    harness = EngineHarness()
    assert harness.engine.portfolio.exact_equity() == D(10_000)
    assert harness.engine.risk.reconciled
    harness.account(usdt="9999.99")
    assert harness.exchange.drift == ""  # within `wallet_drift`
    harness.account(usdt="9999.90")
    assert harness.exchange.drift == "USDT: 9999.90 at the venue, 10000 in the ledger"


def test_repeated_drift_is_an_alarm_that_ends_by_agreement_or_resume() -> None:
    harness = EngineHarness()
    held = (PositionSnapshot(SYMBOL, D(3), D(100)),)
    assert not harness.account(held)
    (alarm,) = harness.account(held)
    assert (alarm.state, alarm.rule) == (RiskState.REDUCING, "drift")
    (relief,) = harness.account()
    assert relief.state is RiskState.ACTIVE
    harness.account(held), harness.account(held)
    harness.handle(Command("resume", harness.now, harness.now, {}, "test"))
    harness.account(held)
    assert (harness.qty, harness.exchange.drift) == (D(3), "")


@pytest.mark.parametrize("amount", [-6_000, 90_000])
def test_a_deposit_or_a_withdrawal_is_neither_profit_nor_loss_to_the_limits(amount: int) -> None:
    harness = EngineHarness(foreign="ignore")
    harness.bar(100.0)
    harness.account(usdt=str(10_000 + amount), foreign=True)
    for _ in range(3):
        harness.bar(100.0)
    assert harness.engine.portfolio.equity() == 10_000 + amount
    assert harness.engine.risk.state is RiskState.ACTIVE
    for withdrawn in (0, amount):  # what was deposited leaves again
        harness.account(usdt=str(10_000 + amount - withdrawn), foreign=True)
        harness.bar(100.0)
        harness.bar(100.0)
    assert harness.engine.risk.state is RiskState.ACTIVE


def test_a_loss_after_a_withdrawal_is_measured_from_what_is_left() -> None:
    """4,000 are left; max_daily_loss is 5 %: 3,800, which a position of 10 bought at 100 reaches at 80."""
    harness = EngineHarness(foreign="ignore")
    harness.bar(100.0)
    harness.account(usdt="4000", foreign=True)
    harness.bar(100.0)
    order = harness.order(0.25)
    harness.handle(harness.fill(order, "10", fee=D(0)))
    harness.bar(80.5)
    harness.bar(80.5)
    assert harness.engine.risk.state is RiskState.ACTIVE
    harness.bar(79.5)
    harness.bar(79.5)
    assert harness.engine.risk.rule == "max_daily_loss"


def test_a_withdrawal_was_a_drawdown_to_early_lives() -> None:
    harness = EngineHarness(foreign="ignore", discounts_transfers=False)
    harness.bar(100.0)
    harness.account(usdt="4000", foreign=True)
    harness.bar(100.0)
    harness.bar(100.0)
    assert harness.engine.risk.rule == "max_drawdown"


def test_resume_accepts_only_a_settled_account_snapshot() -> None:
    """Others hold 3 BTC, of which they bought 1 just now: the lagging view shows 2, the settled one 3."""
    harness = EngineHarness()
    older, newer = (PositionSnapshot(SYMBOL, D(2), D(100)),), (PositionSnapshot(SYMBOL, D(3), D(100)),)
    harness.account(older), harness.account(older)
    harness.handle(Command("resume", harness.now, harness.now, {}, "test"))
    assert not of(Fill, harness.account(older, settled=False))
    assert (harness.qty, harness.exchange.drift, harness.engine.risk.state) == (D(0), "", RiskState.ACTIVE)
    harness.account(newer)
    assert (harness.qty, harness.exchange.drift) == (D(3), "")
    assert not harness.account(newer)


def test_an_account_that_differs_keeps_trading_blocked() -> None:
    harness = EngineHarness()
    harness.handle(Command("reconciling", harness.now, harness.now))
    harness.account(usdt="5")
    assert not harness.engine.risk.reconciled
    harness.account()
    assert harness.engine.risk.reconciled


@pytest.mark.parametrize(("foreign", "ours"), [("adopt", "3"), ("ignore", "0"), ("refuse", "0")])
def test_an_existing_position_is_adopted_or_set_aside(foreign: str, ours: str) -> None:
    harness = EngineHarness(foreign, holdings=(PositionSnapshot(SYMBOL, D(3), D(90)),))
    assert harness.qty == D(ours)
    assert harness.exchange.held(SYMBOL) == D(3)
    assert harness.engine.portfolio.exact_equity() == D(10_000) + D(ours) * 10  # its gain is not realised yet


def test_later_trades_of_others_are_ignored_if_so_configured() -> None:
    harness = EngineHarness("ignore")
    harness.account((PositionSnapshot(SYMBOL, D(2), D(100)),), usdt="9000", foreign=True)
    assert (harness.qty, harness.exchange.drift) == (0, "")
    harness.account((PositionSnapshot(SYMBOL, D(2), D(100)),), usdt="9000")
    assert harness.exchange.drift == ""


class Netted(NetPosition):
    """An account with one position and a wallet."""

    def __init__(self, harness: EngineHarness) -> None:
        super().__init__()
        self.harness = harness

    @property
    def wallet(self) -> Decimal:
        return D(10_000) + self.realised

    def look(self, *, missing: str = "0", foreign: bool = False) -> str:
        """Compare with the account, whose wallet lacks `missing`; return the difference."""
        holdings = (PositionSnapshot(SYMBOL, self.qty, self.entry.quantize(D("1e-8"))),) if self.qty else ()
        self.harness.account(holdings, usdt=str(self.wallet - D(missing)), foreign=foreign)
        return self.harness.exchange.drift


TRADES = st.lists(st.tuples(st.integers(-5, 5).filter(bool), st.integers(50, 200)), max_size=8)


@given(TRADES, st.randoms(use_true_random=False))
def test_fills_reported_in_another_order_are_not_a_drift(
    trades: list[tuple[int, int]], dice: random.Random
) -> None:
    """Realised profit depends on the order of fills; the sum of all payments does not."""
    harness = EngineHarness()
    venue = Netted(harness)
    fills = []
    for number, (qty, price) in enumerate(trades):
        venue.trade(D(qty), D(price))
        side = Side.BUY if qty > 0 else Side.SELL
        fills.append(
            Fill(str(number), "", SYMBOL, harness.now, harness.now, side, D(abs(qty)), D(price), D(0))
        )
    dice.shuffle(fills)
    harness.handle(*fills)
    assert venue.look() == ""
    assert venue.look(missing="0.02") != ""


@given(st.lists(st.tuples(st.booleans(), st.integers(-5, 5).filter(bool), st.integers(50, 200)), max_size=8))
def test_positions_of_others_in_the_same_symbol_are_not_a_drift(trades: list[tuple[bool, int, int]]) -> None:
    """A venue nets all positions in a symbol, and realises profit from the average entry price of all."""
    harness = EngineHarness("ignore")
    venue = Netted(harness)
    for number, (theirs, qty, price) in enumerate(trades):
        venue.trade(D(qty), D(price))
        if not theirs:
            side = Side.BUY if qty > 0 else Side.SELL
            harness.handle(
                Fill(str(number), "", SYMBOL, harness.now, harness.now, side, D(abs(qty)), D(price), D(0))
            )
        assert venue.look(foreign=theirs) == ""
    ours = sum(qty for theirs, qty, _ in trades if not theirs)
    assert (harness.qty, harness.exchange.held(SYMBOL)) == (ours, venue.qty)
    assert venue.look(missing="0.02") != ""
    assert venue.look() == ""
    if not ours and not venue.qty:
        assert harness.exchange.wallet() == venue.wallet


def test_an_adopted_position_has_the_entry_price_of_the_account() -> None:
    harness = EngineHarness("adopt")
    exchange = harness.exchange
    harness.handle(Fill("1", "", SYMBOL, harness.now, harness.now, Side.BUY, D(1), D(100), D(0)))
    (
        harness.account((PositionSnapshot(SYMBOL, D(4), D(90)),)),
        harness.account((PositionSnapshot(SYMBOL, D(4), D(90)),)),
    )
    assert exchange.drift
    harness.handle(Command("resume", harness.now, harness.now, {}, "test"))
    harness.account((PositionSnapshot(SYMBOL, D(4), D(90)),))
    position = harness.engine.portfolio.positions[SYMBOL]
    assert (position.qty, position.entry_price, exchange.wallet()) == (D(4), D(90), D(10_000))
    harness.engine.portfolio.reconcile()


@pytest.mark.parametrize("held", [-3, -1, 1, 3])
def test_each_part_of_an_adopted_position_is_a_separate_fill(held: int) -> None:
    harness = EngineHarness("adopt")
    harness.handle(Fill("1", "", SYMBOL, harness.now, harness.now, Side.BUY, D(2), D(100), D(0)))
    holdings = (PositionSnapshot(SYMBOL, D(held), D(90)),)
    harness.account(holdings), harness.account(holdings)
    harness.handle(Command("resume", harness.now, harness.now, {}, "test"))
    parts = of(Fill, harness.account(holdings))
    assert [(one.side.sign * one.qty, one.price) for one in parts] == [(-2, 100), (held, 90)]
    assert len({one.id for one in parts}) == 2


def test_an_accepted_account_belongs_to_the_run_alone() -> None:
    harness = EngineHarness("ignore", holdings=(PositionSnapshot(SYMBOL, D(3), D(100)),))
    held = (PositionSnapshot(SYMBOL, D(5), D(100)),)
    harness.account(held), harness.account(held)
    harness.handle(Command("resume", harness.now, harness.now, {}, "test"))
    harness.account(held)
    assert (harness.qty, harness.exchange.held(SYMBOL), harness.exchange.drift) == (D(5), D(5), "")


def test_a_fee_in_base_coin_reduces_the_holding() -> None:
    harness = EngineHarness(category="spot")
    order = harness.order(0.1)
    trade = harness.fill(order, "10", price=D(100), fee=D(1))
    kept = Fill(
        f"{trade.id}.fee",
        order.id,
        SYMBOL,
        harness.now,
        harness.now,
        Side.SELL,
        D("0.01"),
        D(100),
        D(0),
        kind=FillKind.FEE,
    )
    harness.handle(trade, kept, harness.update(order, OrderStatus.FILLED, "10"))
    assert harness.qty == D("9.99")
    assert not harness.account((PositionSnapshot(SYMBOL, D("9.99")),), usdt="9000")
    assert harness.exchange.drift == ""
    assert not harness.exchange.orders


# -- moved stops ---------------------------------------------------------------------------------------------


def protected(harness: EngineHarness) -> Order:
    """Fill an entry of 10 at 100 whose stop at 95 the venue has accepted; return the stop."""
    entry = harness.order(stop=-0.05)
    [stop] = [d for d in harness.handle(harness.fill(entry, str(entry.qty))) if isinstance(d, Order)]
    harness.handle(harness.update(stop, OrderStatus.UNTRIGGERED))
    return stop


def moved(harness: EngineHarness, stop: float) -> tuple[list[Decision], Order]:
    """Set the same weight with another stop; return the decisions and the new order."""
    harness.strategy.target(SYMBOL, weight=0.1, stop=stop)
    decisions = harness.bar(100.0)
    [order] = [d for d in decisions if isinstance(d, Order)]
    return decisions, order


def test_a_moved_stop_is_placed_before_the_old_one_is_cancelled() -> None:
    harness = EngineHarness()
    old = protected(harness)

    decisions, new = moved(harness, -0.02)

    assert (new.type, new.trigger, new.qty, new.oco) == (OrderType.STOP, D("98.00"), old.qty, old.oco)
    assert not [d for d in decisions if isinstance(d, Cancel)]
    [cancel] = [
        d for d in harness.handle(harness.update(new, OrderStatus.UNTRIGGERED)) if isinstance(d, Cancel)
    ]
    assert (cancel.order_id, cancel.reason) == (old.id, "replaced by a newer trigger")
    harness.handle(harness.update(old, OrderStatus.CANCELLED))
    assert [w.order.id for w in harness.exchange.books[SYMBOL]] == [new.id]


def test_a_rejected_moved_stop_leaves_the_old_one() -> None:
    harness = EngineHarness()
    old = protected(harness)
    _, new = moved(harness, -0.02)

    decisions = harness.handle(harness.update(new, OrderStatus.REJECTED))

    assert not [d for d in decisions if isinstance(d, Order | Cancel)]
    assert [w.order.id for w in harness.exchange.books[SYMBOL]] == [old.id]


def test_a_moved_stop_whose_trigger_was_reached_closes_the_position() -> None:
    harness = EngineHarness()
    protected(harness)
    _, new = moved(harness, -0.02)
    harness.bar(97.0)

    decisions = harness.handle(harness.update(new, OrderStatus.REJECTED))

    [closing] = [d for d in decisions if isinstance(d, Order)]
    assert (closing.type, closing.side, closing.reduce_only) == (OrderType.MARKET, Side.SELL, True)


def test_of_a_stop_moved_twice_before_acceptance_the_newest_stays() -> None:
    harness = EngineHarness()
    old = protected(harness)
    _, first = moved(harness, -0.03)
    _, second = moved(harness, -0.02)

    cancels = [
        d.order_id
        for d in harness.handle(harness.update(first, OrderStatus.UNTRIGGERED))
        if isinstance(d, Cancel)
    ]
    cancels += [
        d.order_id
        for d in harness.handle(harness.update(second, OrderStatus.UNTRIGGERED))
        if isinstance(d, Cancel)
    ]

    assert cancels == [old.id, first.id]


def test_a_target_with_an_unchanged_stop_changes_nothing() -> None:
    harness = EngineHarness()
    protected(harness)

    harness.strategy.target(SYMBOL, weight=0.1, stop=-0.05)

    assert harness.bar(100.0) == []


def test_bars_of_the_warm_up_do_not_move_a_stop() -> None:
    harness = EngineHarness()
    protected(harness)
    harness.handle(Command("warm-up", harness.now, harness.now, {}, "daemon"))

    harness.strategy.target(SYMBOL, weight=0.1, stop=-0.02)

    assert not [d for d in harness.bar(100.0) if isinstance(d, Order)]
