"""Orders that wait for a price: conditional orders, and the take-profit, stop-loss and trailing stop of a position."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Final

from agent.sandbox.desk import Leg
from agent.sandbox.errors import Refusal, parameter
from agent.sandbox.orders import VenueOrder, check_protection

if TYPE_CHECKING:
    from agent.sandbox.account import Account

_FIELDS: Final = {"TakeProfit": "take_profit", "StopLoss": "stop_loss"}


class Triggers:
    """Watches prices for an account. What is triggered goes to the paper exchange as a market or limit order."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def fire(self, symbol: str, price: float) -> None:
        """Activate every order of the symbol whose trigger `price` has reached."""
        account = self._account
        for leg in account.desks["linear"].legs[symbol]:
            if leg.trailing is not None:
                self._trail(leg, price)
        for order in [
            o for o in account.open.values() if o.symbol == symbol and o.conditional and o.trigger is not None
        ]:
            reached = (
                price >= float(order.trigger or 0)
                if order.trigger_rises
                else price <= float(order.trigger or 0)
            )
            if reached and order.open:
                self._activate(order)

    def _activate(self, order: VenueOrder) -> None:
        account = self._account
        if order.reduce_only:
            held = account.desks["linear"].leg_of(order).reducible(order.side)
            order.qty = held if order.whole_position else min(order.qty or held, held)
        flaw = "" if order.qty else "EC_ReduceOnlyRuleNotSatisfied"
        try:
            account.check_funds(order)  # before it counts among the open orders itself
        except Refusal:
            flaw = "EC_NotEnoughBalance"
        order.status, order.updated = "Triggered", account.now()
        account.tell(order)
        if flaw:
            account.end(order, "UNKNOWN", flaw)
            return
        order.status = "New"
        account.tell(order)
        account.submit(order)

    # -- a position's protection -------------------------------------------------------------------------------------

    def protect(self, leg: Leg, kind: str, price: Decimal, qty: Decimal | None = None) -> None:
        """Place a position's `TakeProfit` or `StopLoss` at `price` (0 takes it back), for all of it unless `qty` is given."""
        account = self._account
        if qty is None:
            for order in self._of(leg, kind):
                account.end(order, "CancelByTpSlTsClear", "EC_PerCancelRequest")
            setattr(leg, _FIELDS[kind], price or None)
            if not price:
                return
        side = leg.closing_side
        order = VenueOrder(
            "linear", leg.symbol, side, "Market", qty or abs(leg.held.qty), account.now(), index=leg.index
        )
        order.kind = kind if qty is None else f"Partial{kind}"
        order.create_type = f"CreateBy{kind}"
        order.tif, order.reduce_only, order.close_on_trigger, order.whole_position = (
            "IOC",
            True,
            True,
            qty is None,
        )
        order.trigger, order.trigger_by = price, "LastPrice"
        order.trigger_rises = (kind == "TakeProfit") == (leg.held.qty > 0)
        order.status, order.updated, order.last_on_created = (
            "Untriggered",
            account.now(),
            account.last(leg.symbol),
        )
        account.accept(order)

    def set(
        self,
        leg: Leg,
        prices: dict[str, Decimal | None],
        trailing: Decimal | None,
        qty: dict[str, Decimal | None],
    ) -> None:
        """As position/trading-stop asks: None leaves as it is, 0 takes back."""
        account = self._account
        if not leg.held.qty:
            raise parameter("can not set tp/sl/ts for zero position")
        rules = account.listing.instrument("linear", leg.symbol)
        base = account.last(leg.symbol)
        check_protection(
            rules, leg.opening_side, base, prices["TakeProfit"] or None, prices["StopLoss"] or None
        )
        for kind, price in prices.items():
            if price is not None:
                self.protect(leg, kind, price, qty[kind])
        if trailing is not None:
            leg.trailing = trailing or None
            leg.best = float(base)

    def follow(self, leg: Leg, order: VenueOrder) -> None:
        """After a fill: attach the order's own protection, or clear that of a position that is gone."""
        if not leg.held.qty or any(
            o.side is not leg.closing_side for kind in _FIELDS for o in self._of(leg, kind)
        ):
            leg.take_profit = leg.stop_loss = leg.trailing = None
            for kind in _FIELDS:
                for waiting in self._of(leg, kind):
                    self._account.end(waiting, "CancelByTpSlTsClear", "EC_PerCancelRequest")
        if leg.held.qty and order.side is leg.opening_side:
            for kind, price in (("TakeProfit", order.take_profit), ("StopLoss", order.stop_loss)):
                if price is not None and getattr(leg, _FIELDS[kind]) != price:
                    self.protect(leg, kind, price)

    def _of(self, leg: Leg, kind: str) -> list[VenueOrder]:
        orders = self._account.open.values()
        return [
            o
            for o in orders
            if o.whole_position
            and o.conditional
            and o.kind == kind
            and (o.symbol, o.index) == (leg.symbol, leg.index)
        ]

    def _trail(self, leg: Leg, price: float) -> None:
        """A trailing stop follows the best price at its distance, and closes the position where the price comes back to it."""
        sign = 1 if leg.held.qty > 0 else -1
        leg.best = max(leg.best, price) if sign > 0 else min(leg.best, price)
        if leg.held.qty and (leg.best - price) * sign >= float(leg.trailing or 0):
            account = self._account
            order = VenueOrder(
                "linear",
                leg.symbol,
                leg.closing_side,
                "Market",
                abs(leg.held.qty),
                account.now(),
                index=leg.index,
            )
            order.kind, order.create_type, order.tif = "TrailingStop", "CreateByTrailingStop", "IOC"
            order.reduce_only, order.close_on_trigger = True, True
            order.updated, order.last_on_created = account.now(), account.last(leg.symbol)
            leg.trailing = None
            account.accept(order)
