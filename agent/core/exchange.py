"""Interfaces of the exchanges that the engine can trade on.

Every `Exchange` accepts orders, cancels, and stops and take-profits that protect a position. A
`MatchingExchange` fills orders itself, from the bars that the engine passes to it; a `ReportingExchange`
books what a venue reports. They are classes rather than protocols because compiled code calls methods of
classes directly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from hashlib import blake2b
from typing import Final

import msgspec
from librt.vecs import vec
from msgspec import UNSET
from mypy_extensions import i64

from agent.core.decimals import exact
from agent.core.events import (
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Fill,
    Funding,
    FundingPayment,
    FundingSettlement,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    RiskEvent,
    Side,
)
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.protection import (
    Protection,
    are_levels,
    protective_order,
    shares_of_rest,
    with_protection,
)
from agent.core.settings import CoreConfig

Report = Order | Cancel | Amend | OrderUpdate | Fill | FundingPayment | CashAdjustment | RiskEvent
"""The decisions that an exchange emits."""

ID_PREFIX: Final = "tw-"
"""Prefix of every client order id of Tapewire."""

ID_LENGTH: Final = 35
"""Characters of a client order id; venues take up to 36."""

EMERGENCY_PREFIX: Final = "twk-"
"""How client ids of the kill switch's orders begin; they are the run's, but not decided by the core."""

MOVED: Final = "replaced by a newer trigger"
"""Reason of cancelling a protective order whose trigger has been moved."""


EXPIRED: Final = "expired"
"""Reason of cancelling an entry whose time is up."""

_NEVER: Final = 1 << 61  # a compiled integer of one word
_ZERO: Final = Decimal(0)


def run_prefix(run_id: str) -> str:
    """Return the prefix of a run's client order ids, 11 characters."""
    return ID_PREFIX + blake2b(run_id.encode(), digest_size=4).hexdigest()


