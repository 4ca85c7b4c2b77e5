"""Executions and closed profits of the account, and the interface of a listener to account changes."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from agent.core.events import Fill, Side
from agent.core.instruments import Instrument
from agent.sandbox.category_book import Leg
from agent.sandbox.sandbox_order import SandboxOrder

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class AccountExecution:
    """One execution or funding payment. `fee` is in `fee_coin` and positive if paid. `closed` is the part
    of `qty` that reduced the position, with the profit `pnl`.
    """

    order: SandboxOrder | None
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
    """Profit of a fill that closed a position or a part of it; `pnl` is net of opening and closing fees."""

    order: SandboxOrder
    qty: Decimal
    entry: Decimal
    exit: Decimal
    pnl: Decimal
    open_fee: Decimal
    close_fee: Decimal
    leverage: Decimal
    time: int


def split_fill(fill: Fill, rules: Instrument, number: int) -> Iterator[Decimal]:
    """Split a fill into at most `number` executions: clients must not rely on one execution per fill."""
    part = rules.round_qty(fill.qty / number)
    reported = part * (number - 1)
    if part:
        yield from [part] * (number - 1)
    yield fill.qty - reported


class AccountListener(Protocol):
    """Receives the changes of an account. The private WebSocket implements it."""

    def on_order(self, order: SandboxOrder) -> None: ...

    def on_execution(self, execution: AccountExecution) -> None:
        """Called for each execution and funding payment."""
        ...

    def on_position(self, leg: Leg) -> None:
        """Called after a position or one of its orders has changed."""
        ...

    def on_wallet(self) -> None: ...
