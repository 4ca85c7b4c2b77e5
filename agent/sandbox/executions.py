"""What has been executed: fills in the parts that clients hear of, funding, and the profit of what was closed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from agent.core.events import Fill, Side
from agent.core.instruments import Instrument
from agent.sandbox.orders import VenueOrder

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution or funding payment. `fee` is in `fee_coin`, positive if paid; `closed` of `qty` reduced the position, for `pnl`."""

    order: VenueOrder | None
    category: str
    symbol: str
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal
    fee_rate: Decimal
    fee_coin: str
    time: int
    mark: Decimal
    kind: str = "Trade"
    maker: bool = False
    closed: Decimal = _ZERO
    pnl: Decimal = _ZERO
    leaves: Decimal = _ZERO
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


@dataclass(frozen=True, slots=True)
class ClosedProfit:
    """What a fill that closed something has earned: `pnl` is after the fees of both ends."""

    order: VenueOrder
    qty: Decimal
    entry: Decimal
    exit: Decimal
    pnl: Decimal
    open_fee: Decimal
    close_fee: Decimal
    leverage: Decimal
    time: int


def parts(fill: Fill, rules: Instrument, number: int) -> Iterator[Decimal]:
    """The quantities of the executions that one fill is told in: a client must not count on one."""
    part = rules.round_qty(fill.qty / number)
    told = part * (number - 1)
    if part:
        yield from [part] * (number - 1)
    yield fill.qty - told
