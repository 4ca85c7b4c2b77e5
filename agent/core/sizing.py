"""Sizing: computes the order that reaches a target exposure."""

from __future__ import annotations

from decimal import Decimal
from typing import Final, NamedTuple

from agent.core.events import Side
from agent.core.instruments import Instrument
from agent.core.strategy import Target

_ZERO = Decimal(0)
_MAX_LOTS: Final = 1e15  # keeps absurd targets finite; the risk limits refuse them


class Sizing(NamedTuple):
    """The order for a target. Quantities are in base coin or shares, prices in quote currency."""

    side: Side
    qty: Decimal
    reduces: bool  # True if the order only shrinks the position
    position_after: Decimal
    limit: Decimal | None
    stop: Decimal | None
    take_profit: Decimal | None


def size(
    target: Target, instrument: Instrument, held: Decimal, mark: float, equity: float, band: float
) -> Sizing | None:
    """Return the order for `target`; None if the position is within `band`, a fraction of the target, of it.

    The position aimed at is weight * equity / price, rounded down to the lot; the price is the limit or,
    without one, the mark. Stop and take-profit are signed fractions of the same price.
    """
    price = target.limit if target.limit is not None else mark
    wanted = _ZERO
    if target.weight and equity > 0 and price > 0:
        lots = int(min(abs(target.weight) * equity / price / float(instrument.qty_step), _MAX_LOTS) + 1e-9)
        wanted = lots * instrument.qty_step if target.weight > 0 else -lots * instrument.qty_step
    if wanted < 0 and not instrument.is_margined:
        wanted = _ZERO  # short sales need margin
    delta = wanted - held
    if delta % instrument.qty_step:  # a fee in base coin leaves less than a lot, which no order can sell
        delta = instrument.round_qty(delta)
    same_side = wanted * held > 0
    if not delta or (same_side and abs(delta) < abs(wanted) * Decimal(repr(band))):
        return None
    side = Side.BUY if delta > 0 else Side.SELL
    opposite = Side.SELL if side is Side.BUY else Side.BUY
    reduces = abs(wanted) < abs(held) and (same_side or not wanted)

    stop, take_profit = (None, None) if reduces else triggers(target, instrument, mark, opposite)
    limit = _rounded(target.limit, instrument, side)
    return Sizing(side, abs(delta), reduces, held + delta, limit, stop, take_profit)


def limit_of(target: Target, instrument: Instrument, side: Side) -> float:
    """Return the limit price of an order on `side` for the target, on the tick; 0.0 if it has no limit."""
    limit = _rounded(target.limit, instrument, side)
    return 0.0 if limit is None else float(limit)


def _rounded(limit: float | None, instrument: Instrument, side: Side) -> Decimal | None:
    """Round a limit to the tick, in the trader's favour."""
    opposite = Side.SELL if side is Side.BUY else Side.BUY
    return None if limit is None else instrument.round_price(Decimal(repr(float(limit))), opposite)


def triggers(
    target: Target, instrument: Instrument, mark: float, side: Side
) -> tuple[Decimal | None, Decimal | None]:
    """Return the trigger prices of stop and take-profit; `side` is the side of the protective orders."""
    price = target.limit if target.limit is not None else mark
    levels: list[Decimal | None] = []
    for fraction in (target.stop, target.take_profit):
        if fraction is None:
            levels.append(None)
        else:
            exact = Decimal(repr(float(price))) * (1 + Decimal(repr(float(fraction))))
            levels.append(max(instrument.round_price(exact, side), instrument.tick_size))
    return levels[0], levels[1]
