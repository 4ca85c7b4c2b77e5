"""Closes positions after a kill or a flatten, and retries until they are flat.

Rejected orders are followed by new ones, and targets of the strategy are ignored meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal

from agent.core.durations import format_duration
from agent.core.events import MINUTE_MS, Decision, Order, OrderType, RiskEvent, Side
from agent.core.exchange import Exchange
from agent.core.market import InstrumentState
from agent.core.orders import WorkingOrder
from agent.core.risk import FLATTEN, KILL, RiskManager

BARS = 3
"""Bars without a fill after which an alarm is raised."""
_TRIES = 3
"""Orders without a fill after which an alarm is raised."""
_FIRST_WAIT = 1_000
"""Wait (ms) before an order without a fill is followed by the next one; doubled each time."""
_LONGEST_WAIT = MINUTE_MS
_NEVER = 1 << 61
_ZERO = Decimal(0)


class Pursuit:
    """The closing of one symbol's position. Times are UTC ms."""

    __slots__ = ("alarmed", "due", "held", "left", "progress_at", "reason", "since", "tries", "wake")

    def __init__(self, now: int, reason: str) -> None:
        self.reason = reason
        self.since = now
        self.progress_at = now  # when the position last changed
        self.held: Decimal | None = None  # the position since then
        self.tries = 0  # orders submitted since then
        self.due = now  # earliest time of the next order
        self.wake = now  # time of the next step if no event arrives before
        self.alarmed = False
        self.left = _ZERO  # last reported remainder that is too small to sell


