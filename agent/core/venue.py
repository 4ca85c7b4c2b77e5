"""The exchange of a core at a venue: orders leave as decisions, the venue's reports come as inputs.

Reports may arrive in any order and more than once. A fill is booked once, by its id; an order's status only
moves forward; an order that has ended stays on the book until all of its fills are booked. This module does
no I/O: the gateway (`agent.live.gateway`) does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
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
    Side,
)
from agent.core.exchange import MOVED, Report, ReportingExchange
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio
from agent.core.protection import Protection, protection_in, protects
from agent.core.settings import CoreConfig

_ZERO = Decimal(0)
_CENT = Decimal("0.01")

OPENING: Final = "the account's balance when the run began"
"""Reason of the `CashAdjustment` by which a run takes the venue's balance as its capital."""

ForeignPolicy = Literal["refuse", "ignore", "adopt"]
"""How to treat orders and positions in the account that are not this run's."""


class SentOrder(WorkingOrder):
    """A working order at a venue."""

    __slots__ = ("ended", "last_status", "reference", "reported_filled")

    def __init__(
        self,
        order: Order,
        now: int,
        reference: float,
        *,
        closes_position: bool = False,
        best: float = 0.0,
        share: Decimal | None = None,
    ) -> None:
        super().__init__(order, now, closes_position=closes_position, best=best, share=share)
        self.reference = reference  # the mark at the decision, from which the slippage of fills is measured
        self.last_status = OrderStatus.NEW  # as the venue last reported it
        self.reported_filled = _ZERO  # quantity, by the venue's order updates
        self.ended = False  # it can't be filled further; fills may still have to be booked


class OpenOrder(NamedTuple):
    """An order of `OpenState`."""

    order: Order
    cancelling: bool
    ended: bool  # it can't be filled further
    executed_qty: Decimal  # by booked fills
    reported_filled: Decimal  # by the venue's order updates


class AccountState(NamedTuple):
    """How the ledger compares with the venue's account."""

    snapshots: int  # account snapshots handled so far
    first_at: int  # time of the first one, UTC ms by the venue's clock; 0 without one
    last_at: int  # time of the last one: all executions up to then are booked
    opened: bool  # the ledger has been started from an account snapshot
    drift: str  # what differed in the last snapshot; empty if nothing did
    accepting: bool  # an operator has accepted the account: the ledger takes over the next settled snapshot
    losses: int  # how often the record of the run was found to lack a part of the venue's history
    unaccepted: bool  # it lacks some, and no operator has resumed since
    positions: dict[str, Decimal]  # what the account should hold, by traded symbol


class OpenState(NamedTuple):
    """What the gateway must know of a run's past when it starts; immutable."""

    orders: tuple[OpenOrder, ...]  # of which more may be reported
    order_ids: frozenset[str]  # of all orders ever decided in the run
    fill_ids: frozenset[str]  # of all executions and funding settlements that are booked
    run_prefix: str  # how the run's client order ids begin
    account: AccountState


