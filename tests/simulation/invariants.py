"""Invariants checked around every step with independent books; see also `ledger_checks.py`."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Final

from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import (
    MINUTE_MS,
    CashAdjustment,
    Command,
    Decision,
    Event,
    Fill,
    Funding,
    FundingPayment,
    Gap,
    Kline,
    News,
    Order,
    OrderUpdate,
    RiskEvent,
    RiskState,
    Sentiment,
)
from agent.core.orders import WorkingOrder
from tests.simulation.generated_data import SYMBOLS
from tests.simulation.simulated_market import SimulatedMarket

_ZERO: Final = Decimal(0)
_SLACK: Final = 1 + 1e-6
AHEAD: Final = 10_000
"""ms by which the agent's time may be ahead of the venue's: tolerance plus half of the longest round trip."""

_IDLE: Final = 3  # maximum of heartbeats without effect in half a minute
_CLOSED_BY: Final = 5 * MINUTE_MS


class Violation(AssertionError):
    """An invariant is violated."""


def require(condition: object, message: str) -> None:
    """Raise Violation unless the condition holds."""
    if not condition:
        raise Violation(message)


class Invariants:
    """Checks every event and decision of one life, from the start of its journal."""

    def __init__(self, config: Config, market: SimulatedMarket, *, given_up: bool) -> None:
        self._config = config
        self._market = market
        self._gaps_excused = given_up  # the existing journal may hold gaps whose reason is no longer known
        self.live = False  # the journal has been replayed
        self.bars: dict[str, int] = {}  # symbol -> start of the next bar
        self.news: dict[str, News] = {}
        self.scored: set[str] = set()
        self._provisional: set[str] = set()  # headlines whose score may be revised
        self.orders: dict[str, Order] = {}
        self.ended: dict[str, OrderUpdate] = {}
        self._time = 0
        self._begun_ahead = False  # first event stamped by a wrong clock while the venue was unreachable
        self._closed = 0  # latest close of a bar
        self.alarms: list[str] = []  # clock alarms of this life
        self._idle: deque[float] = deque()  # times of heartbeats without effect
        self._cash = config.account.initial_capital
        self._positions = dict.fromkeys(SYMBOLS, _ZERO)
        self._funding: dict[str, int] = {}  # symbol -> next funding time
        self.fills: set[str] = set()  # ids of booked fills
        self._filled: dict[str, Decimal] = {}
        self._state = RiskState.ACTIVE
        self._warming = False
        self._sent: deque[int] = deque()
        self._closing: dict[
            str, tuple[Decimal, int]
        ] = {}  # symbol -> quantity to close, and since when it is unchanged
        self._alarmed: set[str] = set()  # symbols with an alarm that they cannot be closed
        self.engine: Engine

    # -- inputs ---------------------------------------------------------------------------------------------

    def before_event(self, event: Event) -> None:
        """Check an event that is about to be handled."""
        require(event.available_at >= self._time, f"time goes backwards: {self._time}, then {event}")
        self._time, first = event.available_at, not self._time
        ahead = self.live and event.available_at > self._market.now() + AHEAD
        self._begun_ahead |= first and (
            ahead or (not self.live and event.available_at > self._market.now() + AHEAD)
        )
        require(not ahead or self._begun_ahead, f"at {self._market.now()} the agent's time is ahead: {event}")
        match event:
            case Kline(confirm=True):
                due = self.bars.get(event.symbol, event.start)
                require(event.start == due, f"{event.symbol}: expected the bar of {due}, got {event.start}")
                self.bars[event.symbol] = event.start + MINUTE_MS
                truth = self._market.bars[event.symbol, event.start]
                same = (event.open, event.high, event.low, event.close, event.volume) == (
                    truth.open,
                    truth.high,
                    truth.low,
                    truth.close,
                    truth.volume,
                )
                require(same, f"wrong bar: {event}, actual {truth}")
                require(
                    event.available_at >= event.start + MINUTE_MS, f"bar available before its close: {event}"
                )
                self._closed = max(self._closed, event.ts)
            case Kline():
                truth = self._market.bars[event.symbol, event.start]
                between = min(truth.open, truth.close) - 1 <= event.close <= max(truth.open, truth.close) + 1
                require(between, f"price outside the bar: {event}, actual {truth}")
                require(event.start >= self.bars.get(event.symbol, 0), f"open state of a closed bar: {event}")
            case Gap():
                due = self.bars.get(event.symbol, event.start)
                require(
                    event.start == due and event.end > due,
                    f"{event.symbol}: expected the bar of {due}, got a gap: {event}",
                )
                self.bars[event.symbol] = event.end
                self._check_gap(event)
            case Funding():
                due = self._funding.get(event.symbol, event.ts)
                require(
                    event.ts <= self._closed,
                    f"funding of {event.ts}, but the last bar closed at {self._closed}",
                )
                require(event.ts == due, f"{event.symbol}: expected funding of {due}, got {event.ts}")
                self._funding[event.symbol] = event.ts + self._config.paper.funding_interval
            case News():
                require(event.id not in self.news, f"duplicate headline: {event}")
                self.news[event.id] = event
            case Sentiment():
                require(event.news_id in self.news, f"sentiment without a headline: {event}")
                again = event.news_id in self.scored
                require(not again or event.news_id in self._provisional, f"headline scored twice: {event}")
                self.scored.add(event.news_id)
                self._provisional.discard(event.news_id)
                if event.provisional:
                    self._provisional.add(event.news_id)
            case Command(action="alarm") if self.live and event.args["rule"] == "clock":
                self.alarms.append(event.args["detail"])
            case Command(action="heartbeat"):
                self._stale = set(self.engine.risk.stale)
            case Command(action="warm-up" | "warm-up-done"):
                self._warming = event.action == "warm-up"
        self._held = dict(self._positions)

    def _check_gap(self, gap: Gap) -> None:
        """Check that a gap covers bars that the venue withholds or that could not be fetched in time."""
        had = [
            s for s in range(gap.start, gap.end, MINUTE_MS) if (gap.symbol, s) not in self._market.withheld
        ]
        patience = self._config.bybit.backfill_timeout / 1000
        lately = self._market.loop.time() - self._market.trouble[gap.symbol] < patience
        require(
            not had or lately or (self._gaps_excused and not self.live),
            f"gap although the bars were available: {gap}",
        )

    # -- decisions ------------------------------------------------------------------------------------------

    def on_decision(self, decision: Decision) -> None:
        """Check a decision and book it."""
        match decision:
            case Order():
                self._check_order(decision)
            case OrderUpdate():
                require(decision.order_id in self.orders, f"update of an unknown order: {decision}")
                require(decision.order_id not in self.ended, f"update after the final state: {decision}")
                self._check_not_replaced(decision.order_id, decision.reason)
                if decision.status.final:
                    self.ended[decision.order_id] = decision
            case Fill():
                require(decision.id not in self.fills, f"duplicate fill: {decision}")
                self.fills.add(decision.id)
                self._check_fill(decision)
                signed = decision.side.sign * decision.qty
                self._filled[decision.order_id] = self._filled.get(decision.order_id, _ZERO) + decision.qty
                self._positions[decision.symbol] += signed
                self._cash -= signed * decision.price + decision.fee
            case FundingPayment():
                self._check_payment(decision)
                self._cash += decision.amount
            case CashAdjustment():
                self._cash += decision.amount
            case RiskEvent(symbol=""):
                self._state = decision.state
            case RiskEvent(rule="flatten"):
                self._alarmed.add(decision.symbol)

    def _check_not_replaced(self, order_id: str, reason: str) -> None:
        """Check that a strategy's target does not replace an order that closes a position."""
        order = self.orders.get(order_id)
        closes = order is not None and order.reason == "flatten" and order.symbol in self._closing
        require(
            not closes or reason != "replaced by a newer target",
            f"a strategy replaced a closing order: {order}",
        )

    def _check_closing(self, event: Event) -> None:
        """Check that a position to be closed shrinks, or an alarm reports that it doesn't."""
        match event:
            case Command(action="flatten") | Command(action="kill", args={"flatten": "true"}):
                for symbol in self._config.market.symbols:
                    self._closing.setdefault(symbol, (self._positions[symbol], event.available_at))
            case Command(action="resume") if self._state is not RiskState.HALTED:
                self._closing.clear()
                self._alarmed.clear()
        looks = isinstance(event, Kline) or (isinstance(event, Command) and event.action == "heartbeat")
        for symbol, (held, since) in list(self._closing.items()):
            lot = self.engine.states[symbol].instrument.round_qty(abs(self._positions[symbol]))
            now = self._positions[symbol] if lot else _ZERO  # less than a lot cannot be closed
            if not now and self._state is not RiskState.HALTED:
                del self._closing[symbol]
                self._alarmed.discard(symbol)
            elif now != held or not now or self._warming:
                self._closing[symbol] = now, event.available_at
            elif looks:  # the core has checked, too
                stuck = event.available_at - since > _CLOSED_BY
                require(
                    not stuck or symbol in self._alarmed,
                    f"{now} {symbol} is not closed since {since}, without an alarm",
                )

    def _check_order(self, order: Order) -> None:
        require(order.id not in self.orders, f"duplicate client order id: {order}")
        require(order.qty > 0, f"order without quantity: {order}")
        self.orders[order.id] = order
        if order.reduce_only:
            return
        require(self._state is RiskState.ACTIVE, f"new order in state {self._state.value}: {order}")
        require(not self._warming, f"new order during warm-up: {order}")
        risk, engine = self._config.risk, self.engine
        self._sent.append(order.ts)
        while self._sent[0] <= order.ts - MINUTE_MS:
            self._sent.popleft()
        require(
            len(self._sent) <= risk.max_orders_per_minute, f"{len(self._sent)} orders in a minute: {order}"
        )
        marks = {symbol: position.mark for symbol, position in engine.portfolio.positions.items()}
        after = {s: float(held) for s, held in self._positions.items()}
        after[order.symbol] += order.side.sign * float(order.qty)
        equity = float(self._cash) + sum(
            float(held) * marks[s] for s, held in self._positions.items() if held
        )
        notional, position = (
            float(order.qty) * marks[order.symbol],
            abs(after[order.symbol]) * marks[order.symbol],
        )
        gross = sum(abs(qty) * marks[symbol] for symbol, qty in after.items() if qty)
        require(
            notional <= risk.max_order * equity * _SLACK,
            f"{notional:.2f} of {equity:.2f} in one order: {order}",
        )
        require(
            position <= risk.max_position * equity * _SLACK,
            f"{position:.2f} of {equity:.2f} in one symbol: {order}",
        )
        require(
            gross <= risk.max_leverage * equity * _SLACK, f"{gross:.2f} of {equity:.2f} in total: {order}"
        )

    # -- after an event -------------------------------------------------------------------------------------

    def after_event(self, event: Event) -> None:
        """Check the state after an event has been handled."""
        engine = self.engine
        beats = self.live and isinstance(event, Command) and event.action == "heartbeat"
        if beats and engine.risk.stale == self._stale and not engine.flattener.pursuits:
            now = self._market.loop.time()
            self._idle.append(now)
            while self._idle[0] < now - 30:
                self._idle.popleft()
            require(len(self._idle) <= _IDLE, f"too many heartbeats without effect: {event}")
        engine.portfolio.reconcile()
        self._check_closing(event)
        self._check_cash(event)
        for symbol, position in engine.portfolio.positions.items():
            require(
                position.qty == self._positions[symbol],
                f"{symbol}: {position.qty}, from the fills {self._positions[symbol]}",
            )
        require(
            engine.risk.state is self._state, f"state {engine.risk.state}, from the decisions {self._state}"
        )
        working = {w.order.id for tape in engine.states.values() for w in tape.book}
        alive = {order_id for order_id in self.orders if not self._is_over(order_id)}
        require(working == alive, f"orders in an unknown state: {working ^ alive} after {event}")
        if self._state is RiskState.HALTED:
            entries = [w.order for tape in engine.states.values() for w in tape.book if self._may_open(w)]
            require(not entries, f"entries are working while halted: {entries}")

    def _check_cash(self, event: Event) -> None:
        """Check that cash is the sum of all fills and payments."""
        cash = self.engine.portfolio.cash
        require(cash == self._cash, f"cash {cash}, from the fills {self._cash}, after {event}")

    # -- depending on the exchange --------------------------------------------------------------------------

    def _check_fill(self, fill: Fill) -> None:
        """Check a fill that is about to be booked."""
        raise NotImplementedError

    def _check_payment(self, payment: FundingPayment) -> None:
        """Check a funding payment that is about to be booked."""
        raise NotImplementedError

    def _is_over(self, order_id: str) -> bool:
        """Return whether no further report of the order can arrive."""
        raise NotImplementedError

    def _may_open(self, working: WorkingOrder) -> bool:
        """Return whether a working order could still open a position."""
        raise NotImplementedError
