"""Sizing: computes the order that reaches a target exposure."""

from __future__ import annotations

from decimal import Decimal
from math import inf
from typing import Final

from agent.core.decimals import exact
from agent.core.events import Side
from agent.core.instruments import Instrument
from agent.core.protection import Protection
from agent.core.target import Target

_ZERO: Final = Decimal(0)
_BUY: Final = Side.BUY
_SELL: Final = Side.SELL
_UNPROTECTED: Final = Protection()
_MAX_LOTS: Final = 1e15  # keeps absurd targets finite; the risk limits refuse them


class Sizing:
    """The order for a target. Quantities are in base coin or shares, prices in quote currency."""

    def __init__(
        self,
        side: Side,
        qty: Decimal,
        reduces: bool,
        position_after: Decimal,
        limit: Decimal | None,
        trigger: Decimal | None,
        protection: Protection,
    ) -> None:
        self.side = side
        self.qty = qty
        self.reduces = reduces  # True if the order only shrinks the position
        self.position_after = position_after
        self.limit = limit
        self.trigger = trigger  # of a stop entry
        self.protection = protection  # to attach to the entry; empty if the order reduces


def size(
    target: Target,
    instrument: Instrument,
    held: Decimal,
    mark: float,
    equity: float,
    band: float,
    most: float = inf,
) -> Sizing | None:
    """Return the order for `target`; None if the position is within `band`, a fraction of the target, of it,
    or equals the quantity that it states.

    The position aimed at is weight * equity / price, the target's quantity, or for a target by risk
    risk * equity / distance of the stop, at most of the value `most`; rounded down to the lot. The price is
    the limit, else the trigger of a stop entry, else the mark. Distances are signed fractions of the same
    price.
    """
    wanted = _ZERO
    if target.qty is not None:
        wanted = instrument.round_qty(target.qty) if target.weight > 0 else -instrument.round_qty(target.qty)
    elif target.weight and equity > 0 and (price := _price_of(target, mark)) > 0:
        if target.risk is not None:
            units = min(_units_at_risk(target, instrument, mark, equity), most / price)
        else:
            units = abs(target.weight) * equity / price
        lots = int(min(units / instrument.lot, _MAX_LOTS) + 1e-9)
        wanted = lots * instrument.qty_step if target.weight > 0 else -lots * instrument.qty_step
    if wanted < _ZERO and not instrument.is_margined:
        wanted = _ZERO  # short sales need margin
    delta = wanted - held
    # A fee in base coin leaves less than a lot, which no order can sell
    if held and delta % instrument.qty_step:
        delta = instrument.round_qty(delta)
    if not delta:
        return None
    same_side = bool(wanted and held) and (wanted > _ZERO) == (held > _ZERO)
    # A weight drifts with the price, a quantity doesn't
    if same_side and target.qty is None and abs(delta) < abs(wanted) * Decimal(repr(band)):
        return None
    side, opposite = (_BUY, _SELL) if delta > _ZERO else (_SELL, _BUY)
    reduces = not wanted or (same_side and abs(wanted) < abs(held))

    protection = _UNPROTECTED if reduces else protection_of(target, instrument, mark, opposite)
    limit = _rounded(target.limit, instrument, side)
    trigger = entry_trigger(target, instrument, side, mark)
    return Sizing(side, abs(delta), reduces, held + delta, limit, trigger, protection)


def _price_of(target: Target, mark: float) -> float:
    """Return the price that the target's distances and its quantity refer to."""
    anchor = target.anchor
    return mark if anchor is None else anchor


def _units_at_risk(target: Target, instrument: Instrument, mark: float, equity: float) -> float:
    """Return the quantity whose loss from the entry's price to the stop is the fraction of `equity`."""
    side = _SELL if target.weight > 0 else _BUY
    stop = protection_of(target, instrument, mark, side).stop
    price = exact(_price_of(target, mark))
    distance = abs(price - stop) if stop is not None else _ZERO
    return (target.risk or 0.0) * equity / float(distance) if distance else 0.0


def limit_of(target: Target, instrument: Instrument, side: Side) -> float:
    """Return the limit price of an order on `side` for the target, on the tick; 0.0 if it has no limit."""
    limit = _rounded(target.limit, instrument, side)
    return 0.0 if limit is None else float(limit)


def entry_trigger(target: Target, instrument: Instrument, side: Side, mark: float) -> Decimal | None:
    """Return the trigger of a stop entry on the tick; None without one, and if the mark has reached it."""
    trigger = target.stop_entry
    if trigger is None or (mark >= trigger if side is _BUY else mark <= trigger):
        return None
    return instrument.round_price(exact(trigger), side)


def _rounded(limit: float | None, instrument: Instrument, side: Side) -> Decimal | None:
    """Round a limit to the tick, in the trader's favour."""
    opposite = _SELL if side is _BUY else _BUY
    return None if limit is None else instrument.round_price(exact(limit), opposite)


def protection_of(target: Target, instrument: Instrument, mark: float, side: Side) -> Protection:
    """Return triggers and distances of the target's protection; `side` is that of the protective orders."""
    if not target.protects:
        return _UNPROTECTED
    price = exact(_price_of(target, mark))
    trail: Decimal | None = None
    if target.trail is not None:
        ticks = price * abs(Decimal(repr(target.trail))) / instrument.tick_size
        trail = max(ticks.to_integral_value(), Decimal(1)) * instrument.tick_size
    levels: tuple[tuple[Decimal, Decimal], ...] = ()
    if target.levels:
        levels = tuple(
            (_trigger(price, distance, instrument, side), Decimal(repr(share)))
            for distance, share in target.levels
        )
    return Protection(
        None if target.stop is None else _trigger(price, target.stop, instrument, side),
        None if target.take_profit is None else _trigger(price, target.take_profit, instrument, side),
        trail,
        levels,
    )


def _trigger(price: Decimal, distance: float, instrument: Instrument, side: Side) -> Decimal:
    """Return the price at a signed fraction of `price`, on the tick."""
    exact = price * (1 + Decimal(repr(float(distance))))
    return max(instrument.round_price(exact, side), instrument.tick_size)