def client_order_id(prefix: str, run_id: str, incarnation: str, number: int) -> str:
    """Return a client order id of `ID_LENGTH` characters: a hash of run, incarnation and number."""
    name = f"{run_id}:{incarnation}:{number}".encode()
    return prefix + blake2b(name, digest_size=(ID_LENGTH - len(prefix)) // 2).hexdigest()


class Exchange:
    """Base class: keeps the working orders by symbol in `books`, and checks the instruments' rules.

    `emit` receives each report; `new_id` returns ids for orders that the exchange places itself.
    """

    def __init__(
        self,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
    ) -> None:
        self.books: dict[str, list[WorkingOrder]] = {symbol: [] for symbol in instruments}
        self._instruments = instruments
        self._portfolio = portfolio
        self._emit = emit
        self._new_id = new_id
        self.run_prefix = ID_PREFIX  # prefix of this run's client order ids
        self.refusals: Counter[str] = Counter()  # rejected orders, by the rule that they broke
        self.states_cash = False  # True if every change of cash is reported; lives of early versions did not
        self.next_expiry = _NEVER  # UTC ms: no entry expires before
        self.counts: Counter[str] = Counter()  # what was left out or ended; the engine's own

    # -- orders -----------------------------------------------------------------------------------------

    def submit(self, order: Order, now: int) -> None:
        """Accept an order, or reject it if it breaks the instrument's rules."""
        raise NotImplementedError

    def cancel(self, orders: Iterable[WorkingOrder], now: int, reason: str) -> None:
        """Cancel orders. At a venue they stay on the book, marked `cancelling`, until it confirms."""
        raise NotImplementedError

    def caps_reductions(self, rules: Instrument) -> bool:
        """Return whether a reduce-only order closes a position of any size and never turns it around.

        Spot has no reduce-only orders.
        """
        return rules.is_margined

    def _flaw(self, order: Order) -> str:
        """Return which of the instrument's rules an order breaks; empty if it breaks none."""
        rules, qty = self._instruments[order.symbol], order.qty
        price = order.price or order.trigger
        if qty <= _ZERO or qty % rules.qty_step:
            return f"quantity {qty} is not a positive multiple of {rules.qty_step}"
        if price is not None and (price <= _ZERO or price % rules.tick_size):
            return f"price {price} is not a positive multiple of the tick {rules.tick_size}"
        if order.reduce_only and self.caps_reductions(rules):
            return ""
        if qty < rules.min_qty:
            return f"quantity {qty} is below the minimum {rules.min_qty}"
        reference = price if price is not None else self._portfolio.positions[order.symbol].mark_decimal
        if reference and qty * reference < rules.min_notional:
            return f"value {qty * reference} is below the minimum {rules.min_notional}"
        return ""

    def _reject(self, order: Order, now: int, flaw: str) -> None:
        """Reject an order, and count it by the rule that it broke."""
        what, _, rule = flaw.partition(" is ")
        self.refusals[f"{what.partition(' ')[0]} {rule}"] += 1
        self._emit(OrderUpdate(order.id, order.symbol, now, now, OrderStatus.REJECTED, reason=flaw))

    def _note_expiry(self, order: Order) -> None:
        """Note when a new entry expires."""
        if order.expires is not UNSET and order.expires < self.next_expiry:
            self.next_expiry = order.expires

    def expire(self, until: int, symbol: str = "", now: int = 0) -> None:
        """Cancel the entries that expire at `until` (UTC ms) or before, in one symbol or in all.

        `now` is the time of the cancels, by default `until`.
        """
        following = _NEVER
        for name, book in self.books.items():
            due: list[WorkingOrder] = []
            for working in book:
                expires = working.order.expires
                if expires is UNSET or working.cancelling:
                    continue
                if expires <= until and symbol in ("", name):
                    due.append(working)
                else:
                    following = min(following, expires)
            if due:
                self.counts["entries that expired"] += len(due)
                self.cancel(due, now or until, EXPIRED)
        self.next_expiry = following

    def protect(
        self, symbol: str, side: Side, protection: Protection, now: int, *, loosen: bool = False
    ) -> None:
        """Move the protection of a position on `side` to new triggers; what is None stays unchanged.

        Working entries on that side attach the new triggers once they fill. While such an entry works, the
        protection of an earlier entry stays as it is. The new order is placed before the old one is
        cancelled, so that the position is never unprotected; an order that has begun to fill is not replaced.
        A trailing stop is not replaced by one that is looser now, unless `loosen`.
        """
        book = self.books[symbol]
        entries: list[str] = []
        for working in book:
            if working.order.side is side and not working.order.reduce_only:
                entries.append(working.order.id)
                working.order = with_protection(working.order, protection)
        held = self._portfolio.positions[symbol].qty
        qty = self._instruments[symbol].round_qty(abs(held))
        if held * side.sign <= 0 or not qty:
            return
        protective = [w for w in book if w.closes_position and not w.cancelling]
        group = protective[0].order.oco if protective else entries[-1] if entries else ""
        # levels that have been filled in part leave the others as they are
        if any(w.filled and w.share is None for w in protective) or (
            protective and entries and group not in entries
        ):
            return  # it has begun to fill, or protects an earlier entry while a newer one works
        opposite = Side.SELL if side is Side.BUY else Side.BUY
        best = self._portfolio.positions[symbol].mark
        protection = self._as_supported(protection, symbol, best, opposite)
        for kind, trigger in (
            (OrderType.STOP, protection.stop),
            (OrderType.TAKE_PROFIT, protection.take_profit),
        ):
            old = [w for w in protective if w.order.type is kind]
            if trigger is None or any(w.triggered for w in old):
                continue
            if old and old[-1].share is None and old[-1].order.trigger == trigger:
                continue
            new_id = self._new_id()
            group = group or new_id
            self._place_protection(
                protective_order(new_id, symbol, now, opposite, kind, qty, trigger, group), old, now
            )
        if protection.trail is not None:
            old = [w for w in protective if w.trails]
            if self._replaces_trail(old, protection.trail, best, opposite, loosen=loosen):
                trail = Protection(trail=protection.trail)
                for order, _ in self._protective_of(symbol, opposite, qty, trail, best, now, group):
                    self._place_protection(order, old, now)
                    group = order.oco
        if protection.levels:
            old = [w for w in protective if w.order.type is OrderType.TAKE_PROFIT]
            begun = any(w.triggered or w.filled for w in old)
            if not begun and not are_levels(old, protection.levels):
                levels = Protection(levels=protection.levels)
                for order, share in self._protective_of(symbol, opposite, qty, levels, 0.0, now, group):
                    self._place_protection(order, old, now, share)
                    old = []

    def _replaces_trail(
        self, old: list[WorkingOrder], distance: Decimal, best: float, side: Side, *, loosen: bool
    ) -> bool:
        """Return whether a trailing stop that starts at the price `best` replaces the working ones."""
        if any(w.triggered for w in old):
            return False
        if not old:
            return True
        current = old[-1]
        if loosen:
            return current.distance != distance
        trigger = float(exact(best) + side.sign * distance)
        tighter = trigger > current.trigger if side is Side.SELL else trigger < current.trigger
        if not tighter and distance > current.distance:
            self.counts["looser trailing stops that did not replace a tighter one"] += 1
        return tighter

    def _protective(
        self, entry: Order, qty: Decimal, protection: Protection, best: float, now: int
    ) -> list[tuple[Order, Decimal | None]]:
        """Return the protective orders of an entry; see `_protective_of`."""
        side = Side.SELL if entry.side is Side.BUY else Side.BUY
        return self._protective_of(entry.symbol, side, qty, protection, best, now, entry.id)

    def _protective_of(
        self,
        symbol: str,
        side: Side,
        qty: Decimal,
        protection: Protection,
        best: float,
        now: int,
        group: str,
    ) -> list[tuple[Order, Decimal | None]]:
        """Return the orders on `side` that protect a position of `qty`, as yet unplaced.

        Levels are of at least one lot each.

        Each has its share of the position that is left once earlier levels are filled; None: all of it. A
        trailing stop starts at the price `best`.
        """
        orders: list[tuple[Order, Decimal | None]] = []
        protection = self._as_supported(protection, symbol, best, side)

        def add(kind: OrderType, size: Decimal, trigger: Decimal, share: Decimal | None = None) -> None:
            nonlocal group
            new_id = self._new_id()
            group = group or new_id
            orders.append((protective_order(new_id, symbol, now, side, kind, size, trigger, group), share))

        if protection.stop is not None:
            add(OrderType.STOP, qty, protection.stop)
        if protection.take_profit is not None:
            add(OrderType.TAKE_PROFIT, qty, protection.take_profit)
        if protection.trail is not None:
            trigger = exact(best) + side.sign * protection.trail
            add(OrderType.TRAILING_STOP, qty, max(trigger, self._instruments[symbol].tick_size))
            order, _ = orders[-1]
            orders[-1] = msgspec.structs.replace(order, trail=protection.trail), None
        left = qty
        for (trigger, _), share in zip(protection.levels, shares_of_rest(protection.levels), strict=True):
            size = self._level_qty(symbol, left, share)
            left -= size
            if size:
                add(OrderType.TAKE_PROFIT, size, trigger, share)
            else:
                self.refusals["take-profit level below a lot"] += 1
        return orders

    def _level_qty(self, symbol: str, held: Decimal, share: Decimal) -> Decimal:
        """Return the quantity of a level that closes `share` of `held`: at least a lot, if that is held."""
        rules = self._instruments[symbol]
        return min(max(rules.round_qty(held * share), rules.qty_step), rules.round_qty(held))

    def _as_supported(self, protection: Protection, symbol: str, best: float, side: Side) -> Protection:
        """Return the protection as the exchange can place it on `side`, at the price `best`."""
        return protection

    def _place_protection(
        self, order: Order, old: list[WorkingOrder], now: int, share: Decimal | None = None
    ) -> None:
        """Place an order that closes the position or `share` of it, then cancel the orders in `old`."""
        raise NotImplementedError


class MatchingExchange(Exchange):
    """An exchange that fills orders itself, from the market data that the engine passes to it."""

    def __init__(
        self,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(instruments, portfolio, emit, new_id)
        self.bars_met = 0  # bars in which an order worked
        self.bars_without_volume = 0  # those of them without any volume to take
        self.bars_below_a_lot = 0  # those of them of which less than one lot could be taken
        # by symbol: funding stamps strictly inside a bar that has not closed yet
        self.held_funding: dict[str, list[Funding]] = {}

    def on_kline(self, kline: Kline) -> None:
        """Match working orders against a closed bar."""
        raise NotImplementedError

    def reach(self, symbol: str, start: int) -> tuple[float, float]:
        """Return the prices between which a bar that begins at `start` (UTC ms) or later does nothing to the
        symbol's orders; NaN if there is an order to which each bar may do something.
        """
        raise NotImplementedError

    def pass_bars(self, symbol: str, starts: vec[i64], volumes: vec[float]) -> None:
        """Note bars within `reach`, by their open times (UTC ms) and volumes."""
        raise NotImplementedError

    def on_price(self, kline: Kline) -> None:
        """Match working orders against the last price of a running bar."""
        raise NotImplementedError

    def at_close(self, kline: Kline) -> None:
        """Fill orders that were decided on this bar at its own close."""
        raise NotImplementedError

    def liquidation_price(self, position: Position) -> float:
        """Return the mark at which `liquidate` is due; NaN if no price liquidates the position."""
        raise NotImplementedError

    def liquidate(self, kline: Kline, price: float, first: float) -> None:
        """Close the position in the bar's symbol at `price`, or at `first` if the bar began beyond it."""
        raise NotImplementedError

    def on_funding(self, funding: Funding) -> None:
        """Book the funding payment of a stamp that has passed."""
        raise NotImplementedError


class ReportingExchange(Exchange):
    """An exchange that books what a venue reports. Each `on_…` method returns whether the report was new."""

    def __init__(
        self,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
    ) -> None:
        super().__init__(instruments, portfolio, emit, new_id)
        # True from when the venue's history has more than this run's record until an operator resumes
        self.unaccepted = False

    def on_bar(self, kline: Kline) -> None:
        """Follow a closed bar with the estimated triggers of trailing stops."""
        raise NotImplementedError

    def on_update(self, update: OrderUpdate) -> bool:
        """Apply a change of an order's state."""
        raise NotImplementedError

    def on_fill(self, fill: Fill) -> bool:
        """Book an execution."""
        raise NotImplementedError

    def on_settlement(self, settlement: FundingSettlement) -> bool:
        """Book funding that the venue has settled."""
        raise NotImplementedError

    def on_account(self, account: AccountSnapshot) -> str:
        """Compare a snapshot of the venue's account with the ledger; describe the difference, "" if none."""
        raise NotImplementedError

    def accept(self) -> None:
        """Accept the next account snapshot as the truth (the operator confirmed the drift)."""
        raise NotImplementedError

    def reissue(self, order_id: str, now: int, reason: str) -> bool:
        """End an order whose id belongs to another order at the venue; return whether it could still trade.

        An order that closes a position is placed again under a new id.
        """
        raise NotImplementedError

    def on_older_record(self) -> None:
        """Note that the venue's history has orders or executions of this run that the record lacks."""
        raise NotImplementedError


ExchangeFactory = Callable[
    [CoreConfig, dict[str, Instrument], Portfolio, Callable[[Report], None], Callable[[], str]], Exchange
]
"""Makes the exchange of an engine from configuration, instruments, ledger, `emit` and `new_id`."""