class Flattener:
    """Closes positions with reduce-only market orders.

    A pursuit ends when the position is flat. In state HALTED it stays, so that late fills are closed too.
    `patience` is the time (ms) without a fill after which an alarm is raised.
    """

    def __init__(
        self,
        states: dict[str, InstrumentState],
        exchange: Exchange,
        risk: RiskManager,
        emit: Callable[[Decision], None],
        new_id: Callable[[], str],
        patience: int,
    ) -> None:
        self._states = states
        self._exchange = exchange
        self._risk = risk
        self._emit = emit
        self._new_id = new_id
        self._patience = patience
        self._ignored: set[str] = set()  # symbols whose ignored targets have been reported
        self.pursuits: dict[str, Pursuit] = {}

    @property
    def open(self) -> list[str]:
        """Symbols whose positions are still being closed, sorted."""
        return sorted(symbol for symbol in self.pursuits if not self._is_flat(symbol))

    def begin(self, symbols: Iterable[str], now: int, reason: str) -> None:
        """Start closing the positions of these symbols."""
        for symbol in symbols:
            if symbol not in self.pursuits:
                self.pursuits[symbol] = Pursuit(now, reason)
        self.pursue(now)

    def end(self) -> None:
        """End all pursuits, because the operator has resumed; the strategy controls open positions again."""
        self.pursuits.clear()
        self._ignored.clear()

    def ignores(self, symbol: str, now: int) -> bool:
        """Return whether a target is ignored: after a kill, and while its position is being closed."""
        killed = self._risk.killed
        if not killed and symbol not in self.pursuits:
            return False
        if symbol not in self._ignored:
            self._ignored.add(symbol)
            rule, what = (KILL, "a kill") if killed else (FLATTEN, "a flatten")
            detail = f"the strategy's targets are ignored after {what}"
            self._emit(RiskEvent(now, self._risk.state, rule, detail, symbol))
        return True

    def is_own(self, working: WorkingOrder) -> bool:
        """Return whether a pursuit has placed this order to close its position; others may be cancelled."""
        return working.order.symbol in self.pursuits and self._closes(working, working.order.side)

    def due(self, now: int) -> bool:
        """Return whether a heartbeat at `now` (UTC ms) would lead to another order or an alarm."""
        return any(now >= pursuit.wake for pursuit in self.pursuits.values())

    def pursue(self, now: int) -> None:
        """Advance every pursuit."""
        for symbol, pursuit in list(self.pursuits.items()):
            self._pursue(symbol, pursuit, now)

    def _pursue(self, symbol: str, pursuit: Pursuit, now: int) -> None:
        state = self._states[symbol]
        position = state.position
        side = Side.SELL if position.qty > 0 else Side.BUY
        lot = self._closable(state)
        if position.qty != pursuit.held:
            pursuit.held = position.qty
            pursuit.progress_at = pursuit.due = now
            pursuit.tries = 0
        pursuit.wake = _NEVER
        self._cancel_others(state, side, now)
        if not lot:
            if self._is_flat(symbol):
                self._on_flat(symbol, pursuit, now)
            return
        closing: list[WorkingOrder] = []
        others: list[WorkingOrder] = []
        for working in state.book:
            if working.closes_position:
                continue
            (closing if not working.cancelling and self._closes(working, side) else others).append(working)
        missing = lot
        for working in closing:
            missing -= working.remaining
        if missing > 0 and now >= pursuit.due and not (others and self._must_wait(state, pursuit, now)):
            self._close(state, pursuit, side, missing, now)
            missing = _ZERO
        stuck = now - pursuit.progress_at >= self._patience
        if not pursuit.alarmed and (stuck or pursuit.tries > _TRIES):
            pursuit.alarmed = True
            tried = f"after {pursuit.tries} orders" if pursuit.tries > 1 else "by now"
            waited = format_duration(now - pursuit.since)
            detail = (
                f"{position.qty} {symbol} could not be closed {tried}, {waited} after it was asked for "
                f"({pursuit.reason}); it goes on"
            )
            self._emit(RiskEvent(now, self._risk.state, FLATTEN, detail, symbol))
        if not pursuit.alarmed:
            pursuit.wake = pursuit.progress_at + self._patience
        if missing > 0:
            pursuit.wake = min(pursuit.wake, max(pursuit.due, now + _FIRST_WAIT))

    def _cancel_others(self, state: InstrumentState, side: Side, now: int) -> None:
        """Cancel working orders other than protection and orders that close the position."""
        others = [
            w for w in state.book if not w.closes_position and not w.cancelling and not self._closes(w, side)
        ]
        if others:
            self._exchange.cancel(others, now, "the position is being closed")

    def _must_wait(self, state: InstrumentState, pursuit: Pursuit, now: int) -> bool:
        """Return whether pending cancels must complete before the closing order is submitted."""
        # Without reduce-only orders the closing order could otherwise close too much
        if not self._exchange.caps_reductions(state.instrument):
            return True
        return not self._risk.killed and now - pursuit.since < self._patience

    def _close(self, state: InstrumentState, pursuit: Pursuit, side: Side, qty: Decimal, now: int) -> None:
        symbol = state.position.symbol
        pursuit.tries += 1
        pursuit.due = now + min(_FIRST_WAIT << min(pursuit.tries - 1, 10), _LONGEST_WAIT)
        order = Order(
            self._new_id(), symbol, now, side, OrderType.MARKET, qty, reduce_only=True, reason=pursuit.reason
        )
        self._emit(order)
        self._exchange.submit(order, now)

    @staticmethod
    def _closes(working: WorkingOrder, side: Side) -> bool:
        order = working.order
        market = order.type is OrderType.MARKET and not working.closes_position
        return market and order.reduce_only and order.side is side

    def _closable(self, state: InstrumentState) -> Decimal:
        """Return the quantity that an order can close.

        Without reduce-only orders it is 0 below the venue's minima.
        """
        rules, position = state.instrument, state.position
        lot = rules.round_qty(abs(position.qty))
        small = lot < rules.min_qty or lot * position.mark_decimal < rules.min_notional
        capped = self._exchange.caps_reductions(rules)
        return _ZERO if small and not capped and position.mark == position.mark else lot

    def _is_flat(self, symbol: str) -> bool:
        """Return whether an order can close nothing more, and no working order could open a position."""
        state = self._states[symbol]
        if self._closable(state):
            return False
        return all(working.closes_position for working in state.book)

    def _on_flat(self, symbol: str, pursuit: Pursuit, now: int) -> None:
        if pursuit.alarmed:
            pursuit.alarmed = False
            self._emit(RiskEvent(now, self._risk.state, FLATTEN, "flat after all", symbol))
        left = self._states[symbol].position.qty
        if left != pursuit.left:
            pursuit.left = left
            if left:
                detail = f"{left} {symbol} stay: the venue takes no order that small"
                self._emit(RiskEvent(now, self._risk.state, FLATTEN, detail, symbol))
        if not self._risk.halted:
            del self.pursuits[symbol]
            self._ignored.discard(symbol)
