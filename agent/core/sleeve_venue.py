"""A venue's account that several sleeves share: what each sleeve sees of it, and the account itself.

The venue has one net position in a symbol, and its reduce-only orders and position-wide stops would act on
the parts of other sleeves. So a sleeve's orders are plain orders at the venue: an order that is to reduce the
sleeve's position is sent without the flag, and what it exceeds the position by is closed again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from msgspec.structs import replace

from agent.core.events import (
    HOUR_MS,
    AccountSnapshot,
    CashAdjustment,
    Fill,
    FillKind,
    FundingPayment,
    FundingSettlement,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    Side,
    TimeInForce,
)
from agent.core.exchange import EMERGENCY_PREFIX, Report
from agent.core.fill_models import FillRules
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio
from agent.core.settings import CoreConfig
from agent.core.venue import OPENING, ForeignPolicy, OpenOrder, OpenState, SentOrder, VenueExchange

EXCESS: Final = "exceeded the position"
"""Reason of an order that closes what an order meant to reduce has opened."""

UNASSIGNED: Final = ""
"""Name under which fills and payments that no sleeve has are returned."""

_ZERO: Final = Decimal(0)
_FINEST: Final = Decimal("1e-8")
"""Parts of fees and payments are multiples of it, so that they add up exactly."""


class SleeveExchange(VenueExchange):
    """One sleeve's orders and fills at a venue. The account is compared by `AccountExchange`."""

    def __init__(
        self,
        config: CoreConfig,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
        *,
        order_ids: set[str],
        fill_ids: set[str],
    ) -> None:
        super().__init__(config, instruments, portfolio, emit, new_id)
        self.order_ids = order_ids  # of the whole account, as the next
        self.fill_ids = fill_ids
        self._fresh: list[SentOrder] = []  # market orders of the present event, which have not left yet
        self._trails_natively = False  # a stop of the whole position would close the parts of other sleeves
        self._rules = FillRules(config.paper)

    def caps_reductions(self, rules: Instrument) -> bool:
        return False

    def _send(
        self, order: Order, now: int, *, closes_position: bool = False, share: Decimal | None = None
    ) -> None:
        super()._send(order, now, closes_position=closes_position, share=share)
        sent = self.orders.get(order.id)
        market = order.type is OrderType.MARKET and order.tif is not TimeInForce.FOK
        if sent is not None and market and not closes_position:
            self._fresh.append(sent)

    def on_fill(self, fill: Fill) -> bool:
        """Book an execution. What a reducing order has sold or bought beyond the position is closed again."""
        position = self._portfolio.positions.get(fill.symbol)
        before = _ZERO if position is None else position.qty
        sent = self.orders.get(fill.order_id)
        if not super().on_fill(fill):
            return False
        if sent is not None and sent.order.reduce_only and fill.kind is FillKind.TRADE:
            held = abs(before) if before * fill.side.sign < 0 else _ZERO
            excess = self._instruments[fill.symbol].round_qty(fill.qty - held) if fill.qty > held else _ZERO
            if excess:
                self.counts["fills of reducing orders that exceeded the position"] += 1
                side, now = Side.SELL if fill.side is Side.BUY else Side.BUY, fill.available_at
                order = Order(self._new_id(), fill.symbol, now, side, OrderType.MARKET, excess)
                order = replace(order, reduce_only=True, reason=EXCESS)
                self._emit(order)
                self._send(order, now)
        return True

    def on_account(self, account: AccountSnapshot) -> str:
        return ""

    def accept(self) -> None:
        self.unaccepted = False

    def pay(self, payment: FundingPayment) -> None:
        """Book the sleeve's part of a funding settlement."""
        self._portfolio.pay(payment)
        self._emit(payment)

    def receive(self, amount: Decimal, coin: str, account: AccountSnapshot, reason: str) -> None:
        """Book the sleeve's part of a change of the account's cash."""
        if self.states_cash and amount:
            self._emit(CashAdjustment(account.ts, coin, amount, reason))
        self._portfolio.transfer(amount)

    def give_up(self, symbol: str, now: int) -> Fill | None:
        """Give a position that the venue takes no order for to the unassigned part of the account, at the
        mark; return the fill that the other side books, None without a position.
        """
        position = self._portfolio.positions[symbol]
        if not position.qty:
            return None
        side = Side.SELL if position.qty > 0 else Side.BUY
        price = position.mark_decimal or position.entry_price
        why = "too small to close: the sleeve leaves"
        fill = Fill(f"left-{self._new_id()}", "", symbol, now, now, side, abs(position.qty), price, _ZERO)
        fill = replace(fill, kind=FillKind.INTERNAL, reason=why)
        self._portfolio.apply(fill)
        self._emit(fill)
        other = Side.BUY if side is Side.SELL else Side.SELL
        return replace(fill, id=f"{fill.id}.0", side=other)

    # -- orders of other sleeves ------------------------------------------------------------------------

    def crossable(self, symbol: str, now: int) -> list[WorkingOrder]:
        """Return the market orders of the present event: they have not left for the venue yet."""
        return [
            sent
            for sent in self._fresh
            if sent.order.symbol == symbol and sent.remaining > 0 and not sent.ended and not sent.cancelling
        ]

    def most_at(self, working: WorkingOrder, price: Decimal) -> Decimal:
        """Return how much of a market order can be filled against another sleeve's."""
        order = working.order
        held = self._portfolio.positions[order.symbol].qty
        opposite = abs(held) if held * order.side.sign < 0 else _ZERO
        return min(working.remaining, opposite) if order.reduce_only else working.remaining

    def taker_fee(self, symbol: str, qty: Decimal, price: Decimal) -> Decimal:
        """Return the fee that the venue would charge, as `[paper]` estimates it."""
        return self._rules.fees.fee(self._instruments[symbol], qty, price, maker=False)

    def cross(self, working: WorkingOrder, qty: Decimal, price: Decimal, now: int) -> None:
        """Fill `qty` of a market order against another sleeve's, at `price`, without a fee."""
        order = working.order
        id = f"{order.id}.{working.fills}"
        working.fills += 1
        fill = Fill(id, order.id, order.symbol, now, now, order.side, qty, price, _ZERO)
        self.on_fill(replace(fill, kind=FillKind.INTERNAL))

    def let_leave(self, now: int) -> None:
        """Let the market orders of the present event leave, once they have been crossed.

        An order that was crossed in part ends, and what is left of it leaves under another id, so that the
        venue's reports of an order are about the whole of it.
        """
        fresh, self._fresh = self._fresh, []
        for sent in fresh:
            order, rest = sent.order, sent.remaining
            if not sent.filled or sent.ended or sent.cancelling:
                continue
            again = replace(order, id=self._new_id(), ts=now, qty=rest)
            sent.ended = True
            sent.order = replace(order, qty=sent.filled)
            why = f"{sent.filled} were crossed internally; order {again.id} is for the rest"
            self._emit(OrderUpdate(order.id, order.symbol, now, now, OrderStatus.CANCELLED, sent.filled, why))
            self._forget_when_done(sent)
            self._emit(again)
            self._send(again, now)
        self._fresh = []


