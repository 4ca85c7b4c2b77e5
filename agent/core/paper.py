"""The paper exchange: matches orders against klines inside the core. docs/assumptions.md lists every
assumption.

A bar is matched in four steps. If a bar doesn't determine what happened, the outcome is assumed to be the
worse one:

1. open: orders that arrived before the bar began meet its open, and so does the protection that they attach;
2. range: stops are triggered first, then resting limits fill, then stops attached to entries of this bar,
   then take-profits that existed before the bar; a trailing stop follows the bar's best price after that;
3. close: orders that arrived during the bar, and take-profits attached in it, meet its close, the only price
   that certainly came later, and so does the protection that they attach;
4. liquidation at the bar's worst price.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from math import inf, nan
from typing import Final

import msgspec
from librt.vecs import vec
from mypy_extensions import i64

from agent.core.decimals import exact
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
from agent.core.fill_models import FillRules
from agent.core.instruments import Instrument
from agent.core.margin import MarginRules
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.protection import protection_in, protects
from agent.core.settings import CoreConfig

_ZERO: Final = Decimal(0)
_ONE: Final = Decimal(1)
_MINUS_ONE: Final = Decimal(-1)
_BUY: Final = Side.BUY
_SELL: Final = Side.SELL
_MARKET: Final = OrderType.MARKET
_STOP: Final = OrderType.STOP
_TAKE_PROFIT: Final = OrderType.TAKE_PROFIT
_TRAILING_STOP: Final = OrderType.TRAILING_STOP
_POST_ONLY: Final = TimeInForce.POST_ONLY
_IOC: Final = TimeInForce.IOC
_FOK: Final = TimeInForce.FOK
_FILLED: Final = OrderStatus.FILLED
_PARTIALLY_FILLED: Final = OrderStatus.PARTIALLY_FILLED
_TRADE: Final = FillKind.TRADE


class PaperExchange(MatchingExchange):
    """Matches orders against bars; `emit` receives updates, fills, payments and the orders that it places."""

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
        self._rules = FillRules(config.paper)
        self._latency = config.paper.latency
        self._liquidation_fee = config.paper.liquidation_fee
        self._taken: dict[str, tuple[int, float]] = {}  # symbol -> (start of bar, volume filled in it)
        self._budget = 0.0
        self._liquidation_at = (-1, 0.0)  # of the only open position: (ledger version, price)
        self._trails = False  # whether the run has had a trailing stop

    # -- orders -----------------------------------------------------------------------------------------

    def submit(self, order: Order, now: int) -> None:
        """Accept an order, which reaches the market after `latency`, or reject it if it breaks a rule."""
        flaw = self._flaw(order)
        if flaw:
            self._reject(order, now, flaw)
            return
        mark = self._portfolio.positions[order.symbol].mark
        self.books[order.symbol].append(WorkingOrder(order, now + self._latency, best=mark))
        self._trails = self._trails or order.type is _TRAILING_STOP
        self._note_expiry(order)

    def cancel(self, orders: Iterable[WorkingOrder], now: int, reason: str) -> None:
        for working in list(orders):
            self._end(working, now, reason)

    def amend(
        self, working: WorkingOrder, *, qty: Decimal | None = None, price: Decimal | None = None
    ) -> str:
        """Change a resting order in place; return the reason of a refusal, or an empty text."""
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

    # -- market -----------------------------------------------------------------------------------------

    def on_kline(self, kline: Kline) -> None:
        book = self.books[kline.symbol]
        start = kline.start
        stamps = self.held_funding.pop(kline.symbol, None) if self.held_funding else None
        if stamps:
            self._pay_held(stamps, kline, start + 1)
        if start >= self.next_expiry:
            self.expire(start, kline.symbol, kline.available_at)
        if book:
            self._start_bar(kline)
        best = self._rewind(book, start) if self._trails else {}
        for working in _triggered_first(book):
            if working.arrives_at <= start:
                self._meet(working, kline, kline.open, max(start, working.arrives_at))
                if working.trails:
                    working.follow(kline.open)
        self._meet_new_protection(kline, kline.open, start)
        if stamps:
            self._pay_held(stamps, kline, kline.ts)
        if kline.ts > self.next_expiry:  # the range has prices after the expiry
            self.expire(kline.ts - 1, kline.symbol, kline.available_at)
        self._check_range(kline, start)
        if book:
            self._meet_range(self._before_profits(book, start), kline, start)
            self._check_range(kline, start)
            self._meet_range(self._profits(book, start), kline, start)
            if self._trails:
                self._trail(book, kline, best)
            for working in _triggered_first(book):
                if start < working.arrives_at < kline.ts:
                    working.born_inside = False
                    self._meet(working, kline, kline.close, kline.ts)
            self._meet_new_protection(kline, kline.close, kline.ts)
        if stamps:
            self.held_funding[kline.symbol] = stamps

    def _meet_range(self, in_order: Iterator[WorkingOrder], kline: Kline, start: int) -> None:
        for working in in_order:
            price = working.trigger
            # The trigger was moved inside the bar, whose open may lie beyond it
            if working.born_inside and working.arrives_at > start:
                price = min(price, kline.open) if working.order.side is _SELL else max(price, kline.open)
            if working.is_limit:
                if working.seen and self._rules.limit_fill.reached(kline, working.order.side, working.limit):
                    self._make(working, kline, kline.ts)
            elif not working.triggered and working.crossed(kline.low, kline.high):
                self._trigger(working, kline)
                working.seen = True
                if not working.waits_at(price):  # a stop entry beyond its limit rests
                    self._take(working, kline, price, kline.ts)

    # -- orders of other sleeves ------------------------------------------------------------------------

    def share_volume(self, other: PaperExchange) -> None:
        """Draw on the same part of each bar's volume as `other`, whose orders come first."""
        self._taken = other._taken

    def crossable(self, symbol: str, now: int) -> list[WorkingOrder]:
        """Return the market orders that are still on their way to the market at `now` (UTC ms)."""
        return [
            working
            for working in self.books[symbol]
            if working.arrives_at >= now
            and working.order.type is _MARKET
            and working.order.tif is not _FOK
            and not working.closes_position
            and not working.seen
        ]

    def most_at(self, working: WorkingOrder, price: Decimal) -> Decimal:
        """Return how much of a market order can be filled at `price` without a fee."""
        order = working.order
        rules = self._instruments[order.symbol]
        held = self._portfolio.positions[order.symbol].qty
        opposite = abs(held) if held * order.side.sign < 0 else _ZERO
        wanted = working.remaining
        if order.reduce_only:
            wanted = min(wanted, rules.round_qty(opposite))
        elif wanted > opposite:
            wanted = min(wanted, rules.round_qty(self.margin.affordable(rules, order.side, price, _ZERO)))
        return max(wanted, _ZERO)

    def taker_fee(self, symbol: str, qty: Decimal, price: Decimal) -> Decimal:
        """Return the fee that the market would charge for a fill."""
        return self._rules.fees.fee(self._instruments[symbol], qty, price, maker=False)

    def cross(self, working: WorkingOrder, qty: Decimal, price: Decimal, now: int) -> None:
        """Fill `qty` of a market order against another sleeve's, at `price`, without a fee."""
        order = working.order
        fill = Fill(
            f"{order.id}.{working.fills}",
            order.id,
            order.symbol,
            now,
            now,
            order.side,
            qty,
            price,
            _ZERO,
            kind=FillKind.INTERNAL,
            reason=order.reason,
        )
        self._apply(working, fill, float(price), now, inside=True)

    # -- trailing stops ---------------------------------------------------------------------------------

    def _rewind(self, book: list[WorkingOrder], start: int) -> dict[str, float]:
        """Take trailing stops back to before the bar, whose open and range come first.

        Returns by order id the best price of the bar's updates so far.
        """
        return {working.order.id: working.rewind(start) for working in book if working.trails}

    def _trail(self, book: list[WorkingOrder], kline: Kline, best: dict[str, float]) -> None:
        """Let trailing stops follow the bar's best price; those that its close is beyond then are due.

        Only the close certainly comes after the bar's best price, and the only price that certainly comes
        after an entry or a move inside the bar.
        """
        for working in [w for w in book if w.trails and not w.triggered]:
            working.follow(best.get(working.order.id, working.best))
            if working.arrives_at <= kline.start:
                working.follow(kline.high if working.order.side is _SELL else kline.low)
            working.follow(kline.close)
            working.best_bar = -1
            if working.seen or working.arrives_at <= kline.start:
                self._meet(working, kline, kline.close, kline.ts)

    def _meet_new_protection(self, kline: Kline, price: float, ts: int) -> None:
        """Let protection meet the price of its entry: on the wrong side of it, it is triggered at once."""
        for working in list(self.books[kline.symbol]):
            new = working.closes_position and not working.seen and working.arrives_at <= ts
            if new and working.crossed(price, price):  # otherwise the next price is its first
                self._meet(working, kline, price, ts)

    def _before_profits(self, book: list[WorkingOrder], start: int) -> Iterator[WorkingOrder]:
        """Yield the orders of step 2 before take-profits; lazily, so that later groups include new stops."""
        for working in list(book):
            if working.arrives_at <= start and working.is_stop and working in book:
                yield working
        for working in list(book):
            if working.arrives_at <= start and working.is_limit and working in book:
                yield working
        for working in list(book):
            is_new = working.arrives_at > start and working.born_inside
            if is_new and working.is_stop and working in book:
                yield working

    def _profits(self, book: list[WorkingOrder], start: int) -> Iterator[WorkingOrder]:
        for working in list(book):
            is_profit = working.order.type is _TAKE_PROFIT
            if working.arrives_at <= start and is_profit and working in book:
                yield working

    def on_price(self, kline: Kline) -> None:
        if kline.ts >= self.next_expiry:
            self.expire(kline.ts, kline.symbol, kline.available_at)
        self._start_bar(kline)
        for working in list(self.books[kline.symbol]):
            if working.arrives_at < kline.ts:
                working.born_inside = False
                self._meet(working, kline, kline.close, kline.ts)
                if working.trails:
                    working.follow_in_bar(kline.close, kline.start)
        self._meet_new_protection(kline, kline.close, kline.ts)

    def at_close(self, kline: Kline) -> None:
        """Fill orders of this bar at its own close (`fill = "close"`), for comparisons only."""
        self._start_bar(kline)
        for working in list(self.books[kline.symbol]):
            if not working.seen:
                self._meet(working, kline, kline.close, kline.ts)
        self._meet_new_protection(kline, kline.close, kline.ts)

    def check_margin(self, kline: Kline) -> None:
        """Liquidate the position if the bar's worst price reaches its liquidation price."""
        position = self._portfolio.positions[kline.symbol]
        if not position.size:
            return
        price = self.liquidation_price(position)
        if kline.low <= price if position.size > 0 else kline.high >= price:
            self.liquidate(kline, price, kline.open)

    def _check_range(self, kline: Kline, start: int) -> None:
        """Liquidate the position within the bar, unless a working stop lies before the liquidation price."""
        position = self._portfolio.positions[kline.symbol]
        if not position.size or not self._instruments[kline.symbol].is_margined:
            return
        price = self.liquidation_price(position)
        for working in self.books[kline.symbol]:
            is_stop = working.closes_position and working.is_stop
            works = not working.triggered and (working.arrives_at <= start or working.born_inside)
            before = working.trigger >= price if position.size > 0 else working.trigger <= price
            if is_stop and works and before:
                return
        self.check_margin(kline)

    def liquidate(self, kline: Kline, price: float, first: float) -> None:
        """Close the position at `price`, or at `first`, the first price that it met, if that is worse."""
        position = self._portfolio.positions[kline.symbol]
        price = min(price, first) if position.size > 0 else max(price, first)
        self.cancel(self.books[kline.symbol], kline.available_at, "liquidation")
        side = _SELL if position.size > 0 else _BUY
        rules = self._instruments[kline.symbol]
        met = max(rules.round_price(exact(price), side), rules.tick_size)
        qty = abs(position.qty)
        fee = self._rules.fees.fee(rules, qty, met, maker=False) + qty * met * self._liquidation_fee
        symbol, ts, now, why = kline.symbol, kline.ts, kline.available_at, "liquidation"
        id = self._new_id()
        self._emit(Order(id, symbol, now, side, _MARKET, qty, reduce_only=True, reason=why))
        kind = FillKind.LIQUIDATION
        self._book(Fill(f"{id}.0", id, symbol, ts, now, side, qty, met, fee, kind=kind, reason=why))
        self._emit(OrderUpdate(id, symbol, ts, now, _FILLED, qty, why))

    def liquidation_price(self, position: Position) -> float:
        """Return the liquidation price, cached if this is the only position: then only bookings move it."""
        if len(self._portfolio.open) > 1:
            return self.margin.liquidation_price(position)
        if self._liquidation_at[0] != self._portfolio.version:
            self._liquidation_at = (self._portfolio.version, self.margin.liquidation_price(position))
        return self._liquidation_at[1]

    def on_funding(self, funding: Funding) -> None:
        """Book qty * mark * rate on the position held at the stamp; longs pay if it is positive."""
        self._pay_funding(funding, self._portfolio.positions[funding.symbol].mark_decimal)

    def _pay_held(self, stamps: list[Funding], kline: Kline, before: int) -> None:
        """Book and remove the stamps earlier than `before`; inside the bar the mark is its open."""
        while stamps and stamps[0].ts < before:
            funding = stamps.pop(0)
            inside = funding.ts > kline.start
            mark = self._portfolio.positions[funding.symbol].mark_decimal
            self._pay_funding(funding, exact(kline.open) if inside else mark)

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

    # -- matching ---------------------------------------------------------------------------------------

    def _start_bar(self, kline: Kline) -> None:
        self._note_volume(kline.symbol, kline.start, kline.volume)

    def _note_volume(self, symbol: str, start: int, volume: float) -> None:
        """Begin to draw on the volume of a bar, unless that has begun."""
        bar, taken = self._taken.get(symbol, (0, 0.0))
        if bar != start:
            taken = 0.0
            self._taken[symbol] = (start, 0.0)
        self._budget = self._rules.liquidity.budget(volume) - taken
        self.bars_met += 1
        if not volume > 0 and self._budget <= 0:
            self.bars_without_volume += 1
        elif taken == 0.0 and self._budget < self._instruments[symbol].lot:
            self.bars_below_a_lot += 1

    def reach(self, symbol: str, start: int) -> tuple[float, float]:
        # a stop attached inside a bar is special in that bar alone, which begins before `arrives_at`
        low, high = -inf, inf
        for working in self.books[symbol]:
            waits = working.closes_position and working.seen and not working.triggered and not working.trails
            if not waits or working.arrives_at > start or working.is_limit:
                return nan, nan
            if working.rises:
                high = min(high, working.trigger)
            else:
                low = max(low, working.trigger)
        return low, high

    def pass_bars(self, symbol: str, starts: vec[i64], volumes: vec[float]) -> None:
        for number in range(len(starts)):
            self._note_volume(symbol, starts[number], volumes[number])

    def _meet(self, working: WorkingOrder, kline: Kline, price: float, ts: int) -> None:
        """Match one order against one price."""
        if working not in self.books[kline.symbol]:
            return  # another order has just ended it
        first, working.seen = not working.seen, True
        order = working.order
        if not working.is_limit:
            if working.triggered or working.crossed(price, price):
                self._trigger(working, kline)
                if not working.waits_at(price):
                    self._take(working, kline, price, ts)
        elif not first:
            if working.marketable(price) and price != working.limit:
                self._make(working, kline, ts)
        elif working.marketable(price):
            if order.tif is _POST_ONLY:
                self._end(working, kline.available_at, "post-only order would take liquidity")
            else:
                self._take(working, kline, price, ts)
        elif order.tif in (_IOC, _FOK):
            self._end(working, kline.available_at, f"{order.tif.value} order found no liquidity at its price")

    def _trigger(self, working: WorkingOrder, kline: Kline) -> None:
        """Mark an order as triggered; a stop also cancels the rest of its entry, which would reopen it."""
        if working.closes_position and working.is_stop and not working.triggered:
            book, group = self.books[kline.symbol], working.order.oco
            entry = [w for w in book if w.order.id == group and not w.closes_position]
            self.cancel(entry, kline.available_at, "its stop was triggered")
        if working.share is not None and not working.triggered:
            held = abs(self._portfolio.positions[kline.symbol].qty)
            qty = self._level_qty(kline.symbol, held, working.share)
            working.order = msgspec.structs.replace(working.order, qty=qty)
        working.triggered = True

    def _take(self, working: WorkingOrder, kline: Kline, price: float, ts: int) -> None:
        """Fill an order as a taker, as far as liquidity and margin allow."""
        order = working.order
        wanted, side, tif = order.qty, order.side, order.tif
        # Affordability is checked at the price of the whole order, which is never better than that of a part
        units = float(wanted)
        paid = self._taker_price(order, kline, price, units)
        qty = self._quantity(working, kline, paid)
        if qty > _ZERO:
            if qty != wanted:
                units = float(qty)
                paid = self._taker_price(order, kline, price, units)
            worse = paid - exact(price)  # times -1 for a sale: `-worse` would lose the sign of a zero
            slippage = (worse if side is _BUY else worse * _MINUS_ONE) * qty
            self._execute(working, kline, qty, units, paid, ts, price, slippage=slippage, maker=False)
        if (tif is _IOC or tif is _FOK) and working in self.books[kline.symbol]:
            self._end(working, kline.available_at, f"{tif.value} order: no more liquidity")

    def _taker_price(self, order: Order, kline: Kline, price: float, qty: float) -> Decimal:
        """Return `price` plus half the spread and the order's impact, on the tick, not beyond its limit."""
        worse = price * self._rules.half_spread + self._rules.slippage.offset(kline, price, qty)
        rules = self._instruments[order.symbol]
        if order.side is _BUY:
            paid = rules.round_price(exact(price + worse), _BUY)
            return paid if order.price is None else min(paid, order.price)
        paid = max(rules.round_price(exact(price - worse), _SELL), rules.tick_size)
        return paid if order.price is None else max(paid, order.price)

    def _make(self, working: WorkingOrder, kline: Kline, ts: int) -> None:
        """Fill a resting limit order at its price."""
        price = working.order.price
        if price is None:
            return
        qty = self._quantity(working, kline, price)
        if qty > _ZERO:
            limit = working.limit
            self._execute(working, kline, qty, float(qty), price, ts, limit, slippage=_ZERO, maker=True)

    def _quantity(self, working: WorkingOrder, kline: Kline, price: Decimal) -> Decimal:
        """Return how much of an order can fill now; end the order if nothing of it ever can."""
        order = working.order
        side = order.side
        rules = self._instruments[kline.symbol]
        position = self._portfolio.positions[kline.symbol]
        reduces = position.size < 0 if side is _BUY else position.size > 0
        opposite = abs(position.qty) if reduces else _ZERO
        wanted = opposite if working.closes_position and working.share is None else working.remaining
        if order.reduce_only:
            wanted = min(wanted, opposite)
            if not wanted:
                reason = "reduce-only order, but there is no position to reduce"
                self._end(working, kline.available_at, reason)
        elif wanted > opposite:
            fee = _ZERO if rules.is_margined else self._rules.fees.fee(rules, _ONE, price, maker=False)
            wanted = min(wanted, rules.round_qty(self.margin.affordable(rules, side, price, fee)))
            if not wanted:
                self.refusals["insufficient balance"] += 1
                self._end(working, kline.available_at, "insufficient balance")
        if working.closes_position and wanted and not rules.is_margined and not working.filled:
            value = wanted * price
            # On spot, venues reject orders below their minima, also protective ones
            if wanted < rules.min_qty or value < rules.min_notional:
                self.refusals[f"protective order's value below the minimum {rules.min_notional}"] += 1
                reason = f"value {value} is below the minimum {rules.min_notional}"
                self._end(working, kline.available_at, reason)
                return _ZERO
        if self._budget < inf and float(wanted) > self._budget:
            if order.tif is _FOK:
                return _ZERO
            wanted = rules.round_qty(exact(self._budget)) if self._budget > 0 else _ZERO
        return _ZERO if order.tif is _FOK and wanted < order.qty else wanted

    def _execute(
        self,
        working: WorkingOrder,
        kline: Kline,
        qty: Decimal,
        units: float,
        price: Decimal,
        ts: int,
        met: float,
        *,
        slippage: Decimal,
        maker: bool,
    ) -> None:
        """Book a fill at `price`, the market's price `met` plus costs; `units` is `qty` as a float."""
        order, symbol = working.order, kline.symbol
        id = order.id
        bar, taken = self._taken[symbol]
        self._taken[symbol] = (bar, taken + units)
        self._budget -= units
        fee = self._rules.fees.fee(self._instruments[symbol], qty, price, maker=maker)
        fill = Fill(
            f"{id}.{working.fills}",
            id,
            symbol,
            ts,
            kline.available_at,
            order.side,
            qty,
            price,
            fee,
            maker,
            slippage,
            _TRADE,
            order.reason,
        )
        self._apply(working, fill, met, min(ts, kline.ts - 1), inside=ts > kline.start)

    def _apply(self, working: WorkingOrder, fill: Fill, met: float, arrives_at: int, *, inside: bool) -> None:
        """Book a fill, and end, cancel or attach what follows from it.

        Protection starts at the price `met` and works from `arrives_at` on; `inside` states that it was
        attached within the range of the present bar.
        """
        order = working.order
        symbol = order.symbol
        book = self.books[symbol]
        working.filled += fill.qty
        working.fills += 1
        position = self._portfolio.positions[symbol]
        done = working.filled >= order.qty or (working.closes_position and not position.qty)
        if done:
            book.remove(working)
        now = fill.available_at
        self._book(fill)
        status = _FILLED if done else _PARTIALLY_FILLED
        self._emit(OrderUpdate(fill.order_id, symbol, fill.ts, now, status, working.filled))
        if not book and not protects(order):
            return
        if order.oco and working.share is None:
            group = [w for w in book if w.order.oco == order.oco and w is not working]
            self.cancel(group, now, "the other side was filled")
        stranded = [
            w
            for w in book
            if w.closes_position and (position.size >= 0 if w.order.side is _BUY else position.size <= 0)
        ]
        if stranded:
            self.cancel(stranded, now, "position closed")
        # A partly filled reversal may only have reduced the old position
        opened = position.size > 0 if order.side is _BUY else position.size < 0
        if opened and protects(order):
            self._protect(order, now, met, arrives_at, inside=inside)

    def _book(self, fill: Fill) -> None:
        self._portfolio.apply(fill)
        self._emit(fill)

    def _protect(self, entry: Order, now: int, met: float, arrives_at: int, *, inside: bool) -> None:
        """Attach an entry's protection at its first fill; it replaces that of an earlier entry."""
        book = self.books[entry.symbol]
        if any(w.order.oco == entry.id for w in book):
            return
        old = [w for w in book if w.closes_position]
        self.cancel(old, now, "replaced by the protection of a newer entry")
        for order, share in self._protective(entry, entry.qty, protection_in(entry), met, now):
            self._emit(order)
            book.append(
                WorkingOrder(
                    order, arrives_at, closes_position=True, born_inside=inside, best=met, share=share
                )
            )
            self._trails = self._trails or order.type is _TRAILING_STOP

    def _place_protection(
        self, order: Order, old: list[WorkingOrder], now: int, share: Decimal | None = None
    ) -> None:
        self._emit(order)
        # A stop moved inside a bar is assumed to be triggered if that bar's range reaches it
        inside = order.type is not _TAKE_PROFIT
        best = self._portfolio.positions[order.symbol].mark
        self.books[order.symbol].append(
            WorkingOrder(order, now, closes_position=True, born_inside=inside, best=best, share=share)
        )
        self._trails = self._trails or order.type is _TRAILING_STOP
        self.cancel(old, now, MOVED)

    def _end(self, working: WorkingOrder, now: int, reason: str) -> None:
        book = self.books[working.order.symbol]
        if working not in book:
            return
        book.remove(working)
        order = working.order
        status = OrderStatus.CANCELLED
        self._emit(OrderUpdate(order.id, order.symbol, now, now, status, working.filled, reason))


def _triggered_first(book: list[WorkingOrder]) -> list[WorkingOrder]:
    """Return triggered orders before the others, so that they get the volume first."""
    if len(book) == 1:
        return book.copy()
    return [w for w in book if w.triggered] + [w for w in book if not w.triggered]
