"""Executions of a venue as events for the core."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from agent.core.events import Fill, FillKind, FundingSettlement, Side
from agent.live.gateway.venue_port import Execution, ExecutionKind

_ZERO: Final = Decimal(0)


def fills_of(execution: Execution, now: int, *, order_id: str = "") -> Iterator[Fill]:
    """Yield a trade with its fee in quote currency; a fee in base coin is a second fill at the same price.

    A fee in a third coin is not in the ledger. `now` is UTC ms; `order_id` replaces the execution's order.
    """
    e = execution
    order = order_id or e.order_name
    in_base = bool(e.fee_coin) and e.symbol.startswith(e.fee_coin)
    in_quote = not e.fee_coin or e.symbol.endswith(e.fee_coin)
    fee = e.fee * e.price if in_base else e.fee if in_quote else _ZERO
    kind = FillKind.LIQUIDATION if e.kind is ExecutionKind.LIQUIDATION else FillKind.TRADE
    yield Fill(e.id, order, e.symbol, e.ts, now, e.side, e.qty, e.price, fee, e.maker, kind=kind)
    if in_base and e.fee:
        side, reason = Side.SELL if e.fee > 0 else Side.BUY, "the fee was taken in base coin"
        id, kind = f"{e.id}.fee", FillKind.FEE
        yield Fill(id, order, e.symbol, e.ts, now, side, abs(e.fee), e.price, _ZERO, kind=kind, reason=reason)


def settlement_of(execution: Execution, now: int) -> FundingSettlement:
    """Return a funding execution as the core books it: signed quantity, amount received (negative: paid)."""
    e = execution
    return FundingSettlement(e.id, e.symbol, e.ts, now, e.rate, e.side.sign * e.qty, e.price, -e.fee)