class AccountExchange(VenueExchange):
    """The account: compares the venue's with the sum of all sleeves, and attributes what it reports.

    `portfolio` is the account's ledger. What no sleeve has is booked in `unassigned` as well: the idle cash,
    fills of orders whose sleeve is not known, and what an accepted account or others' trades change. `emit`
    receives the account's own decisions, whose fills and payments it books in `unassigned`.
    """

    def __init__(
        self,
        config: CoreConfig,
        instruments: dict[str, Instrument],
        portfolio: Portfolio,
        emit: Callable[[Report], None],
        new_id: Callable[[], str],
        *,
        unassigned: Portfolio,
        foreign: ForeignPolicy = "refuse",
        wallet_drift: Decimal = Decimal("0.01"),
    ) -> None:
        super().__init__(
            config, instruments, portfolio, emit, new_id, foreign=foreign, wallet_drift=wallet_drift
        )
        self.capital = config.account.initial_capital
        """What the shares of sleeves are fractions of: the venue's balance when the run began."""
        self.exchanges: dict[str, SleeveExchange] = {}  # of the present sleeves, by name
        self.ledgers: dict[str, Portfolio] = {}
        self.shares: dict[str, Decimal] = {}
        self._unassigned = unassigned
        self._owners: dict[str, str] = {}  # client order id -> sleeve
        self._prefixes: dict[str, str] = {}  # of client order ids -> sleeve, of every sleeve that ever was
        self._recent: deque[tuple[int, str, str, Decimal]] = deque()  # ts, sleeve, symbol, signed quantity

    def caps_reductions(self, rules: Instrument) -> bool:
        return False

    # -- the sleeves ------------------------------------------------------------------------------------

    def join(self, name: str, exchange: SleeveExchange, ledger: Portfolio, share: Decimal) -> None:
        """Add a sleeve; its orders' ids begin with `exchange.run_prefix`."""
        self.exchanges[name], self.ledgers[name], self.shares[name] = exchange, ledger, share
        self._prefixes[exchange.run_prefix] = name

    def leave(self, name: str) -> None:
        """Remove a sleeve."""
        for parts in (self.exchanges, self.ledgers, self.shares):
            parts.pop(name, None)

    def note(self, sleeve: str, decision: Order | Fill) -> None:
        """Note an order or a fill of a sleeve."""
        if isinstance(decision, Order):
            self._owners[decision.id] = sleeve
            return
        self._recent.append((decision.ts, sleeve, decision.symbol, decision.side.sign * decision.qty))
        while self._recent[0][0] < decision.ts - HOUR_MS:
            self._recent.popleft()

    def owner_of(self, order_id: str) -> str:
        """Return the sleeve of an order, `UNASSIGNED` if none has it.

        The id itself names the sleeve, also if the record lacks the order.
        """
        owner = self._owners.get(order_id)
        if owner is None:
            owner = next((name for prefix, name in self._prefixes.items() if order_id.startswith(prefix)), "")
        return owner if owner in self.exchanges else UNASSIGNED

    def open_state(self) -> OpenState:
        every = [sent for one in list(self.exchanges.values()) for sent in list(one.orders.values())]
        every += list(self.orders.values())
        orders = tuple(
            OpenOrder(sent.order, sent.cancelling, sent.ended, sent.filled, sent.reported_filled)
            for sent in every
        )
        ids, fills = frozenset(self.order_ids), frozenset(self.fill_ids)
        return OpenState(orders, ids, fills, self.run_prefix, self.account_state())

    # -- attribution ------------------------------------------------------------------------------------

    def divide(self, fill: Fill) -> list[tuple[str, Fill]]:
        """Return the parts of a fill and the sleeves that they belong to.

        A fill of a sleeve's order is that sleeve's. One that the venue or the kill switch has made to close
        the account's position is divided among the sleeves whose positions it reduces, in proportion to
        them. Everything else is unassigned.
        """
        owner = self.owner_of(fill.order_id)
        if owner and fill.symbol in self.ledgers[owner].positions:
            return [(owner, fill)]
        closes = fill.kind is FillKind.LIQUIDATION or fill.order_id.startswith(EMERGENCY_PREFIX)
        if owner or not closes or fill.order_id in self.orders:
            return [(UNASSIGNED, fill)]
        holders = [(name, self._held(name, fill.symbol)) for name in (*self.ledgers, UNASSIGNED)]
        holders = [(name, abs(qty)) for name, qty in holders if qty * fill.side.sign < 0]
        total = sum((qty for _, qty in holders), _ZERO)
        rules = self._instruments[fill.symbol]
        divisible = min(fill.qty, total)
        parts: list[tuple[str, Decimal]] = []
        given = so_far = _ZERO
        for name, qty in holders:
            so_far += qty
            upto = divisible if so_far == total else rules.round_qty(divisible * so_far / total)
            parts.append((name, upto - given))
            given = upto
        parts.append((UNASSIGNED, fill.qty - given))
        parts = [(name, qty) for name, qty in parts if qty]
        fees = _parts(fill.fee, [qty / fill.qty for _, qty in parts])
        return [
            (name, replace(fill, id=fill.id if not at else f"{fill.id}.{at}", qty=qty, fee=fee))
            for at, ((name, qty), fee) in enumerate(zip(parts, fees, strict=True))
        ]

    def attribute(self, settlement: FundingSettlement) -> list[tuple[str, FundingPayment]]:
        """Return the payments of a settlement and the sleeves that they belong to; empty if it is booked.

        Each sleeve pays or receives for its own position at the stamp. What the venue has settled beyond the
        sum of the sleeves' positions is unassigned.
        """
        s = settlement
        if s.id in self.fill_ids or s.symbol not in self._instruments:
            return []
        self.fill_ids.add(s.id)
        held = {name: self._held(name, s.symbol, s.ts) for name in (*self.ledgers, UNASSIGNED)}
        held = {name: qty for name, qty in held.items() if qty}
        unknown = s.qty - sum(held.values(), _ZERO)
        if not s.qty:
            held, unknown = {}, _ZERO
        if unknown or not held:
            held[UNASSIGNED] = held.get(UNASSIGNED, _ZERO) + unknown
        fractions = [qty / s.qty if s.qty else Decimal(1) for qty in held.values()]
        return [
            (name, FundingPayment(s.symbol, s.ts, s.rate, qty, s.mark, amount))
            for (name, qty), amount in zip(held.items(), _parts(s.amount, fractions), strict=True)
        ]

    def pay(self, payment: FundingPayment) -> None:
        """Book an unassigned part of a settlement."""
        self._portfolio.pay(payment)
        self._emit(payment)

    def _held(self, name: str, symbol: str, at: int = 0) -> Decimal:
        """Return a part's position in a symbol, now or at a time of the last hour (UTC ms)."""
        ledger = self._unassigned if name == UNASSIGNED else self.ledgers[name]
        if symbol not in ledger.positions:
            return _ZERO
        qty = ledger.positions[symbol].qty
        if at:
            later = [q for ts, whose, s, q in self._recent if ts > at and whose == name and s == symbol]
            qty -= sum(later, _ZERO)
        return qty

    # -- the account ------------------------------------------------------------------------------------

    def _adjust_cash(self, amount: Decimal, account: AccountSnapshot, reason: str) -> None:
        """Book a change of cash without a trade.

        The balance at the start is the capital of which the sleeves have shares; later changes are
        unassigned.
        """
        rest = amount
        if reason == OPENING:
            self.capital += amount
            for name, exchange in self.exchanges.items():
                part = amount * self.shares[name]
                rest -= part
                exchange.receive(part, self._coin, account, reason)
                self._portfolio.transfer(part)
        self._unassigned.transfer(rest)
        super()._adjust_cash(rest, account, reason)


MakeAccount = Callable[..., AccountExchange]
"""Makes the account at a venue; called with the arguments of `AccountExchange`."""


def _parts(amount: Decimal, fractions: list[Decimal]) -> list[Decimal]:
    """Divide an amount; the last part takes the rounding, so that the sum is exact."""
    parts = [(amount * one).quantize(_FINEST) for one in fractions[:-1]]
    return [*parts, amount - sum(parts, _ZERO)]
