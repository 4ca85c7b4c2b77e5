"""Closing positions on a kill or a flatten: retried until they are flat, regardless of the strategy and of rejected orders."""

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
"""So many bars without a fill are an alarm."""
_TRIES = 3
"""So many orders without a fill are one, too."""
_FIRST_WAIT = 1_000
"""ms until an order that came to nothing is followed by the next one; doubled each time."""
_LONGEST_WAIT = MINUTE_MS
_NEVER = 1 << 62
_ZERO = Decimal(0)


class Pursuit:
    """One symbol that is to be flat. Times are the core's, UTC ms."""

    __slots__ = ("alarmed", "due", "held", "left", "progress_at", "reason", "since", "tries", "wake")

    def __init__(self, now: int, reason: str) -> None:
        self.reason = reason
        self.since = now
        self.progress_at = now  # when the position last shrank, or grew
        self.held: Decimal | None = None  # the position then
        self.tries = 0  # orders since then
        self.due = now  # from when on another order may go out
        self.wake = now  # when the next step is due if no event arrives
        self.alarmed = False
        self.left = _ZERO  # of the position, too small to sell: as last noted


class Flattener:
    """Closes positions by reduce-only market orders. A pursuit ends when the position is flat, but
    in state HALTED: there it waits, and a fill that comes late is closed too.

    `patience` is how long, in ms, an order may work without a fill before an alarm is raised.
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
        self._tapes = states
        self._exchange = exchange
        self._risk = risk
        self._emit = emit
        self._new_id = new_id
        self._patience = patience
        # symbols of which it was recorded that the strategy's targets are ignored
        self._ignored: set[str] = set()
        self.pursuits: dict[str, Pursuit] = {}

    @property
    def open(self) -> list[str]:
        """Symbols that are to be flat and are not yet, in order."""
        return sorted(symbol for symbol in self.pursuits if not self._is_flat(symbol))

    def begin(self, symbols: Iterable[str], now: int, reason: str) -> None:
        """Close these symbols' positions, now and until they are flat."""
        for symbol in symbols:
            if symbol not in self.pursuits:
                self.pursuits[symbol] = Pursuit(now, reason)
        self.pursue(now)

    def end(self) -> None:
        """End all pursuits when the user resumes: the strategy controls the positions that are still open again."""
        self.pursuits.clear()
        self._ignored.clear()

    def ignores(self, symbol: str, now: int) -> bool:
        """Whether a target of the strategy is ignored: after a kill, and while its position is being closed."""
        killed = self._risk.killed
        if not killed and symbol not in self.pursuits:
            return False
        if symbol not in self._ignored:
            self._ignored.add(symbol)
            rule, what = (KILL, "a kill") if killed else (FLATTEN, "a flatten")
            self._emit(
                RiskEvent(
                    now, self._risk.state, rule, f"the strategy's targets are ignored after {what}", symbol
                )
            )
        return True

    def is_own(self, working: WorkingOrder) -> bool:
        """Whether a pursuit closes its position by this order: only its fill or the venue ends it."""
        return working.order.symbol in self.pursuits and self._closes(working, working.order.side)

    def due(self, now: int) -> bool:
        """Whether a heartbeat at `now` (UTC ms) would lead to another order or an alarm."""
        return any(now >= pursuit.wake for pursuit in self.pursuits.values())

    def pursue(self, now: int) -> None:
        """Take the next step of every pursuit."""
        for symbol, pursuit in list(self.pursuits.items()):
            self._pursue(symbol, pursuit, now)

    def _pursue(self, symbol: str, pursuit: Pursuit, now: int) -> None:
        state = self._tapes[symbol]
        position = state.position
        side = Side.SELL if position.qty > 0 else Side.BUY
        lot = self._closable(state)
        if position.qty != pursuit.held:
            pursuit.held = position.qty
            pursuit.progress_at = pursuit.due = now
            pursuit.tries = 0
        pursuit.wake = _NEVER
        self._clear_the_way(state, side, now)
        if not lot:
            if self._is_flat(symbol):
                self._rest(symbol, pursuit, now)
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
            detail = f"{position.qty} {symbol} could not be closed {tried}, {waited} after it was asked for ({pursuit.reason})"
            self._emit(RiskEvent(now, self._risk.state, FLATTEN, f"{detail}; it goes on", symbol))
        if not pursuit.alarmed:
            pursuit.wake = pursuit.progress_at + self._patience
        if missing > 0:
            pursuit.wake = min(pursuit.wake, max(pursuit.due, now + _FIRST_WAIT))

    def _clear_the_way(self, state: InstrumentState, side: Side, now: int) -> None:
        """Cancel all other working orders, except protection and market orders that close."""
        others = [
            w for w in state.book if not w.closes_position and not w.cancelling and not self._closes(w, side)
        ]
        if others:
            self._exchange.cancel(others, now, "the position is being closed")

    def _must_wait(self, state: InstrumentState, pursuit: Pursuit, now: int) -> bool:
        """Whether pending cancellations have to complete first: on spot venues have no reduce-only orders."""
        if not state.instrument.is_margined:
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

    @staticmethod
    def _closable(state: InstrumentState) -> Decimal:
        """How much of the position an order can close; on spot nothing if that is below the venue's minima."""
        rules, position = state.instrument, state.position
        lot = rules.round_qty(abs(position.qty))
        small = lot < rules.min_qty or lot * position.mark_decimal < rules.min_notional
        return _ZERO if small and not rules.is_margined and position.mark == position.mark else lot

    def _is_flat(self, symbol: str) -> bool:
        """Whether no position that an order can close is left, and no working order could open one."""
        state = self._tapes[symbol]
        if self._closable(state):
            return False
        return all(working.closes_position for working in state.book)

    def _rest(self, symbol: str, pursuit: Pursuit, now: int) -> None:
        if pursuit.alarmed:
            pursuit.alarmed = False
            self._emit(RiskEvent(now, self._risk.state, FLATTEN, "flat after all", symbol))
        left = self._tapes[symbol].position.qty
        if left != pursuit.left:
            pursuit.left = left
            if left:
                detail = f"{left} {symbol} stay: the venue takes no order that small"
                self._emit(RiskEvent(now, self._risk.state, FLATTEN, detail, symbol))
        if not self._risk.halted:
            del self.pursuits[symbol]
            self._ignored.discard(symbol)
