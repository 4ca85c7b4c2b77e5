"""Orders that wait for a price: conditional orders, take-profit, stop-loss and trailing stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Final, Protocol

from agent.sandbox.bybit_errors import BybitError, parameter_error
from agent.sandbox.category_book import CategoryBook, Leg
from agent.sandbox.listed_instruments import Instruments
from agent.sandbox.sandbox_order import SandboxOrder, check_protection

_FIELDS: Final = {"TakeProfit": "take_profit", "StopLoss": "stop_loss"}


class TriggerAccount(Protocol):
    """The account whose orders wait for a price."""

    instruments: Instruments
    now: Callable[[], int]

    @property
    def books(self) -> Mapping[str, CategoryBook]: ...
    @property
    def open(self) -> Mapping[str, SandboxOrder]: ...

    def accept(self, order: SandboxOrder) -> None: ...
    def submit(self, order: SandboxOrder) -> None: ...
    def publish(self, order: SandboxOrder) -> None: ...
    def check_funds(self, order: SandboxOrder) -> None: ...
    def end_order(self, order: SandboxOrder, cancel_type: str, reason: str) -> None: ...
    def last_price(self, symbol: str) -> Decimal: ...


class Triggers:
    """Watches prices for an account and submits triggered orders to the paper exchange."""

    def __init__(self, account: TriggerAccount) -> None:
        self._account = account

    def fire(self, symbol: str, price: float) -> None:
        """Activate every order of the symbol whose trigger has been reached by `price`."""
        account = self._account
        for leg in account.books["linear"].legs[symbol]:
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

    def _activate(self, order: SandboxOrder) -> None:
        account = self._account
        if order.reduce_only:
            held = account.books["linear"].leg_of(order).reducible(order.side)
            order.qty = held if order.whole_position else min(order.qty or held, held)
        problem = "" if order.qty else "EC_ReduceOnlyRuleNotSatisfied"
        try:
            account.check_funds(order)  # before the order itself counts as open
        except BybitError:
            problem = "EC_NotEnoughBalance"
        order.status, order.updated = "Triggered", account.now()
        account.publish(order)
        if problem:
            account.end_order(order, "UNKNOWN", problem)
            return
        order.status = "New"
        account.publish(order)
        account.submit(order)

    # -- a position's protection ----------------------------------------------------------------------------

    def place_protection(self, leg: Leg, kind: str, price: Decimal, qty: Decimal | None = None) -> None:
        """Place a `TakeProfit` or `StopLoss` at `price`, for the whole position by default; 0 removes it."""
        account = self._account
        if qty is None:
            for order in self._protection_orders(leg, kind):
                account.end_order(order, "CancelByTpSlTsClear", "EC_PerCancelRequest")
            setattr(leg, _FIELDS[kind], price or None)
            if not price:
                return
        side = leg.closing_side
        order = SandboxOrder(
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
            account.last_price(leg.symbol),
        )
        account.accept(order)

    def set_trading_stop(
        self,
        leg: Leg,
        prices: dict[str, Decimal | None],
        trailing: Decimal | None,
        qty: dict[str, Decimal | None],
        active: Decimal | None = None,
    ) -> None:
        """Apply a position/trading-stop request: None leaves a price unchanged, 0 removes it.

        A trailing stop follows the price from now on, or from when it reaches `active`.
        """
        account = self._account
        if not leg.held.qty:
            raise parameter_error("can not set tp/sl/ts for zero position")
        rules = account.instruments.find("linear", leg.symbol)
        base = account.last_price(leg.symbol)
        check_protection(
            rules, leg.opening_side, base, prices["TakeProfit"] or None, prices["StopLoss"] or None
        )
        if trailing is not None:
            self._check_trailing(leg, trailing, active, base, rules.tick_size)
            unchanged = (trailing or None) == leg.trailing and not active
            if unchanged and all(price is None for price in prices.values()):
                raise BybitError(34040, "not modified")
        for kind, price in prices.items():
            if price is not None:
                self.place_protection(leg, kind, price, qty[kind])
        if trailing is not None and not unchanged:
            leg.trailing, leg.active = trailing or None, active
            leg.best = float(base)

    @staticmethod
    def _check_trailing(
        leg: Leg, trailing: Decimal, active: Decimal | None, base: Decimal, tick: Decimal
    ) -> None:
        """Check that a distance is on the tick and less than the price, and `active` on its right side."""
        if trailing % tick or not 0 <= trailing < base:
            raise parameter_error(f"params error: trailingStop {trailing} invalid")
        if active is not None and (active - base) * (1 if leg.held.qty > 0 else -1) <= 0:
            bound = "higher" if leg.held.qty > 0 else "lower"
            raise parameter_error(f"activePrice:{active} should be {bound} than base_price:{base}")

    def on_fill(self, leg: Leg, order: SandboxOrder) -> None:
        """Attach a filled order's protection to its position; remove that of a closed position."""
        if not leg.held.qty or any(
            o.side is not leg.closing_side for kind in _FIELDS for o in self._protection_orders(leg, kind)
        ):
            leg.take_profit = leg.stop_loss = leg.trailing = leg.active = None
            for kind in _FIELDS:
                for waiting in self._protection_orders(leg, kind):
                    self._account.end_order(waiting, "CancelByTpSlTsClear", "EC_PerCancelRequest")
        if leg.held.qty and order.side is leg.opening_side:
            for kind, price in (("TakeProfit", order.take_profit), ("StopLoss", order.stop_loss)):
                if price is not None and getattr(leg, _FIELDS[kind]) != price:
                    self.place_protection(leg, kind, price)

    def _protection_orders(self, leg: Leg, kind: str) -> list[SandboxOrder]:
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
        """Move a trailing stop with the best price; close the position if the price comes back to it."""
        sign = 1 if leg.held.qty > 0 else -1
        if leg.active is not None:
            if (price - float(leg.active)) * sign < 0:
                return
            leg.active, leg.best = None, price
        leg.best = max(leg.best, price) if sign > 0 else min(leg.best, price)
        if leg.held.qty and (leg.best - price) * sign >= float(leg.trailing or 0):
            account = self._account
            order = SandboxOrder(
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
            order.updated, order.last_on_created = account.now(), account.last_price(leg.symbol)
            leg.trailing = None
            account.accept(order)
