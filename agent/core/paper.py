"""The paper exchange: matches orders against klines inside the core. Every assumption is listed in docs/assumptions.md.

A bar is met in four steps, each of them against the trader where the truth can't be known:

1. open: orders that arrived before the bar began meet its open, and so does the protection that they attach;
2. range: triggered stops first, then resting limits, then stops attached to entries of this very bar, then take-profits that
   were there before it;
3. close: orders that arrived while the bar ran, and take-profits born in it, meet its close, the only price that surely came after;
   protection attached there meets it, too;
4. liquidation at the bar's worst price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal

import msgspec

from agent.core.events import (
    Fill,
    FillKind,
    Funding,
    FundingPayment,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    Side,
    TimeInForce,
)
from agent.core.exchange import MOVED, MatchingExchange, Report
from agent.core.fill_models import Rules
from agent.core.instruments import Instrument
from agent.core.margin import MarginRules
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.settings import CoreConfig

_ZERO = Decimal(0)
_ONE = Decimal(1)
_AT_ONCE = (TimeInForce.IOC, TimeInForce.FOK)


class PaperExchange(MatchingExchange):
    """Matches, books and reports. `emit` receives every Order it creates itself, and each OrderUpdate, Fill and FundingPayment."""

    def __init__(
        self,
        config: CoreConfig,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(instruments, portfolio, emit, new_id)
        self.margin = MarginRules(instruments, portfolio, config.account.leverage)
        self._rules = Rules(config.paper)
        self._latency = config.paper.latency
        self._liquidation_fee = config.paper.liquidation_fee
        self._taken: dict[str, tuple[int, float]] = {}  # symbol -> (bar, volume that we took of it)
        self._budget = 0.0
        self._liquidation_at = (-1, 0.0)  # of the only open position: (ledger version, price)

    # -- orders ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order, now: int) -> None:
        """Accept an order; it reaches the market `latency` later. One that breaks the instrument's rules is rejected."""
        flaw = self._flaw(order)
        if flaw:
            self._reject(order, now, flaw)
            return
        self.books[order.symbol].append(WorkingOrder(order, now + self._latency))

    def cancel(self, orders: Iterable[WorkingOrder], now: int, reason: str) -> None:
        """Take orders off the book."""
        for working in list(orders):
            self._end(working, now, reason)

    def amend(
        self, working: WorkingOrder, *, qty: Decimal | None = None, price: Decimal | None = None
    ) -> str:
        """Change a resting order in place; returns the reason of a refusal, or an empty text."""
        order = msgspec.structs.replace(
            working.order,
            qty=working.order.qty if qty is None else qty,
            price=working.order.price if price is None else price,
        )
        flaw = self._flaw(order)
        if not flaw and order.qty <= working.filled:
            flaw = f"quantity {order.qty} is not above what is filled, {working.filled}"
        if not flaw:
            working.order = order
            working.limit = float(order.price) if order.price is not None else 0.0
        return flaw

    # -- market ------------------------------------------------------------------------------------------------------

    def on_kline(self, kline: Kline) -> None:
        """Meet a closed bar: open, range, close."""
        book = self.books[kline.symbol]
        start = kline.start
        stamps = self.held_funding.pop(kline.symbol, None) if self.held_funding else None
        if stamps:
            self._pay_held(stamps, kline, start + 1)
        if book:
            self._start_bar(kline)
        for working in _in_turn(book):
            if working.arrives_at <= start:
                self._meet(working, kline, kline.open, max(start, working.arrives_at))
        self._meet_new_protection(kline, kline.open, start)
        if stamps:
            self._pay_held(stamps, kline, kline.ts)
        self._check_range(kline, start)
        self._meet_range(self._before_profits(book, start), kline, start)
        self._check_range(kline, start)
        self._meet_range(self._profits(book, start), kline, start)
        for working in _in_turn(book):
            if start < working.arrives_at < kline.ts:
                working.born_inside = False
                self._meet(working, kline, kline.close, kline.ts)
        self._meet_new_protection(kline, kline.close, kline.ts)
        if stamps:
            self.held_funding[kline.symbol] = stamps

    def _meet_range(self, in_order: Iterator[WorkingOrder], kline: Kline, start: int) -> None:
        for working in in_order:
            price = working.trigger
            # moved after an open that had passed it already
            if working.born_inside and working.arrives_at > start:
                price = min(price, kline.open) if working.order.side is Side.SELL else max(price, kline.open)
            if working.is_limit:
                if working.seen and self._rules.limit_fill.reached(kline, working.order.side, working.limit):
                    self._make(working, kline, kline.ts)
            elif not working.triggered and working.crossed(kline.low, kline.high):
                self._trigger(working, kline)
                self._take(working, kline, price, kline.ts)

    def _meet_new_protection(self, kline: Kline, price: float, ts: int) -> None:
        """What an entry has attached meets the price that the entry met: a stop on its wrong side is carried out there."""
        for working in list(self.books[kline.symbol]):
            new = working.closes_position and not working.seen and working.arrives_at <= ts
            if new and working.crossed(price, price):  # else the next price is its first
                self._meet(working, kline, price, ts)

    def _before_profits(self, book: list[WorkingOrder], start: int) -> Iterator[WorkingOrder]:
        """The pessimistic order of step 2, up to take-profits. Lazy: what an entry attaches is seen by the later groups."""
        for working in list(book):
            if working.arrives_at <= start and working.order.type is OrderType.STOP and working in book:
                yield working
        for working in list(book):
            if working.arrives_at <= start and working.is_limit and working in book:
                yield working
        for working in list(book):
            if (
                working.arrives_at > start
                and working.born_inside
                and working.order.type is OrderType.STOP
                and working in book
            ):
                yield working

    def _profits(self, book: list[WorkingOrder], start: int) -> Iterator[WorkingOrder]:
        for working in list(book):
            if (
                working.arrives_at <= start
                and working.order.type is OrderType.TAKE_PROFIT
                and working in book
            ):
                yield working

    def on_price(self, kline: Kline) -> None:
        """Meet the last price of a running bar."""
        self._start_bar(kline)
        for working in list(self.books[kline.symbol]):
            if working.arrives_at < kline.ts:
                working.born_inside = False
                self._meet(working, kline, kline.close, kline.ts)
        self._meet_new_protection(kline, kline.close, kline.ts)

    def at_close(self, kline: Kline) -> None:
        """Fill what was decided on this very bar at its own close (`fill = "close"`): for comparisons only."""
        self._start_bar(kline)
        for working in list(self.books[kline.symbol]):
            if not working.seen:
                self._meet(working, kline, kline.close, kline.ts)
        self._meet_new_protection(kline, kline.close, kline.ts)

    def check_margin(self, kline: Kline) -> None:
        """Liquidate the position in the bar's symbol if its worst price takes equity below the maintenance margin."""
        position = self._portfolio.positions[kline.symbol]
        if not position.size:
            return
        price = self.liquidation_price(position)
        if kline.low <= price if position.size > 0 else kline.high >= price:
            self.liquidate(kline, price, kline.open)

    def _check_range(self, kline: Kline, start: int) -> None:
        """Liquidate what is held within the bar, unless a stop that works lies before the liquidation price on the way there."""
        position = self._portfolio.positions[kline.symbol]
        if not position.size or not self._instruments[kline.symbol].is_margined:
            return
        price = self.liquidation_price(position)
        for working in self.books[kline.symbol]:
            stops = working.closes_position and working.order.type is OrderType.STOP and not working.triggered
            there = working.arrives_at <= start or working.born_inside
            if (
                stops
                and there
                and (working.trigger >= price if position.size > 0 else working.trigger <= price)
            ):
                return
        self.check_margin(kline)

    def liquidate(self, kline: Kline, price: float, first: float) -> None:
        """Close the position in the bar's symbol at `price`, or at `first`, the first price that it met, if that lies beyond."""
        position = self._portfolio.positions[kline.symbol]
        price = min(price, first) if position.size > 0 else max(price, first)
        self.cancel(self.books[kline.symbol], kline.available_at, "liquidation")
        side = Side.SELL if position.size > 0 else Side.BUY
        rules = self._instruments[kline.symbol]
        exact = max(rules.round_price(Decimal(repr(price)), side), rules.tick_size)
        qty = abs(position.qty)
        fee = self._rules.fees.fee(rules, qty, exact, maker=False) + qty * exact * self._liquidation_fee
        order = Order(
            self._new_id(),
            kline.symbol,
            kline.available_at,
            side,
            OrderType.MARKET,
            qty,
            reduce_only=True,
            reason="liquidation",
        )
        self._emit(order)
        self._book(
            Fill(
                f"{order.id}.0", order.id, kline.symbol, kline.ts, kline.available_at, side, qty, exact, fee,
                kind=FillKind.LIQUIDATION, reason="liquidation",
            )
        )  # fmt: skip
        self._emit(
            OrderUpdate(
                order.id, kline.symbol, kline.ts, kline.available_at, OrderStatus.FILLED, qty, "liquidation"
            )
        )

    def liquidation_price(self, position: Position) -> float:
        """See `MarginRules.liquidation_price`. Cached while it is the only position, since then only fills and funding move it."""
        if len(self._portfolio.open) > 1:
            return self.margin.liquidation_price(position)
        if self._liquidation_at[0] != self._portfolio.version:
            self._liquidation_at = (self._portfolio.version, self.margin.liquidation_price(position))
        return self._liquidation_at[1]

    def on_funding(self, funding: Funding) -> None:
        """Book funding on the position held at the stamp: qty * mark * rate, paid by longs if positive."""
        self._pay_funding(funding, self._portfolio.positions[funding.symbol].mark_decimal)

    def _pay_held(self, stamps: list[Funding], kline: Kline, before: int) -> None:
        """Book the stamps earlier than `before` and take them from `stamps`; within the bar the last price is its open."""
        while stamps and stamps[0].ts < before:
            funding = stamps.pop(0)
            inside = funding.ts > kline.start
            mark = self._portfolio.positions[funding.symbol].mark_decimal
            self._pay_funding(funding, Decimal(repr(kline.open)) if inside else mark)

    def _pay_funding(self, funding: Funding, mark: Decimal) -> None:
        position = self._portfolio.positions[funding.symbol]
        if not position.qty:
            return
        rate = Decimal(repr(funding.rate))
        payment = FundingPayment(
            funding.symbol, funding.ts, rate, position.qty, mark, -position.qty * mark * rate
        )
        self._portfolio.pay(payment)
        self._emit(payment)

    # -- matching ----------------------------------------------------------------------------------------------------

    def _start_bar(self, kline: Kline) -> None:
        bar, taken = self._taken.get(kline.symbol, (0, 0.0))
        if bar != kline.start:
            taken = 0.0
            self._taken[kline.symbol] = (kline.start, 0.0)
        self._budget = self._rules.liquidity.budget(kline) - taken
        self.bars_met += 1
        if not kline.volume > 0 and self._budget <= 0:
            self.bars_without_volume += 1
        elif taken == 0.0 and self._budget < float(self._instruments[kline.symbol].qty_step):
            self.bars_below_a_lot += 1

    def _meet(self, working: WorkingOrder, kline: Kline, price: float, ts: int) -> None:
        """One order meets one price."""
        if working not in self.books[kline.symbol]:
            return  # ended by what another order did a moment ago
        first, working.seen = not working.seen, True
        order = working.order
        if not working.is_limit:
            if working.triggered or working.crossed(price, price):
                self._trigger(working, kline)
                self._take(working, kline, price, ts)
        elif not first:
            if working.marketable(price) and price != working.limit:
                self._make(working, kline, ts)
        elif working.marketable(price):
            if order.tif is TimeInForce.POST_ONLY:
                self._end(working, kline.available_at, "post-only order would take liquidity")
            else:
                self._take(working, kline, price, ts)
        elif order.tif in _AT_ONCE:
            self._end(working, kline.available_at, f"{order.tif.value} order found no liquidity at its price")

    def _trigger(self, working: WorkingOrder, kline: Kline) -> None:
        """A stop that is carried out ends what is left of its entry, which would open again what the stop closes."""
        if working.closes_position and working.order.type is OrderType.STOP and not working.triggered:
            entry = [
                w
                for w in self.books[kline.symbol]
                if w.order.id == working.order.oco and not w.closes_position
            ]
            self.cancel(entry, kline.available_at, "its stop was triggered")
        working.triggered = True

    def _take(self, working: WorkingOrder, kline: Kline, price: float, ts: int) -> None:
        """Execute at `price` plus half the spread plus our own impact, as far as liquidity and margin go."""
        order = working.order
        # What can be afforded is judged at the price of the whole order, which is never better than that of a part
        qty = self._quantity(working, kline, self._taker_price(order, kline, price, float(order.qty)))
        if qty > 0:
            exact = self._taker_price(order, kline, price, float(qty))
            slippage = (exact - Decimal(repr(price))) * order.side.sign * qty
            self._execute(working, kline, qty, exact, ts, slippage=slippage, maker=False)
        if order.tif in _AT_ONCE and working in self.books[order.symbol]:
            self._end(working, kline.available_at, f"{order.tif.value} order: no more liquidity")

    def _taker_price(self, order: Order, kline: Kline, price: float, qty: float) -> Decimal:
        """`price` plus half the spread plus our own impact, on the tick, no worse than the order's limit."""
        worse = price * self._rules.half_spread + self._rules.slippage.offset(kline, price, qty)
        rules = self._instruments[order.symbol]
        if order.side is Side.BUY:
            exact = rules.round_price(Decimal(repr(price + worse)), order.side)
            return exact if order.price is None else min(exact, order.price)
        exact = max(rules.round_price(Decimal(repr(price - worse)), order.side), rules.tick_size)
        return exact if order.price is None else max(exact, order.price)

    def _make(self, working: WorkingOrder, kline: Kline, ts: int) -> None:
        """Execute a resting limit order at its price."""
        price = working.order.price
        if price is None:
            return
        qty = self._quantity(working, kline, price)
        if qty > 0:
            self._execute(working, kline, qty, price, ts, slippage=_ZERO, maker=True)

    def _quantity(self, working: WorkingOrder, kline: Kline, price: Decimal) -> Decimal:
        """How much can be executed now; ends the order where nothing ever can."""
        order = working.order
        rules = self._instruments[order.symbol]
        held = self._portfolio.positions[order.symbol].qty
        opposite = abs(held) if held * order.side.sign < 0 else _ZERO
        wanted = opposite if working.closes_position else working.remaining
        if order.reduce_only:
            wanted = min(wanted, opposite)
            if not wanted:
                self._end(
                    working, kline.available_at, "reduce-only order, but there is no position to reduce"
                )
        elif wanted > opposite:
            fee = self._rules.fees.fee(rules, _ONE, price, maker=False)
            wanted = min(wanted, rules.round_qty(self.margin.affordable(rules, order.side, price, fee)))
            if not wanted:
                self.refusals["insufficient balance"] += 1
                self._end(working, kline.available_at, "insufficient balance")
        if working.closes_position and wanted and not rules.is_margined and not working.filled:
            value = wanted * price
            # a venue takes no such order, whichever way it trades
            if wanted < rules.min_qty or value < rules.min_notional:
                self.refusals[f"protective order's value below the minimum {rules.min_notional}"] += 1
                self._end(
                    working, kline.available_at, f"value {value} is below the minimum {rules.min_notional}"
                )
                return _ZERO
        if float(wanted) > self._budget:
            if order.tif is TimeInForce.FOK:
                return _ZERO
            wanted = rules.round_qty(Decimal(repr(self._budget))) if self._budget > 0 else _ZERO
        return _ZERO if order.tif is TimeInForce.FOK and wanted < order.qty else wanted

    def _execute(
        self,
        working: WorkingOrder,
        kline: Kline,
        qty: Decimal,
        price: Decimal,
        ts: int,
        *,
        slippage: Decimal,
        maker: bool,
    ) -> None:
        order = working.order
        book = self.books[order.symbol]
        bar, taken = self._taken[order.symbol]
        self._taken[order.symbol] = (bar, taken + float(qty))
        self._budget -= float(qty)
        working.filled += qty
        fill_id = f"{order.id}.{working.fills}"
        working.fills += 1
        done = working.remaining <= 0 or (
            working.closes_position and not self._portfolio.positions[order.symbol].qty
        )
        if done:
            book.remove(working)
        fee = self._rules.fees.fee(self._instruments[order.symbol], qty, price, maker=maker)
        self._book(
            Fill(
                fill_id,
                order.id,
                order.symbol,
                ts,
                kline.available_at,
                order.side,
                qty,
                price,
                fee,
                maker,
                slippage,
                reason=order.reason,
            )
        )
        status = OrderStatus.FILLED if done else OrderStatus.PARTIALLY_FILLED
        self._emit(OrderUpdate(order.id, order.symbol, ts, kline.available_at, status, working.filled))
        if not book and order.stop is None and order.take_profit is None:
            return
        if order.oco:
            self.cancel(
                [w for w in book if w.order.oco == order.oco and w is not working],
                kline.available_at,
                "the other side was filled",
            )
        held = self._portfolio.positions[order.symbol].qty
        stranded = [w for w in book if w.closes_position and held * w.order.side.sign >= 0]
        if stranded:
            self.cancel(stranded, kline.available_at, "position closed")
        # a reversal that is partly filled has only shrunk the old position
        opened = held * order.side.sign > 0
        if opened and (order.stop is not None or order.take_profit is not None):
            self._protect(order, kline, ts)

    def _book(self, fill: Fill) -> None:
        self._portfolio.apply(fill)
        self._emit(fill)

    def _protect(self, entry: Order, kline: Kline, ts: int) -> None:
        """Attach the entry's stop and take-profit at its first fill; they replace those of an earlier entry."""
        book = self.books[entry.symbol]
        if any(w.order.oco == entry.id for w in book):
            return
        self.cancel(
            [w for w in book if w.closes_position],
            kline.available_at,
            "replaced by the protection of a newer entry",
        )
        side = Side.SELL if entry.side is Side.BUY else Side.BUY
        for kind, trigger in ((OrderType.STOP, entry.stop), (OrderType.TAKE_PROFIT, entry.take_profit)):
            if trigger is None:
                continue
            order = Order(
                self._new_id(), entry.symbol, kline.available_at, side, kind, entry.qty, trigger=trigger, reduce_only=True, oco=entry.id,
                reason=kind.value.lower().replace("_", "-"),
            )  # fmt: skip
            self._emit(order)
            book.append(
                WorkingOrder(order, min(ts, kline.ts - 1), closes_position=True, born_inside=ts > kline.start)
            )

    def _place_protection(self, order: Order, old: list[WorkingOrder], now: int) -> None:
        self._emit(order)
        # Moved inside a bar, a stop is taken to be hit if that bar's range reaches it
        self.books[order.symbol].append(
            WorkingOrder(order, now, closes_position=True, born_inside=order.type is OrderType.STOP)
        )
        self.cancel(old, now, MOVED)

    def _end(self, working: WorkingOrder, now: int, reason: str) -> None:
        book = self.books[working.order.symbol]
        if working not in book:
            return
        book.remove(working)
        order = working.order
        self._emit(
            OrderUpdate(order.id, order.symbol, now, now, OrderStatus.CANCELLED, working.filled, reason)
        )


def _in_turn(book: list[WorkingOrder]) -> list[WorkingOrder]:
    """Orders as they meet one price: in order of arrival, but what has been triggered first, so that no later entry takes its volume."""
    return [w for w in book if w.triggered] + [w for w in book if not w.triggered]