class VenueExchange(ReportingExchange):
    """Books what a venue reports about the orders that were decided here."""

    def __init__(
        self,
        config: CoreConfig,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
        *,
        foreign: ForeignPolicy = "refuse",
        wallet_drift: Decimal = _CENT,
    ) -> None:
        super().__init__(instruments, portfolio, emit, new_id)
        self.orders: dict[str, SentOrder] = {}  # by id: those of which more may be reported
        self.order_ids: set[str] = set()  # of all orders ever decided in this run
        self.fill_ids: set[str] = set()  # of all executions and settlements that were booked
        self.snapshots = 0  # this attribute and the next six: see `AccountState`
        self.first_snapshot_at = 0
        self.last_snapshot_at = 0
        self.opened = False
        self.drift = ""
        self.accepting = False
        self.losses = 0
        self._coin = config.account.currency
        self._margined = config.market.category == "linear"
        self._adopts = foreign == "adopt"
        self._ignores = foreign == "ignore"
        self._trails_natively = self._margined and not self._ignores
        self._tolerance = wallet_drift
        # by symbol: the part of the account's position that isn't this run's
        self._foreign: dict[str, Decimal] = dict.fromkeys(instruments, _ZERO)
        self._others = _ZERO  # the cash that others received for their trades, by `_cash_drift`

    # -- what the gateway may read ---------------------------------------------------------------------------

    def open_state(self) -> OpenState:
        """Return what a gateway needs of the run's past. Another thread may call it."""
        orders = tuple(
            OpenOrder(sent.order, sent.cancelling, sent.ended, sent.filled, sent.reported_filled)
            for sent in list(self.orders.values())
        )
        ids, fills = frozenset(self.order_ids), frozenset(self.fill_ids)
        return OpenState(orders, ids, fills, self.run_prefix, self.account_state())

    def account_state(self) -> AccountState:
        """Return how the ledger compares with the venue's account now."""
        positions = {symbol: self.held(symbol) for symbol in self._foreign}
        return AccountState(
            self.snapshots,
            self.first_snapshot_at,
            self.last_snapshot_at,
            self.opened,
            self.drift,
            self.accepting,
            self.losses,
            self.unaccepted,
            positions,
        )

    # -- orders ----------------------------------------------------------------------------------------------

    def submit(self, order: Order, now: int) -> None:
        self._send(order, now)

    def _send(
        self, order: Order, now: int, *, closes_position: bool = False, share: Decimal | None = None
    ) -> None:
        self.order_ids.add(order.id)
        flaw = self._flaw(order)
        if flaw:
            self._reject(order, now, flaw)
            return
        mark = self._portfolio.positions[order.symbol].mark
        sent = SentOrder(order, now, mark, closes_position=closes_position, best=mark, share=share)
        self.orders[order.id] = sent
        self.books[order.symbol].append(sent)
        self._note_expiry(order)

    def on_bar(self, kline: Kline) -> None:
        """Follow a closed bar with the trailing stops that the venue moves: their triggers are estimates.

        The high and low of a bar in which a stop was placed may be earlier.
        """
        for working in self.books[kline.symbol]:
            if working.trails:
                if working.arrives_at <= kline.start:
                    working.follow(kline.high if working.order.side is Side.SELL else kline.low)
                working.follow(kline.close)

    def cancel(self, orders: Iterable[WorkingOrder], now: int, reason: str) -> None:
        """Cancel each order once. It stays on the book until the venue reports its end."""
        for working in list(orders):
            sent = self.orders[working.order.id]
            if not sent.cancelling and not sent.ended:
                sent.cancelling = True
                self._emit(Cancel(sent.order.id, sent.order.symbol, now, reason))

    # -- reports ---------------------------------------------------------------------------------------------

    def on_update(self, update: OrderUpdate) -> bool:
        """Move an order's status forward.

        An order that has ended leaves the book once its filled quantity is booked.
        """
        sent = self.orders.get(update.order_id)
        if sent is None or sent.ended or update.symbol != sent.order.symbol:
            return False
        status = update.status
        if not status.final and sent.closes_position:
            self._retire(sent, update.available_at)
        if (
            not status.final
            and _rank(status) <= _rank(sent.last_status)
            and update.filled <= sent.reported_filled
        ):
            return False
        sent.last_status, sent.reported_filled = status, update.filled
        self._emit(update)
        if not status.final:
            return True
        sent.ended = True
        sent.order = replace(sent.order, qty=max(update.filled, sent.filled))
        self._forget_when_done(sent)
        if status is OrderStatus.REJECTED and sent.closes_position:
            self._replace_protection(sent, update)
        return True

    def on_fill(self, fill: Fill) -> bool:
        """Book an execution once; place or adjust protection, and cancel the other side of an OCO pair."""
        if fill.id in self.fill_ids or fill.symbol not in self._instruments:
            return False
        self.fill_ids.add(fill.id)
        sent = self.orders.get(fill.order_id)
        trades = fill.kind is FillKind.TRADE or fill.kind is FillKind.INTERNAL
        if sent is not None and trades:
            sent.filled += fill.qty
            reference = Decimal(repr(sent.reference)) if sent.reference == sent.reference else fill.price
            slippage = _ZERO
            if fill.kind is FillKind.TRADE and not fill.maker:
                slippage = (fill.price - reference) * fill.side.sign * fill.qty
            fill = replace(fill, slippage=slippage, reason=sent.order.reason)
        self._portfolio.apply(fill)
        self._emit(fill)
        if sent is not None and trades:
            order, now = sent.order, fill.available_at
            if not sent.ended and sent.filled >= order.qty:  # the venue has yet to report its end
                sent.ended = True
                self._emit(OrderUpdate(order.id, order.symbol, fill.ts, now, OrderStatus.FILLED, sent.filled))
            self._forget_when_done(sent)
            if order.oco and sent.share is None:
                others = [w for w in self.books[order.symbol] if w.order.oco == order.oco and w is not sent]
                self.cancel(others, now, "the other side was filled")
            if protects(order):
                self._protect(order, now)
        self._follow(fill.symbol, fill.available_at)
        return True

    def on_settlement(self, settlement: FundingSettlement) -> bool:
        if settlement.id in self.fill_ids or settlement.symbol not in self._instruments:
            return False
        self.fill_ids.add(settlement.id)
        s = settlement
        payment = FundingPayment(s.symbol, s.ts, s.rate, s.qty, s.mark, s.amount)
        self._portfolio.pay(payment)
        self._emit(payment)
        return True

    def _forget_when_done(self, sent: SentOrder) -> None:
        """Take an order off the book if it has ended and all of its fills are booked."""
        order = sent.order
        if sent.ended and sent.filled >= order.qty and order.id in self.orders:
            del self.orders[order.id]
            self.books[order.symbol].remove(sent)

    # -- protection ------------------------------------------------------------------------------------------

    def _protect(self, entry: Order, now: int) -> None:
        """Place the stop and take-profit of an entry at its first fill; they replace older ones."""
        position = self._portfolio.positions[entry.symbol]
        book = self.books[entry.symbol]
        if position.qty * entry.side.sign <= 0 or any(w.order.oco == entry.id for w in book):
            return
        self.cancel(
            [w for w in book if w.closes_position], now, "replaced by the protection of a newer entry"
        )
        qty = self._instruments[entry.symbol].round_qty(abs(position.qty))
        if not qty:
            return
        best = position.mark if position.mark == position.mark else float(position.entry_price)
        protection = protection_in(entry)
        if protection.levels:  # those of the whole entry; `_follow` amends them to what is filled
            qty = max(qty, entry.qty)
        for order, share in self._protective(entry, qty, protection, best, now):
            self._emit(order)
            self._send(order, now, closes_position=True, share=share)

    def _place_protection(
        self, order: Order, old: list[WorkingOrder], now: int, share: Decimal | None = None
    ) -> None:
        # the `old` orders work until the venue has accepted the new one: see `_retire`
        self._emit(order)
        self._send(order, now, closes_position=True, share=share)

    def _as_supported(self, protection: Protection, symbol: str, best: float, side: Side) -> Protection:
        """Return the protection as the venue takes it.

        Spot has no trailing stops, and that of a position would also close what others hold of it: there the
        trailing stop becomes a fixed one, unless a tighter one works.
        """
        if protection.trail is None or self._trails_natively:
            return protection
        self.counts["trailing stops that stay fixed, on spot or in a shared position"] += 1
        tick, sign = self._instruments[symbol].tick_size, side.sign
        stops = [max(Decimal(repr(best)) + sign * protection.trail, tick)]
        working = [w.order.trigger for w in self.books[symbol] if w.closes_position and w.is_stop]
        stops += [trigger for trigger in working if trigger is not None]
        if protection.stop is not None:
            stops.append(protection.stop)
        tightest = max(stops) if side is Side.SELL else min(stops)
        return protection._replace(stop=tightest, trail=None)

    def _retire(self, accepted: SentOrder, now: int) -> None:
        """Cancel the earlier protective orders that an accepted one replaces."""
        earlier: list[WorkingOrder] = []
        for working in self.books[accepted.order.symbol]:
            if working is accepted:
                break
            same_kind = working.closes_position and working.order.type is accepted.order.type
            # levels were placed together, in one decision
            together = accepted.share is not None and working.order.ts == accepted.order.ts
            if same_kind and not working.cancelling and not (together and working.share is not None):
                earlier.append(working)
        if earlier and not accepted.cancelling:
            self.cancel(earlier, now, MOVED)

    def _follow(self, symbol: str, now: int) -> None:
        """Amend protective orders to the position's quantity; cancel them once it is closed."""
        book = self.books[symbol]
        held = self._portfolio.positions[symbol].qty
        for working in [w for w in book if w.closes_position and not w.cancelling]:
            sent = self.orders[working.order.id]
            order = sent.order
            protected = held * order.side.sign < 0
            closes = self._closes(working, book, abs(held)) if protected else _ZERO
            qty = sent.filled + closes
            if sent.ended or qty == order.qty or (protected and not closes):
                continue
            if qty == sent.filled:
                self.cancel([sent], now, "position closed")
            else:
                sent.order = replace(order, qty=qty)
                self._emit(Amend(order.id, symbol, now, qty=qty, reason="follows the position"))

    def _closes(self, working: WorkingOrder, book: list[WorkingOrder], held: Decimal) -> Decimal:
        """Return how much of the position a protective order closes: all of it, or a level's share.

        A level that has begun to fill keeps its quantity.
        """
        rules = self._instruments[working.order.symbol]
        if working.share is None:
            return rules.round_qty(held)
        if working.filled:
            return working.remaining
        left = held
        for level in book:
            if level.share is None or level.cancelling or level.order.ts != working.order.ts:
                continue
            part = level.remaining if level.filled else self._level_qty(level.order.symbol, left, level.share)
            if level is working:
                return part
            left -= part
        return _ZERO

    def _replace_protection(self, refused: SentOrder, update: OrderUpdate) -> None:
        """Close the position if a stop was rejected, or a take-profit whose trigger has been reached."""
        order, now = refused.order, update.available_at
        position = self._portfolio.positions[order.symbol]
        reached = refused.crossed(position.mark, position.mark)
        if position.qty * order.side.sign >= 0 or refused.cancelling or not (reached or refused.is_stop):
            return
        qty = self._instruments[order.symbol].round_qty(abs(position.qty))
        if refused.share is not None:
            qty = self._instruments[order.symbol].round_qty(abs(position.qty) * refused.share)
        others = [w for w in self.books[order.symbol] if w.closes_position]
        if not reached and any(w.order.type is order.type and not w.cancelling for w in others):
            return  # the order with the earlier trigger still works
        if refused.share is None:
            self.cancel(others, now, "the position is closed instead")
        if qty:
            new_id, kind, reason = self._new_id(), OrderType.MARKET, f"{order.reason} was refused"
            closing = Order(new_id, order.symbol, now, order.side, kind, qty, reduce_only=True, reason=reason)
            self._emit(closing)
            self._send(closing, now)

    def reissue(self, order_id: str, now: int, reason: str) -> bool:
        sent = self.orders.get(order_id)
        if sent is None or sent.ended:
            return False
        order = sent.order
        sent.ended = True
        sent.order = replace(order, qty=sent.filled)
        self._emit(OrderUpdate(order.id, order.symbol, now, now, OrderStatus.REJECTED, sent.filled, reason))
        self._forget_when_done(sent)
        position = self._portfolio.positions[order.symbol]
        if order.reduce_only and not sent.cancelling and position.qty * order.side.sign < 0:
            qty = self._instruments[order.symbol].round_qty(abs(position.qty))
            if not sent.closes_position or sent.share is not None:
                qty = min(qty, order.qty - sent.filled)
            if qty > 0:
                again = replace(order, id=self._new_id(), ts=now, qty=qty)
                self._emit(again)
                self._send(again, now, closes_position=sent.closes_position, share=sent.share)
        return True

    # -- reconciliation --------------------------------------------------------------------------------------

    def accept(self) -> None:
        # without a drift the ledger need not take over anything, and others' positions stay set aside
        self.accepting = bool(self.drift) or not self._ignores
        self.unaccepted = False

    def on_older_record(self) -> None:
        self.losses += 1
        self.unaccepted = True

    def on_account(self, account: AccountSnapshot) -> str:
        """Compare the ledger with an account snapshot; return the difference in words, or an empty string.

        The first snapshot of a run starts its ledger: the balance is the run's capital, and an existing
        position is adopted or set aside as foreign. On spot, existing coins are always set aside.
        """
        self.last_snapshot_at = max(self.last_snapshot_at, account.ts)
        self.first_snapshot_at = self.first_snapshot_at or account.ts
        self.snapshots += 1
        holdings = {holding.symbol: holding for holding in account.holdings}
        if self.accepting and not account.settled:  # it may lack the latest executions
            self.drift = ""
        elif self.opened and not self.accepting:
            self.drift = self._compare(account, holdings)
        else:
            self._begin_with(account, holdings)
            self.drift = ""
        return self.drift

    def _begin_with(self, account: AccountSnapshot, holdings: dict[str, PositionSnapshot]) -> None:
        """Make the ledger agree with the account."""
        for symbol in self.books:
            if self._margined and (self._adopts or self.accepting):
                self._foreign[symbol] = _ZERO
                self._take_over(symbol, holdings.get(symbol), account)
            else:
                held = holdings[symbol].qty if symbol in holdings else _ZERO
                self._foreign[symbol] = held - self._portfolio.positions[symbol].qty
        balance = account.balances.get(self._coin, _ZERO)
        reason = "the account as it is, accepted by a person" if self.accepting else OPENING
        self._adjust_cash(balance - self.wallet(), account, reason)
        self._others = self._cash_drift(balance, holdings)
        self.opened, self.accepting = True, False

    def _compare(self, account: AccountSnapshot, holdings: dict[str, PositionSnapshot]) -> str:
        differences = []
        for symbol in self.books:
            held = holdings[symbol].qty if symbol in holdings else _ZERO
            expected = self.held(symbol)
            if held == expected:
                continue
            if account.foreign:
                self._foreign[symbol] += held - expected
            else:
                differences.append(f"{symbol}: {held} at the venue, {expected} in the ledger")
        balance = account.balances.get(self._coin, _ZERO)
        drift, by_cash = balance - self.wallet(), self._cash_drift(balance, holdings)
        if account.foreign:
            self._adjust_cash(drift, account, "trades and transfers of others in the account")
            self._others = by_cash - drift
        elif min(abs(drift), abs(by_cash - self._others)) > self._tolerance:
            differences.append(f"{self._coin}: {balance} at the venue, {self.wallet()} in the ledger")
        elif self._others and not holdings and not any(self._foreign.values()):
            self._adjust_cash(drift, account, "what others' trades have left, once nothing of theirs is held")
            self._others = _ZERO
        return "; ".join(differences)

    def held(self, symbol: str) -> Decimal:
        """Return the position that the account should hold; 0 for a symbol that isn't traded."""
        if symbol not in self._foreign:
            return _ZERO
        return self._portfolio.positions[symbol].qty + self._foreign[symbol]

    def wallet(self) -> Decimal:
        """Return the balance that the venue's wallet should have.

        On margin, profits count once they are realised.
        """
        book = self._portfolio
        return book.initial + book.realised - book.fees + book.funding if self._margined else book.cash

    def _cash_drift(self, balance: Decimal, holdings: dict[str, PositionSnapshot]) -> Decimal:
        """Return how much more cash the account received for its positions and trades than the ledger did.

        Realised profit depends on the order of the fills and on others' positions in the same symbol, which a
        venue nets. Balance minus the cost of the positions does not: in this measure ledger and account
        differ by what others have spent alone.
        """
        spent = sum(
            (holdings[symbol].qty * holdings[symbol].entry for symbol in self.books if symbol in holdings),
            _ZERO,
        )
        return balance - spent - self._portfolio.cash

    def _take_over(self, symbol: str, holding: PositionSnapshot | None, account: AccountSnapshot) -> None:
        """Take over the account's position and entry price, on which realised profits depend.

        A position that the account does not hold is closed at the mark.
        """
        position = self._portfolio.positions[symbol]
        if holding is None:
            price = position.mark_decimal or position.entry_price
            self._transfer("released", symbol, -position.qty, price, account)
            return
        other_cost = abs(position.cost - holding.qty * holding.entry) > self._tolerance
        if position.qty != holding.qty or other_cost:
            self._transfer("released", symbol, -position.qty, position.entry_price, account)
            self._transfer("adopted", symbol, holding.qty, holding.entry, account)

    def _adjust_cash(self, amount: Decimal, account: AccountSnapshot, reason: str) -> None:
        """Book a change of cash without a trade."""
        if self.states_cash and amount:
            self._emit(CashAdjustment(account.ts, self._coin, amount, reason))
        self._portfolio.transfer(amount)

    def _transfer(
        self, what: str, symbol: str, qty: Decimal, price: Decimal, account: AccountSnapshot
    ) -> None:
        """Book a change of a position without a trade."""
        if not qty:
            return
        side, now = Side.BUY if qty > 0 else Side.SELL, account.available_at
        fill_id, reason = f"{what}-{now}-{symbol}", f"{what}, as the account has it"
        fill = Fill(fill_id, "", symbol, account.ts, now, side, abs(qty), price, _ZERO)
        fill = replace(fill, kind=FillKind.TRANSFER, reason=reason)
        self._portfolio.apply(fill)
        self._emit(fill)


def _rank(status: OrderStatus) -> int:
    """Return the order in which statuses that aren't final follow each other."""
    return 1 if status is OrderStatus.PARTIALLY_FILLED else 0
