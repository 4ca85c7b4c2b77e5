"""What the account owns and may still spend: one USDT wallet over both desks, margin for derivatives, coins for spot.

Derivatives trade on the equity of the linear desk. What resting spot orders may cost is set aside on the spot desk, and nothing else
lies there; coins bought on spot are no collateral.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from agent.core.events import Side
from agent.sandbox.desk import Desk, Leg
from agent.sandbox.listing import SETTLE_COIN, split
from agent.sandbox.orders import VenueOrder

_ZERO = Decimal(0)
_SLACK = Decimal("1.05")
"""A market order may cost this much more than the last price said when it came."""
_WITH_FEE = Decimal("1.01")


@dataclass(frozen=True, slots=True)
class Balance:
    """One coin. `wallet` is what was paid in and realised, `equity` adds unrealised profit; `usd` its value."""

    coin: str
    wallet: Decimal
    equity: Decimal
    usd: Decimal
    locked: Decimal
    order_margin: Decimal = _ZERO
    position_margin: Decimal = _ZERO
    maintenance: Decimal = _ZERO
    unrealised: Decimal = _ZERO
    realised: Decimal = _ZERO


class Wallet:
    """Balances, computed from the desks' ledgers and the open orders."""

    def __init__(self, linear: Desk, spot: Desk, orders: dict[str, VenueOrder]) -> None:
        self._linear = linear
        self._spot = spot
        self._open = orders

    # -- margin ------------------------------------------------------------------------------------------------------

    def notional(self, leg: Leg) -> Decimal:
        """Of a position at its mark."""
        return abs(leg.held.qty) * leg.held.mark_decimal

    def position_margin(self, leg: Leg) -> Decimal:
        """Initial margin of a position."""
        return self.notional(leg) / self._linear.leverage(leg)

    def maintenance(self, leg: Leg) -> Decimal:
        """Maintenance margin of a position."""
        return self.notional(leg) * self._linear.rules[leg.key].maintenance_margin

    def order_margin(self) -> Decimal:
        """Initial margin of all derivative orders that would open something."""
        opening = (order for order in self._resting("linear") if not order.reduce_only)
        margins = (
            o.remaining * (o.price or _ZERO) / self._linear.leverage(self._linear.leg_of(o)) for o in opening
        )
        return sum(margins, _ZERO)

    def available(self) -> Decimal:
        """Margin that is free."""
        used = sum((self.position_margin(leg) for leg in self._linear.open_legs()), _ZERO)
        return self._linear.portfolio.exact_equity() - used - self.order_margin()

    # -- spot --------------------------------------------------------------------------------------------------------

    def locked(self, coin: str) -> Decimal:
        """What resting spot orders hold of a coin."""
        if coin == SETTLE_COIN:
            return sum(
                (o.remaining * (o.price or _ZERO) for o in self._resting("spot") if o.side is Side.BUY), _ZERO
            )
        return sum(
            (
                o.remaining
                for o in self._resting("spot")
                if o.side is Side.SELL and split(o.symbol)[0] == coin
            ),
            _ZERO,
        )

    def spendable(self) -> Decimal:
        """USDT that another spot order may cost: neither margin in use nor profit that is only on paper."""
        unrealised = sum((leg.held.unrealised for leg in self._linear.open_legs()), _ZERO)
        return max(_ZERO, self.available() - max(_ZERO, unrealised))

    def holdings(self, coin: str) -> Decimal:
        """Base coin that is owned."""
        return sum((leg.held.qty for leg in self._spot.open_legs() if split(leg.symbol)[0] == coin), _ZERO)

    def fund_spot(self) -> None:
        """Set aside on the spot desk what its open buys may cost with their fees, and no more than there is.

        The fee comes on top, since the paper exchange takes it in quote currency; the account swaps it back.
        """
        buys = (o for o in self._resting("spot") if o.side is Side.BUY)
        costs = (
            o.remaining * (o.price or o.last_on_created * _SLACK) * (1 + self._spot.rules[o.symbol].taker_fee)
            for o in buys
        )
        cash = self._spot.portfolio.cash
        missing = min(sum(costs, _ZERO), (cash + max(_ZERO, self.available())) * _WITH_FEE) - cash
        if missing:
            self._spot.portfolio.transfer(missing)
            self._linear.portfolio.transfer(-missing)

    # -- balances ----------------------------------------------------------------------------------------------------

    def balances(self) -> list[Balance]:
        """USDT, and every coin that is owned."""
        legs = self._linear.open_legs()
        book = self._linear.portfolio
        unrealised = sum((leg.held.unrealised for leg in legs), _ZERO)
        wallet = book.exact_equity() - unrealised + self._spot.portfolio.cash
        settled = Balance(
            SETTLE_COIN,
            wallet,
            wallet + unrealised,
            wallet + unrealised,
            self.locked(SETTLE_COIN),
            self.order_margin(),
            sum((self.position_margin(leg) for leg in legs), _ZERO),
            sum((self.maintenance(leg) for leg in legs), _ZERO),
            unrealised,
            book.realised - book.fees + book.funding,
        )
        coins = dict.fromkeys(split(leg.symbol)[0] for leg in self._spot.open_legs())
        return [settled, *(self.coin(coin) for coin in coins)]

    def coin(self, coin: str) -> Balance:
        """A coin other than USDT, owned or not."""
        owned = self.holdings(coin)
        value = sum(
            (
                leg.held.qty * leg.held.mark_decimal
                for leg in self._spot.open_legs()
                if split(leg.symbol)[0] == coin
            ),
            _ZERO,
        )
        return Balance(coin, owned, owned, value, self.locked(coin))

    def _resting(self, category: str) -> list[VenueOrder]:
        return [
            order for order in self._open.values() if order.category == category and not order.conditional
        ]
