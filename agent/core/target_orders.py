"""From a strategy's targets to orders, within the limits of risk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from math import inf, nan
from typing import Final

from msgspec import UNSET

from agent.core.events import Order, OrderType, Side
from agent.core.exchange import Exchange
from agent.core.market import InstrumentState, MarketView
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.risk import RiskManager
from agent.core.sizing import entry_trigger, limit_of, protection_of, size
from agent.core.target import Target

_BUY: Final = Side.BUY
_SELL: Final = Side.SELL
_MARKET: Final = OrderType.MARKET
_LIMIT: Final = OrderType.LIMIT
_STOP: Final = OrderType.STOP
_ALMOST: Final = 0.999
"""A target by risk that reaches this share of the largest position counts as reduced by a limit."""


class TargetOrders:
    """Sizes targets, checks them against the limits, and sends the orders that lead to them.

    `emit` receives the orders. `band` is `paper.rebalance_band`. `waiting` has, by symbol, the targets that
    wait until the orders they replace are cancelled.
    """

    def __init__(
        self,
        portfolio: Portfolio,
        risk: RiskManager,
        exchange: Exchange,
        market: MarketView,
        counts: Counter[str],
        emit: Callable[[Order], None],
        new_id: Callable[[], str],
        *,
        band: float,
    ) -> None:
        self.waiting: dict[str, Target] = {}
        self._portfolio = portfolio
        self._risk = risk
        self._exchange = exchange
        self._market = market
        self._counts = counts
        self._emit = emit
        self._new_id = new_id
        self._band = band

    def pursue(self, target: Target, state: InstrumentState) -> None:
        """Send the order that leads to the target, or move protection, if a limit doesn't forbid it.

        At a venue the target waits until the orders that it replaces are cancelled.
        """
        now = self._market.now
        self.waiting.pop(target.symbol, None)
        position = state.position
        price = position.mark
        if price != price:
            self._counts["targets before the first bar"] += 1
            return
        equity = self._portfolio.equity()
        band = self._band
        entries = [w for w in state.book if not w.closes_position] if state.book else []
        if entries:
            coming = position.qty + sum(w.remaining * w.order.side.sign for w in entries)
            most = self._most(target, coming, price, equity, position) if target.risk else inf
            if size(target, state.instrument, coming, price, equity, band, most) is None and all(
                w.limit == limit_of(target, state.instrument, w.order.side)
                and self._has_trigger(w, target, state)
                and not w.cancelling
                for w in entries
            ):
                self._move_protection(target, state)
                return  # the working orders lead there already
            self._exchange.cancel(entries, now, "replaced by a newer target")
            if entries[0] in state.book:  # at a venue they work, and may fill, until it confirms the cancel
                self.waiting[target.symbol] = target
                return
        most = self._most(target, position.qty, price, equity, position) if target.risk else inf
        sized = size(target, state.instrument, position.qty, price, equity, band, most)
        if sized is None:
            self._move_protection(target, state)
            if target.weight and not position.qty:
                self._count_untradable(target, state)
            return
        notional = float(sized.qty) * price
        after = abs(float(sized.position_after)) * price
        gross_after = self._portfolio.gross_notional() - abs(position.size) * price + after
        if not self._risk.allows(
            now,
            target.symbol,
            reduces=sized.reduces,
            notional=notional,
            position_after=after,
            gross_after=gross_after,
            equity=equity,
            data_age=state.overdue(now),
            change=notional if sized.side is _BUY else -notional,
        ):
            self._move_protection(target, state)
            return
        if target.risk and after > most * _ALMOST:
            self._counts["targets by risk that risk limits reduce"] += 1
        kind = _MARKET if sized.limit is None else _LIMIT
        stop, take_profit, trail, levels = sized.protection
        order = Order(
            self._new_id(),
            target.symbol,
            now,
            sized.side,
            kind if sized.trigger is None else _STOP,
            sized.qty,
            sized.limit,
            sized.trigger,
            target.tif,
            sized.reduces,
            stop,
            take_profit,
            "",
            target.reason,
            UNSET if trail is None else trail,
            levels or UNSET,
            UNSET if target.expire is None else now + target.expire,
        )
        self._emit(order)
        self._exchange.submit(order, now)
        # a working entry attaches its protection when it fills
        if sized.reduces or not any(working.order is order for working in state.book):
            self._move_protection(target, state)

    @staticmethod
    def _has_trigger(working: WorkingOrder, target: Target, state: InstrumentState) -> bool:
        """Return whether a working entry has the trigger of the target's stop entry, or neither has one."""
        side, trigger = working.order.side, working.order.trigger
        mark = nan if trigger is not None else state.position.mark  # NaN has reached no trigger
        return working.triggered or trigger == entry_trigger(target, state.instrument, side, mark)

    def _most(self, target: Target, held: Decimal, price: float, equity: float, position: Position) -> float:
        """Return the largest value of the position that the risk limits allow to a target by risk."""
        others = self._portfolio.gross_notional() - abs(position.size) * price
        in_direction = float(held) * price * (1 if target.weight > 0 else -1)
        return max(self._risk.largest_position(equity, others, in_direction), in_direction, 0.0)

    def _move_protection(self, target: Target, state: InstrumentState) -> None:
        """Move the protection of a position, or of a working entry, to that of the target."""
        if not target.weight or not target.protects or (not state.book and not state.position.qty):
            return
        if not self._risk.ready:
            return
        if self._risk.halted:
            self._counts["stops and take-profits that stay where they are while HALTED"] += 1
            return
        side, closing = (_BUY, _SELL) if target.weight > 0 else (_SELL, _BUY)
        protection = protection_of(target, state.instrument, state.position.mark, closing)
        self._exchange.protect(target.symbol, side, protection, self._market.now, loosen=target.loosen)

    def _count_untradable(self, target: Target, state: InstrumentState) -> None:
        """Count a target that led to no order although no position is open."""
        rules = state.instrument
        if target.weight < 0 and not rules.is_margined:
            self._counts[f"targets below 0 in {target.symbol}, which can't be sold short"] += 1
        elif self._portfolio.equity() > 0:
            self._counts[f"targets in {target.symbol} smaller than one lot, {rules.qty_step}"] += 1
