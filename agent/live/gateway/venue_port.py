"""Interface of a venue, and its errors, named by what the caller has to do.

PortError
├─ OutcomeUnknown        no usable response: the request may have been carried out; query by client id
├─ OrderRejected         not carried out; the same request would be rejected again
│  ├─ Duplicate          an order with this client id exists
│  └─ OrderNotFound      the order is unknown, or has ended
├─ RateLimited           not carried out; repeat it after `wait` seconds
├─ ClockSkewError        not carried out: the request's timestamp was outside the venue's window
└─ AuthenticationError   not carried out: key, signature, permissions or IP address are wrong

An implementation has no policy: it doesn't retry, and waits only to keep to the venue's rate limits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import Enum
from typing import Literal, NamedTuple, Never, Protocol

import msgspec

from agent.core.errors import VenueError
from agent.core.events import Order, OrderStatus, OrderType, Side

# -- errors --------------------------------------------------------------------------------------------------


class PortError(VenueError):
    """Base class. `code` is the venue's return code; 0 without one."""

    def __init__(self, message: str, *, code: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class OutcomeUnknown(PortError):
    """It is not known whether the request was carried out. A query can simply be repeated."""


class OrderRejected(PortError):
    """Not carried out; the same request would be rejected again."""


class Duplicate(OrderRejected):
    """An order with this client id exists: usually this one, which had arrived before."""


class OrderNotFound(OrderRejected):
    """The order to amend or cancel is unknown, or has ended."""


class RateLimited(PortError):
    """Not carried out because of a rate limit; repeat it after `wait` seconds.

    `banned`: send no request at all until then.
    """

    def __init__(self, message: str, wait: float, *, code: int = 0, banned: bool = False) -> None:
        super().__init__(message, code=code)
        self.wait = wait
        self.banned = banned


class ClockSkewError(PortError):
    """Not carried out: synchronise the clock, then repeat it."""


class AuthenticationError(PortError):
    """Not carried out, and no request with these keys will be."""


# -- messages ------------------------------------------------------------------------------------------------


class VenueOrder(msgspec.Struct, frozen=True):
    """An order as the venue has it. `client_id` is empty if it was placed by hand or by the venue itself."""

    id: str
    client_id: str
    symbol: str
    side: Side
    type: OrderType
    status: OrderStatus
    qty: Decimal
    filled: Decimal
    price: Decimal | None = None
    trigger: Decimal | None = None
    reduce_only: bool = False
    reason: str = ""
    created: int = 0  # UTC ms
    updated: int = 0
    # the venue made it for the trailing stop of a position
    trailing: bool = False
    trail: Decimal = Decimal(0)  # distance of a trailing stop that follows the price

    @property
    def name(self) -> str:
        """The core's id of it."""
        return self.client_id or self.id


class ExecutionKind(str, Enum):
    """Why the account has changed."""

    TRADE = "TRADE"
    FUNDING = "FUNDING"
    LIQUIDATION = "LIQUIDATION"  # and auto-deleveraging: the venue's own trade
    # e.g. a settlement of profit or a transfer of a position: it can't be booked as a trade
    UNKNOWN = "UNKNOWN"


class Execution(msgspec.Struct, frozen=True):
    """One execution.

    For funding, `fee` is the amount paid (negative: received), `rate` the funding rate, `qty` and `side` the
    position's.
    """

    id: str  # unique at the venue
    order_id: str  # the venue's
    client_id: str
    symbol: str
    ts: int  # UTC ms
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal
    fee_coin: str
    maker: bool = False
    kind: ExecutionKind = ExecutionKind.TRADE
    rate: Decimal = Decimal(0)
    venue_kind: str = ""  # as the venue writes it
    trailing: bool = False  # its order is of the trailing stop of a position

    @property
    def order_name(self) -> str:
        """The core's id of its order."""
        return self.client_id or self.order_id


class VenuePosition(msgspec.Struct, frozen=True):
    """A position of derivatives: signed quantity (0: flat) and average entry price."""

    symbol: str
    qty: Decimal
    entry: Decimal
    trail: Decimal = Decimal(0)  # distance of its trailing stop; 0 without one


class Wallet(msgspec.Struct, frozen=True):
    """Balance by coin, without unrealised profit."""

    balances: dict[str, Decimal]


PrivateMessage = VenueOrder | Execution | VenuePosition | Wallet
"""A message of the private stream. Messages come in any order, and may be repeated or missing."""


class VenueRules(NamedTuple):
    """Trading rules that the venue enforces for a symbol."""

    tick_size: Decimal
    qty_step: Decimal
    min_qty: Decimal
    min_notional: Decimal


class OrderRef(NamedTuple):
    """Names an order by our id, or by the venue's if it has none of ours."""

    symbol: str
    client_id: str = ""
    id: str = ""


PositionMode = Literal["one-way", "hedge"]


# -- the port ------------------------------------------------------------------------------------------------


class VenuePort(Protocol):
    """One account in one category. Every method raises PortError; times are UTC ms by the venue's clock."""

    async def server_time(self) -> int:
        """Return the venue's time. This method and `rules` need no keys."""
        ...

    def correct_clock(self, skew: int) -> None:
        """Stamp requests with our clock plus `skew` ms from now on."""
        ...

    async def rules(self, symbols: Sequence[str]) -> dict[str, VenueRules]:
        """Return the trading rules of those symbols that the venue lists."""
        ...

    async def create(self, order: Order) -> str:
        """Place an order under its own id; return the venue's id.

        A report follows once the order is on the book. Its protection (`stop`, `take_profit`) is not sent:
        the core places separate orders for it. A trailing stop is not an order: see `set_trailing_stop`.
        """
        ...

    async def set_trailing_stop(self, symbol: str, distance: Decimal) -> None:
        """Let a stop of the whole position follow the best price from now on; 0 removes it.

        The one that is set at this distance already stays as it is. Raises OrderNotFound without a position.
        """
        ...

    async def find_trailing_stop(self, symbol: str, since: int) -> VenueOrder | None:
        """Return the trailing stop of the position, or the newest order that one has made since then.

        `since` is in UTC ms. None does not prove that it has none, since the venue's views lag.
        """
        ...

    async def amend(
        self, order: OrderRef, *, qty: Decimal | None = None, price: Decimal | None = None
    ) -> None:
        """Change quantity or limit price of an open order. Unchanged values are not an error."""
        ...

    async def cancel(self, order: OrderRef) -> None:
        """Request the cancel of an open order. The order may be filled meanwhile; a report follows."""
        ...

    async def cancel_all(self, symbol: str) -> None:
        """Cancel all open orders of a symbol, including conditional ones, and remove a trailing stop."""
        ...

    async def find(self, order: OrderRef) -> VenueOrder | None:
        """Return an order, open or ended.

        None does not prove that the order is missing, since the venue's views lag.
        """
        ...

    async def open_orders(self) -> list[VenueOrder]:
        """Return all open orders, including conditional ones."""
        ...

    async def executions(self, since: int) -> list[Execution]:
        """Return all executions since then (inclusive), oldest first, including funding."""
        ...

    async def positions(self) -> list[VenuePosition]:
        """Return all open positions; empty on spot, whose holdings are in the wallet."""
        ...

    async def wallet(self) -> Wallet:
        """Return all balances."""
        ...

    async def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        """Set the leverage of both sides, unless it is set already."""
        ...

    async def position_mode(self, symbol: str) -> PositionMode:
        """Return whether a symbol has one position, or a long and a short one."""
        ...

    async def use_one_way(self, symbol: str) -> None:
        """Switch to one-way mode, unless it is set already. Rejected while there are positions or orders."""
        ...

    async def stream(
        self, on_message: Callable[[PrivateMessage], None], on_connected: Callable[[], None]
    ) -> Never:
        """Read the private stream. `on_connected` is called once it is authenticated and subscribed.

        Raises OutcomeUnknown if the connection is lost, RateLimited or AuthenticationError if it is refused.
        """
        ...

    async def close(self) -> None:
        """Close connections. May be called twice."""
        ...
