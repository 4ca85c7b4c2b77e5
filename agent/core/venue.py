"""The core's side of a real venue: orders, cancels and amendments leave as decisions, and what the venue says comes back as inputs.

The venue's word is booked as it comes, in whatever order and however often: fills count once by their id, an order's life only goes
forward, and one that has ended stays until all of its fills are in. Nothing here talks to anybody: that is the gateway's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Literal

import msgspec

from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Fill,
    FillKind,
    FundingPayment,
    FundingSettlement,
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
from agent.core.settings import CoreConfig

_ZERO = Decimal(0)
_CENT = Decimal("0.01")

ForeignPolicy = Literal["refuse", "ignore", "adopt"]
"""What to do with orders and positions of the account that are not this run's."""


class SentOrder(WorkingOrder):
    """A working order at a venue."""

    __slots__ = ("ended", "reference", "reported_filled", "told")

    def __init__(self, order: Order, now: int, reference: float, *, closes_position: bool = False) -> None:
        super().__init__(order, now, closes_position=closes_position)
        self.reference = reference  # the mark when it was decided: what its fills are held against
        self.told = OrderStatus.NEW  # the venue's last word
        self.reported_filled = _ZERO
        self.ended = False  # no more fills can happen; some may still be under way to us


class VenueExchange(ReportingExchange):
    """Books what a venue says of the orders that were decided here."""

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
        self.orders: dict[str, SentOrder] = {}  # by id: those of which more can be heard
        self.order_ids: set[str] = set()  # all that were ever decided in this run
        self.fill_ids: set[str] = set()  # and all executions that were booked
        # ts of the last account, UTC ms by the venue's clock: all executions up to then are booked
        self.seen = 0
        self.began = 0  # ts of the first account
        self.looks = 0  # accounts so far
        self.drift = ""  # what differed when the account was last looked at
        self.opened = False  # the first account has been seen
        self.losses = 0  # how often the venue's history turned out to have more than the record of this run
        # a person has accepted the account: the next settled look is where the ledger goes on
        self.accepting = False
        self._coin = config.account.currency
        self._margined = config.market.category == "linear"
        self._adopts = foreign == "adopt"
        self._ignores = foreign == "ignore"
        self._tolerance = wallet_drift
        # part of each holding that isn't ours
        self._foreign: dict[str, Decimal] = dict.fromkeys(instruments, _ZERO)
        self._others = _ZERO  # and what was received for it, by `_cash_drift`

    # -- orders ------------------------------------------------------------------------------------------------------

    def submit(self, order: Order, now: int) -> None:
        """The order is on its way, unless it breaks a rule that the venue would refuse it for."""
        self._send(order, now)

    def _send(self, order: Order, now: int, *, closes_position: bool = False) -> None:
        self.order_ids.add(order.id)
        flaw = self._flaw(order)
        if flaw:
            self._reject(order, now, flaw)
            return
        mark = self._portfolio.positions[order.symbol].mark
        sent = SentOrder(order, now, mark, closes_position=closes_position)
        self.orders[order.id] = sent
        self.books[order.symbol].append(sent)

    def cancel(self, orders: Iterable[WorkingOrder], now: int, reason: str) -> None:
        """Ask for each of them once; they stay on the book until the venue has said what became of them."""
        for working in list(orders):
            sent = self.orders[working.order.id]
            if not sent.cancelling and not sent.ended:
                sent.cancelling = True
                self._emit(Cancel(sent.order.id, sent.order.symbol, now, reason))

    # -- what the venue says -----------------------------------------------------------------------------------------

    def on_update(self, update: OrderUpdate) -> bool:
        """Go forward in an order's life. One that has ended leaves the book when as much is booked as it was filled."""
        sent = self.orders.get(update.order_id)
        if sent is None or sent.ended or update.symbol != sent.order.symbol:
            return False
        status = update.status
        if not status.final and sent.closes_position:
            self._retire(sent, update.available_at)
        if not status.final and _rank(status) <= _rank(sent.told) and update.filled <= sent.reported_filled:
            return False
        sent.told, sent.reported_filled = status, update.filled
        self._emit(update)
        if not status.final:
            return True
        sent.ended = True
        sent.order = msgspec.structs.replace(sent.order, qty=max(update.filled, sent.filled))
        self._forget_when_done(sent)
        if status is OrderStatus.REJECTED and sent.closes_position:
            self._replace_protection(sent, update)
        return True

    def on_fill(self, fill: Fill) -> bool:
        """Book an execution once; the order's protection, and what excludes it, follow."""
        if fill.id in self.fill_ids or fill.symbol not in self._instruments:
            return False
        self.fill_ids.add(fill.id)
        sent = self.orders.get(fill.order_id)
        trades = fill.kind is FillKind.TRADE
        if sent is not None and trades:
            sent.filled += fill.qty
            reference = Decimal(repr(sent.reference)) if sent.reference == sent.reference else fill.price
            slippage = (fill.price - reference) * fill.side.sign * fill.qty if not fill.maker else _ZERO
            fill = msgspec.structs.replace(fill, slippage=slippage, reason=sent.order.reason)
        self._portfolio.apply(fill)
        self._emit(fill)
        if sent is not None and trades:
            order, now = sent.order, fill.available_at
            if not sent.ended and sent.filled >= order.qty:  # the venue's word of it is still under way
                sent.ended = True
                self._emit(OrderUpdate(order.id, order.symbol, fill.ts, now, OrderStatus.FILLED, sent.filled))
            self._forget_when_done(sent)
            if order.oco:
                others = [w for w in self.books[order.symbol] if w.order.oco == order.oco and w is not sent]
                self.cancel(others, now, "the other side was filled")
            if order.stop is not None or order.take_profit is not None:
                self._protect(order, now)
        self._follow(fill.symbol, fill.available_at)
        return True

    def on_settlement(self, settlement: FundingSettlement) -> bool:
        """Book funding, once."""
        if settlement.id in self.fill_ids or settlement.symbol not in self._instruments:
            return False
        self.fill_ids.add(settlement.id)
        s = settlement
        payment = FundingPayment(s.symbol, s.ts, s.rate, s.qty, s.mark, s.amount)
        self._portfolio.pay(payment)
        self._emit(payment)
        return True

    def _forget_when_done(self, sent: SentOrder) -> None:
        """It has ended, and all of its fills are in."""
        order = sent.order
        if sent.ended and sent.filled >= order.qty and order.id in self.orders:
            del self.orders[order.id]
            self.books[order.symbol].remove(sent)

    # -- protection --------------------------------------------------------------------------------------------------

    def _protect(self, entry: Order, now: int) -> None:
        """Attach the entry's stop and take-profit at its first fill; they replace those of an earlier entry."""
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
        side = Side.SELL if entry.side is Side.BUY else Side.BUY
        for kind, trigger in ((OrderType.STOP, entry.stop), (OrderType.TAKE_PROFIT, entry.take_profit)):
            if trigger is None:
                continue
            order = Order(
                self._new_id(), entry.symbol, now, side, kind, qty, trigger=trigger, reduce_only=True, oco=entry.id,
                reason=kind.value.lower().replace("_", "-"),
            )  # fmt: skip
            self._emit(order)
            self._send(order, now, closes_position=True)

    def _place_protection(self, order: Order, old: list[WorkingOrder], now: int) -> None:
        """The `old` ones work until the venue has accepted the new one: see `_retire`."""
        self._emit(order)
        self._send(order, now, closes_position=True)

    def _retire(self, accepted: SentOrder, now: int) -> None:
        """The venue has a protective order: earlier ones of its kind whose trigger it moves are cancelled."""
        earlier: list[WorkingOrder] = []
        for working in self.books[accepted.order.symbol]:
            if working is accepted:
                break
            if (
                working.closes_position
                and not working.cancelling
                and working.order.type is accepted.order.type
            ):
                earlier.append(working)
        if earlier and not accepted.cancelling:
            self.cancel(earlier, now, MOVED)

    def _follow(self, symbol: str, now: int) -> None:
        """Protective orders are for the whole position: their quantity follows it, and without one they go."""
        book = self.books[symbol]
        held = self._portfolio.positions[symbol].qty
        for working in [w for w in book if w.closes_position and not w.cancelling]:
            sent = self.orders[working.order.id]
            order = sent.order
            protected = held * order.side.sign < 0
            qty = sent.filled + (self._instruments[symbol].round_qty(abs(held)) if protected else _ZERO)
            if sent.ended or qty == order.qty:
                continue
            if qty == sent.filled:
                self.cancel([sent], now, "position closed")
            else:
                sent.order = msgspec.structs.replace(order, qty=qty)
                self._emit(Amend(order.id, symbol, now, qty=qty, reason="follows the position"))

    def _replace_protection(self, refused: SentOrder, update: OrderUpdate) -> None:
        """A refused protective order whose price has been reached is carried out; a refused stop closes the position anyway."""
        order, now = refused.order, update.available_at
        position = self._portfolio.positions[order.symbol]
        reached = refused.crossed(position.mark, position.mark)
        if (
            position.qty * order.side.sign >= 0
            or refused.cancelling
            or not (reached or order.type is OrderType.STOP)
        ):
            return
        qty = self._instruments[order.symbol].round_qty(abs(position.qty))
        others = [w for w in self.books[order.symbol] if w.closes_position]
        if not reached and any(w.order.type is order.type and not w.cancelling for w in others):
            return  # the trigger could not be moved: the order at the earlier one still works
        self.cancel(others, now, "the position is closed instead")
        if qty:
            reason = f"{order.reason} was refused"
            closing = Order(
                self._new_id(),
                order.symbol,
                now,
                order.side,
                OrderType.MARKET,
                qty,
                reduce_only=True,
                reason=reason,
            )
            self._emit(closing)
            self._send(closing, now)

    def reissue(self, order_id: str, now: int, reason: str) -> bool:
        """Another order has this id at the venue. An order that only reduces a position goes out again under a new id."""
        sent = self.orders.get(order_id)
        if sent is None or sent.ended:
            return False
        order = sent.order
        sent.ended = True
        sent.order = msgspec.structs.replace(order, qty=sent.filled)
        self._emit(OrderUpdate(order.id, order.symbol, now, now, OrderStatus.REJECTED, sent.filled, reason))
        self._forget_when_done(sent)
        position = self._portfolio.positions[order.symbol]
        if order.reduce_only and not sent.cancelling and position.qty * order.side.sign < 0:
            qty = self._instruments[order.symbol].round_qty(abs(position.qty))
            if not sent.closes_position:
                qty = min(qty, order.qty - sent.filled)
            if qty > 0:
                again = msgspec.structs.replace(order, id=self._new_id(), ts=now, qty=qty)
                self._emit(again)
                self._send(again, now, closes_position=sent.closes_position)
        return True

    # -- reconciliation ----------------------------------------------------------------------------------------------

    def accept(self) -> None:
        """The next settled account is right, whatever the ledger says; what others hold in it stays set aside unless something differs."""
        self.accepting = bool(self.drift) or not self._ignores
        self.unaccepted = False

    def on_older_record(self) -> None:
        """What the record has lost is booked as it is told; a person has to accept the account."""
        self.losses += 1
        self.unaccepted = True

    def on_account(self, account: AccountSnapshot) -> str:
        """Hold the ledger against the account; what differs, in words.

        The first account of a run is where its ledger begins: its money is the run's capital, and a position that it holds
        already is adopted, or set aside as foreign. On spot what was there before is always set aside.
        """
        self.seen = max(self.seen, account.ts)
        self.began = self.began or account.ts
        self.looks += 1
        holdings = {holding.symbol: holding for holding in account.holdings}
        if self.accepting and not account.settled:  # it may not show what was just executed
            self.drift = ""
        elif self.opened and not self.accepting:
            self.drift = self._compare(account, holdings)
        else:
            self._begin_with(account, holdings)
            self.drift = ""
        return self.drift

    def _begin_with(self, account: AccountSnapshot, holdings: dict[str, PositionSnapshot]) -> None:
        """The ledger is what the account is."""
        for symbol in self.books:
            if self._margined and (self._adopts or self.accepting):
                self._foreign[symbol] = _ZERO
                self._take_over(symbol, holdings.get(symbol), account)
            else:
                held = holdings[symbol].qty if symbol in holdings else _ZERO
                self._foreign[symbol] = held - self._portfolio.positions[symbol].qty
        balance = account.balances.get(self._coin, _ZERO)
        reason = (
            "the account as it is, accepted by a person"
            if self.accepting
            else "the account's balance when the run began"
        )
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
        elif self._others and not holdings and not any(self._foreign.values()):  # nothing is mixed any more
            self._adjust_cash(drift, account, "what others' trades have left, once nothing of theirs is held")
            self._others = _ZERO
        return "; ".join(differences)

    def held(self, symbol: str) -> Decimal:
        """What the account should hold of a symbol, as far as we know; 0 where it isn't traded here."""
        if symbol not in self._foreign:
            return _ZERO
        return self._portfolio.positions[symbol].qty + self._foreign[symbol]

    def wallet(self) -> Decimal:
        """What the venue's wallet must hold: on margin, profits count once they are realised."""
        book = self._portfolio
        return book.initial + book.realised - book.fees + book.funding if self._margined else book.cash

    def _cash_drift(self, balance: Decimal, holdings: dict[str, PositionSnapshot]) -> Decimal:
        """How much more was received for all that was bought and sold than in the ledger, and not paid.

        Which part of a profit is realised depends on the order of the fills, and on what others hold of the same symbol, which a venue
        nets. What changed hands does not: by this measure ledger and account differ by what others have spent, and nothing else.
        """
        spent = sum(
            (holdings[symbol].qty * holdings[symbol].entry for symbol in self.books if symbol in holdings),
            _ZERO,
        )
        return balance - spent - self._portfolio.cash

    def _take_over(self, symbol: str, holding: PositionSnapshot | None, account: AccountSnapshot) -> None:
        """Hold what the account holds, at its entry price: with another one, what a trade realises would be another sum.

        What the account does not hold is closed at the mark.
        """
        position = self._portfolio.positions[symbol]
        if holding is None:
            self._transfer(
                "released", symbol, -position.qty, position.mark_decimal or position.entry_price, account
            )
        elif (
            position.qty != holding.qty or abs(position.cost - holding.qty * holding.entry) > self._tolerance
        ):
            self._transfer("released", symbol, -position.qty, position.entry_price, account)
            self._transfer("adopted", symbol, holding.qty, holding.entry, account)

    def _adjust_cash(self, amount: Decimal, account: AccountSnapshot, reason: str) -> None:
        """Cash that comes or goes without a trade."""
        if self.states_cash and amount:
            self._emit(CashAdjustment(account.ts, self._coin, amount, reason))
        self._portfolio.transfer(amount)

    def _transfer(
        self, what: str, symbol: str, qty: Decimal, price: Decimal, account: AccountSnapshot
    ) -> None:
        """A part of a position that comes or goes without a trade."""
        if not qty:
            return
        side, now = Side.BUY if qty > 0 else Side.SELL, account.available_at
        fill = Fill(
            f"{what}-{now}-{symbol}", "", symbol, account.ts, now, side, abs(qty), price, _ZERO, kind=FillKind.TRANSFER,
            reason=f"{what}, as the account has it",
        )  # fmt: skip
        self._portfolio.apply(fill)
        self._emit(fill)


def _rank(status: OrderStatus) -> int:
    """How far an order has come that has not ended."""
    return 1 if status is OrderStatus.PARTIALLY_FILLED else 0
