"""The venue as the gateway needs it, and what can go wrong there, named by what follows from it.

PortError
├─ OutcomeUnknown    no answer, or one that says nothing: a request to change something may have been carried out; ask by client id
├─ Refused           carried out it was not, and the same request will not be
│  ├─ Duplicate      an order with this client id exists
│  └─ OrderNotFound    the order is unknown, or has ended
├─ RateLimited          not carried out; the same request may be made after `wait` seconds
├─ ClockSkewError          not carried out: the request's time was outside the venue's window
└─ AuthenticationError       not carried out: the key, its signature, its rights or its network are wrong; a person must mend it

An implementation has no policy: it doesn't retry, and it doesn't wait except for what the venue's own limits ask.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from enum import Enum
from typing import Literal, NamedTuple, Never, Protocol

import msgspec

from agent.core.errors import VenueError
from agent.core.events import Order, OrderStatus, OrderType, Side

# -- what can go wrong ------------------------------------------------------------------------------------------------


class PortError(VenueError):
    """The root. Codes are the venue's own; 0 where it named none."""

    def __init__(self, message: str, *, code: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


class OutcomeUnknown(PortError):
    """Whether it was carried out isn't known. After a mere query nothing follows from it but to ask again."""


class OrderRejected(PortError):
    """It was not carried out, and asking again would be in vain."""


class Duplicate(OrderRejected):
    """The client id is taken: the order had arrived before."""


class OrderNotFound(OrderRejected):
    """The order to amend or cancel is unknown, or has ended."""


class RateLimited(PortError):
    """Not carried out, because too much was asked; the same again in `wait` seconds. `banned`: everything must be silent so long."""

    def __init__(self, message: str, wait: float, *, code: int = 0, banned: bool = False) -> None:
        super().__init__(message, code=code)
        self.wait = wait
        self.banned = banned


class ClockSkewError(PortError):
    """Not carried out: measure the venue's time, correct the clock, and ask again."""


class AuthenticationError(PortError):
    """Not carried out, nor will anything be with these keys."""


# -- what the venue tells ----------------------------------------------------------------------------------------------


class VenueOrder(msgspec.Struct, frozen=True):
    """An order as the venue has it. `client_id` is empty for one that was placed without: by hand, or by the venue itself."""

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

    @property
    def name(self) -> str:
        """What the core knows it by."""
        return self.client_id or self.id


class ExecutionKind(str, Enum):
    """Why the account changed."""

    TRADE = "TRADE"
    FUNDING = "FUNDING"
    LIQUIDATION = "LIQUIDATION"  # and auto-deleveraging: the venue's own trade
    # a settlement of profit, a transfer of a position, whatever comes next: no trade that can be booked
    UNKNOWN = "UNKNOWN"


class Execution(msgspec.Struct, frozen=True):
    """One execution. Of funding, `fee` is what was paid (negative: received), `rate` its rate, `qty` and `side` the position's."""

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

    @property
    def order_name(self) -> str:
        """What the core knows its order by."""
        return self.client_id or self.order_id


class VenuePosition(msgspec.Struct, frozen=True):
    """A position of derivatives: signed quantity (0: flat) and average entry price."""

    symbol: str
    qty: Decimal
    entry: Decimal


class Wallet(msgspec.Struct, frozen=True):
    """Coin -> balance: what was paid in, realised, and paid for fees and funding; unrealised profit is not in it."""

    balances: dict[str, Decimal]


PrivateMessage = VenueOrder | Execution | VenuePosition | Wallet
"""What the private stream tells, in any order, perhaps twice, perhaps never."""


class VenueRules(NamedTuple):
    """What the venue enforces for a symbol."""

    tick_size: Decimal
    qty_step: Decimal
    min_qty: Decimal
    min_notional: Decimal


class OrderRef(NamedTuple):
    """Names an order: by our id, or by the venue's where it has none of ours."""

    symbol: str
    client_id: str = ""
    id: str = ""


PositionMode = Literal["one-way", "hedge"]


# -- the port ----------------------------------------------------------------------------------------------------------


class VenuePort(Protocol):
    """One account in one category. Every method raises PortError; times are UTC ms, by the venue's clock."""

    async def server_time(self) -> int:
        """The venue's time. The one method that needs no keys besides `rules`."""
        ...

    def correct_clock(self, skew: int) -> None:
        """From now on requests are stamped with our clock plus `skew` ms."""
        ...

    async def rules(self, symbols: Sequence[str]) -> dict[str, VenueRules]:
        """Trading rules of those of the symbols that the venue lists."""
        ...

    async def create(self, order: Order) -> str:
        """Place an order under its own id; returns the venue's id. Accepted is not yet on the book: that is told later.

        The order's protection (`stop`, `take_profit`) is not sent along: the core places it as orders of its own.
        """
        ...

    async def amend(
        self, order: OrderRef, *, qty: Decimal | None = None, price: Decimal | None = None
    ) -> None:
        """Change quantity or limit price of an open order; a change to what it is already is no error."""
        ...

    async def cancel(self, order: OrderRef) -> None:
        """Take an open order back. Done means asked for: it may be filled meanwhile, which is told later."""
        ...

    async def cancel_all(self, symbol: str) -> None:
        """Take all open orders of a symbol back, conditional ones too."""
        ...

    async def find(self, order: OrderRef) -> VenueOrder | None:
        """An order, open or ended; None is no proof that there is none, since the venue's views lag behind."""
        ...

    async def open_orders(self) -> list[VenueOrder]:
        """All that can still be filled, conditional ones too."""
        ...

    async def executions(self, since: int) -> list[Execution]:
        """Everything since then (inclusive), oldest first, funding too."""
        ...

    async def positions(self) -> list[VenuePosition]:
        """All that aren't flat; none on spot, where what is owned stands in the wallet."""
        ...

    async def wallet(self) -> Wallet:
        """All balances."""
        ...

    async def set_leverage(self, symbol: str, leverage: Decimal) -> None:
        """For both sides; where it is so already, nothing."""
        ...

    async def position_mode(self, symbol: str) -> PositionMode:
        """Whether a symbol has one position or a long and a short one."""
        ...

    async def use_one_way(self, symbol: str) -> None:
        """Have one position a symbol; where it is so already, nothing. Refused while there are positions or orders."""
        ...

    async def stream(self, hear: Callable[[PrivateMessage], None], ready: Callable[[], None]) -> Never:
        """Listen to the private stream: `ready` is called once it is signed in and subscribed, `hear` with each message.

        Ends by an exception: OutcomeUnknown where the connection is lost, RateLimited or AuthenticationError where it was refused.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; may be called twice."""
        ...
