"""What must hold after every step, kept by other books than the product's own; what it takes of an exchange is in `books.py`."""

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
from tests.simulation.market import Market
from tests.simulation.prices import SYMBOLS

_ZERO: Final = Decimal(0)
_SLACK: Final = 1 + 1e-6
AHEAD: Final = 10_000
"""ms by which the agent's time may be ahead of the venue's: what is tolerated, and half of the longest round trip."""

_IDLE: Final = 3  # heartbeats in half a minute that change nothing
_CLOSED_BY: Final = 5 * MINUTE_MS


class Violation(AssertionError):
    """An invariant that doesn't hold."""


def hold(condition: object, words: str) -> None:
    """Raise Violation unless it does."""
    if not condition:
        raise Violation(words)


class Invariants:
    """Hears of every event and decision of one life, from the first of its journal on."""

    def __init__(self, config: Config, market: Market, *, given_up: bool) -> None:
        self._config = config
        self._market = market
        # whether what is in the journal already may hold gaps whose reason nobody remembers
        self._excused = given_up
        self.live = False  # the journal is folded
        self.bars: dict[str, int] = {}  # symbol -> start of the next bar
        self.news: dict[str, News] = {}
        self.scored: set[str] = set()
        self.orders: dict[str, Order] = {}
        self.ended: dict[str, OrderUpdate] = {}
        self._time = 0
        # its first event was stamped by a wrong clock, while the venue could not be reached
        self._begun_ahead = False
        self._closed = 0  # latest close of a bar
        self.alarms: list[str] = []  # about the time, in this life
        self._idle: deque[float] = deque()  # when heartbeats changed nothing
        self._cash = config.account.initial_capital
        self._positions = dict.fromkeys(SYMBOLS, _ZERO)
        self._funding: dict[str, int] = {}  # symbol -> next stamp
        self.fills: set[str] = set()  # ids of what was booked
        self._filled: dict[str, Decimal] = {}
        self._state = RiskState.ACTIVE
        self._warming = False
        self._sent: deque[int] = deque()
        # symbol -> what is to be closed, and since when it was so much
        self._closing: dict[str, tuple[Decimal, int]] = {}
        self._alarmed: set[str] = set()  # symbols of which an alarm said that they can't be closed
        self.engine: Engine

    # -- inputs --------------------------------------------------------------------------------------------------------

    def before(self, event: Event) -> None:
        """An event that is about to be handled."""
        hold(event.available_at >= self._time, f"time runs backwards: {self._time} then {event}")
        self._time, first = event.available_at, not self._time
        ahead = self.live and event.available_at > self._market.now() + AHEAD
        self._begun_ahead |= first and (
            ahead or (not self.live and event.available_at > self._market.now() + AHEAD)
        )
        hold(not ahead or self._begun_ahead, f"at {self._market.now()} the agent's time is ahead: {event}")
        match event:
            case Kline(confirm=True):
                due = self.bars.get(event.symbol, event.start)
                hold(event.start == due, f"{event.symbol}: the bar of {due} was due, and {event.start} came")
                self.bars[event.symbol] = event.start + MINUTE_MS
                truth = self._market.bars[event.symbol, event.start]
                same = (event.open, event.high, event.low, event.close, event.volume) == (
                    truth.open, truth.high, truth.low, truth.close, truth.volume,
                )  # fmt: skip
                hold(same, f"a wrong bar: {event}, in truth {truth}")
                hold(event.available_at >= event.start + MINUTE_MS, f"a bar before its close: {event}")
                self._closed = max(self._closed, event.ts)
            case Kline():
                truth = self._market.bars[event.symbol, event.start]
                between = min(truth.open, truth.close) - 1 <= event.close <= max(truth.open, truth.close) + 1
                hold(between, f"a price that was never there: {event}, in truth {truth}")
                hold(
                    event.start >= self.bars.get(event.symbol, 0), f"a state of a bar that is closed: {event}"
                )
            case Gap():
                due = self.bars.get(event.symbol, event.start)
                hold(
                    event.start == due and event.end > due,
                    f"{event.symbol}: the bar of {due} was due, and a gap came: {event}",
                )
                self.bars[event.symbol] = event.end
                self._explain(event)
            case Funding():
                due = self._funding.get(event.symbol, event.ts)
                hold(
                    event.ts <= self._closed,
                    f"funding of {event.ts}, and the last bar closed at {self._closed}",
                )
                hold(
                    event.ts == due, f"{event.symbol}: funding of {due} was due, and that of {event.ts} came"
                )
                self._funding[event.symbol] = event.ts + self._config.paper.funding_interval
            case News():
                hold(event.id not in self.news, f"a headline twice: {event}")
                self.news[event.id] = event
            case Sentiment():
                hold(event.news_id in self.news, f"a sentiment of no headline: {event}")
                hold(event.news_id not in self.scored, f"a headline scored twice: {event}")
                self.scored.add(event.news_id)
            case Command(action="alarm") if self.live and event.args["rule"] == "clock":
                self.alarms.append(event.args["detail"])
            case Command(action="heartbeat"):
                self._stale = set(self.engine.risk.stale)
            case Command(action="warm-up" | "warm-up-done"):
                self._warming = event.action == "warm-up"
        self._held = dict(self._positions)

    def _explain(self, gap: Gap) -> None:
        """A gap stands for what the venue denies, or for what could not be had in time."""
        had = [
            s for s in range(gap.start, gap.end, MINUTE_MS) if (gap.symbol, s) not in self._market.withheld
        ]
        patience = self._config.bybit.backfill_timeout / 1000
        lately = self._market.loop.time() - self._market.trouble[gap.symbol] < patience
        hold(
            not had or lately or (self._excused and not self.live), f"given up though it could be had: {gap}"
        )

    # -- decisions -----------------------------------------------------------------------------------------------------

    def decision(self, decision: Decision) -> None:
        """What the core says to it."""
        match decision:
            case Order():
                self._order(decision)
            case OrderUpdate():
                hold(decision.order_id in self.orders, f"an update of no order: {decision}")
                hold(decision.order_id not in self.ended, f"an update after the end: {decision}")
                self._check_taken_back(decision.order_id, decision.reason)
                if decision.status.final:
                    self.ended[decision.order_id] = decision
            case Fill():
                hold(decision.id not in self.fills, f"a fill twice: {decision}")
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

    def _check_taken_back(self, order_id: str, reason: str) -> None:
        """What closes a position is not taken back by a strategy."""
        order = self.orders.get(order_id)
        closes = order is not None and order.reason == "flatten" and order.symbol in self._closing
        hold(
            not closes or reason != "replaced by a newer target",
            f"a strategy has taken back what closes: {order}",
        )

    def _check_closing(self, event: Event) -> None:
        """A position that is to be closed shrinks, or an alarm says that it doesn't."""
        match event:
            case Command(action="flatten") | Command(action="kill", args={"flatten": "true"}):
                for symbol in SYMBOLS:
                    self._closing.setdefault(symbol, (self._positions[symbol], event.available_at))
            case Command(action="resume") if self._state is not RiskState.HALTED:
                self._closing.clear()
                self._alarmed.clear()
        looks = isinstance(event, Kline) or (isinstance(event, Command) and event.action == "heartbeat")
        for symbol, (held, since) in list(self._closing.items()):
            lot = self.engine.states[symbol].instrument.round_qty(abs(self._positions[symbol]))
            now = self._positions[symbol] if lot else _ZERO  # no order can close less than a lot
            if not now and self._state is not RiskState.HALTED:
                del self._closing[symbol]
                self._alarmed.discard(symbol)
            elif now != held or not now or self._warming:
                self._closing[symbol] = now, event.available_at
            elif looks:  # and the core has looked, too
                stuck = event.available_at - since > _CLOSED_BY
                hold(
                    not stuck or symbol in self._alarmed,
                    f"{now} {symbol} is not closed since {since}, and no alarm says so",
                )

    def _order(self, order: Order) -> None:
        hold(order.id not in self.orders, f"a client order id twice: {order}")
        hold(order.qty > 0, f"nothing to trade: {order}")
        self.orders[order.id] = order
        if order.reduce_only:
            return
        hold(self._state is RiskState.ACTIVE, f"a new order in state {self._state.value}: {order}")
        hold(not self._warming, f"a new order on history: {order}")
        risk, engine = self._config.risk, self.engine
        self._sent.append(order.ts)
        while self._sent[0] <= order.ts - MINUTE_MS:
            self._sent.popleft()
        hold(len(self._sent) <= risk.max_orders_per_minute, f"{len(self._sent)} orders in a minute: {order}")
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
        hold(
            notional <= risk.max_order * equity * _SLACK,
            f"{notional:.2f} of {equity:.2f} in one order: {order}",
        )
        hold(
            position <= risk.max_position * equity * _SLACK,
            f"{position:.2f} of {equity:.2f} in one symbol: {order}",
        )
        hold(gross <= risk.max_leverage * equity * _SLACK, f"{gross:.2f} of {equity:.2f} in all: {order}")

    # -- after every step ------------------------------------------------------------------------------------------------

    def after(self, event: Event) -> None:
        """The event was handled."""
        engine = self.engine
        beats = self.live and isinstance(event, Command) and event.action == "heartbeat"
        if beats and engine.risk.stale == self._stale and not engine.flattener.pursuits:
            now = self._market.loop.time()
            self._idle.append(now)
            while self._idle[0] < now - 30:
                self._idle.popleft()
            hold(len(self._idle) <= _IDLE, f"heartbeats that change nothing: {event}")
        engine.portfolio.reconcile()
        self._check_closing(event)
        self._check_cash(event)
        for symbol, position in engine.portfolio.positions.items():
            hold(
                position.qty == self._positions[symbol],
                f"{symbol}: {position.qty}, by the fills {self._positions[symbol]}",
            )
        hold(engine.risk.state is self._state, f"state {engine.risk.state}, by the record {self._state}")
        working = {w.order.id for tape in engine.states.values() for w in tape.book}
        alive = {order_id for order_id in self.orders if not self._is_over(order_id)}
        hold(working == alive, f"orders in no known state: {working ^ alive} after {event}")
        if self._state is RiskState.HALTED:
            entries = [w.order for tape in engine.states.values() for w in tape.book if self._may_open(w)]
            hold(not entries, f"halted, and entries are working: {entries}")

    def _check_cash(self, event: Event) -> None:
        """What all fills and payments so far make."""
        cash = self.engine.portfolio.cash
        hold(cash == self._cash, f"cash {cash}, by the fills {self._cash}, after {event}")

    # -- where the two kinds of exchange differ --------------------------------------------------------------------------

    def _check_fill(self, fill: Fill) -> None:
        """A fill that is about to be booked."""
        raise NotImplementedError

    def _check_payment(self, payment: FundingPayment) -> None:
        """Funding that is about to be booked."""
        raise NotImplementedError

    def _is_over(self, order_id: str) -> bool:
        """Whether nothing more can be heard of an order."""
        raise NotImplementedError

    def _may_open(self, working: WorkingOrder) -> bool:
        """Whether a working order could still open a position."""
        raise NotImplementedError
