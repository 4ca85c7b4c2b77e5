"""Balances and free funds: one USDT wallet for both categories.

Derivatives use the equity of the linear ledger as margin. The spot ledger holds only what resting spot orders
may cost. Coins bought on spot are not collateral.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from agent.core.events import Side
from agent.sandbox.category_book import CategoryBook, Leg
from agent.sandbox.listed_instruments import SETTLE_COIN, split_symbol
from agent.sandbox.sandbox_order import SandboxOrder

_ZERO = Decimal(0)
_SLACK = Decimal("1.05")
"""A market order may cost up to this multiple of its value at the last price on arrival."""
_WITH_FEE = Decimal("1.01")


@dataclass(frozen=True, slots=True)
class Balance:
    """One coin: `wallet` is deposits plus realised profit, `equity` adds unrealised profit, `usd` its
    value.
    """

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


class UnifiedWallet:
    """Balances, computed from the ledgers of both categories and the open orders."""

    def __init__(self, linear: CategoryBook, spot: CategoryBook, orders: dict[str, SandboxOrder]) -> None:
        self._linear = linear
        self._spot = spot
        self._open = orders

    # -- margin ---------------------------------------------------------------------------------------------

    def notional(self, leg: Leg) -> Decimal:
        """Return the value of a position at its mark price."""
        return abs(leg.held.qty) * leg.held.mark_decimal

    def position_margin(self, leg: Leg) -> Decimal:
        """Return the initial margin of a position."""
        return self.notional(leg) / self._linear.leverage(leg)

    def maintenance(self, leg: Leg) -> Decimal:
        """Return the maintenance margin of a position."""
        return self.notional(leg) * self._linear.rules[leg.key].maintenance_margin

    def order_margin(self) -> Decimal:
        """Return the initial margin of all derivative orders that are not reduce-only."""
        opening = (order for order in self._resting("linear") if not order.reduce_only)
        margins = (
            o.remaining * (o.price or _ZERO) / self._linear.leverage(self._linear.leg_of(o)) for o in opening
        )
        return sum(margins, _ZERO)

    def available(self) -> Decimal:
        """Return the free margin."""
        used = sum((self.position_margin(leg) for leg in self._linear.open_legs()), _ZERO)
        return self._linear.portfolio.exact_equity() - used - self.order_margin()

    # -- spot -----------------------------------------------------------------------------------------------

    def locked(self, coin: str) -> Decimal:
        """Return the amount of a coin that resting spot orders lock."""
        if coin == SETTLE_COIN:
            return sum(
                (o.remaining * (o.price or _ZERO) for o in self._resting("spot") if o.side is Side.BUY), _ZERO
            )
        return sum(
            (
                o.remaining
                for o in self._resting("spot")
                if o.side is Side.SELL and split_symbol(o.symbol)[0] == coin
            ),
            _ZERO,
        )

    def spendable(self) -> Decimal:
        """Return the USDT that a further spot order may cost: free margin without unrealised profit."""
        unrealised = sum((leg.held.unrealised for leg in self._linear.open_legs()), _ZERO)
        return max(_ZERO, self.available() - max(_ZERO, unrealised))

    def holdings(self, coin: str) -> Decimal:
        """Return the amount of a base coin that is owned."""
        return sum(
            (leg.held.qty for leg in self._spot.open_legs() if split_symbol(leg.symbol)[0] == coin), _ZERO
        )

    def fund_spot(self) -> None:
        """Move cash between the ledgers, so that spot holds the cost of its open buys within the free funds.

        Fees are added because the paper exchange charges them in quote currency; the account swaps them into
        base coin.
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

    # -- balances -------------------------------------------------------------------------------------------

    def balances(self) -> list[Balance]:
        """Return USDT and every owned coin."""
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
        coins = dict.fromkeys(split_symbol(leg.symbol)[0] for leg in self._spot.open_legs())
        return [settled, *(self.coin(coin) for coin in coins)]

    def coin(self, coin: str) -> Balance:
        """Return the balance of a coin other than USDT, owned or not."""
        owned = self.holdings(coin)
        value = sum(
            (
                leg.held.qty * leg.held.mark_decimal
                for leg in self._spot.open_legs()
                if split_symbol(leg.symbol)[0] == coin
            ),
            _ZERO,
        )
        return Balance(coin, owned, owned, value, self.locked(coin))

    def _resting(self, category: str) -> list[SandboxOrder]:
        return [
            order for order in self._open.values() if order.category == category and not order.conditional
        ]
