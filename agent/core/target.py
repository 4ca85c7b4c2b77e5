"""Targets: the exposures that strategies want, and their validation."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from math import isfinite
from numbers import Real
from typing import Any, Final, NamedTuple

from agent.core.durations import parse_duration
from agent.core.events import TimeInForce

MAX_LEVELS: Final = 4
"""Most take-profit levels of a target: with those that they replace, they stay within a venue's limit."""

TakeProfit = float | Sequence[tuple[float, float]]
"""A distance, or several levels of (distance, share of the position)."""

_HIGHEST_PROFIT: Final = 10.0
"""From this fraction on, the take-profit of a long is taken for an absolute price."""


class Target(NamedTuple):
    """The exposure that a strategy wants in one symbol, set by `Strategy.target`.

    Distances are signed fractions of the entry's price: `limit`, else `stop_entry`, else the last price.
    """

    symbol: str
    # signed fraction of equity; 0 is flat, negative is short. With `qty` or `risk` only its sign counts
    weight: float
    limit: float | None = None  # limit price of the entry; None sends a market order
    stop: float | None = None  # distance of the stop
    take_profit: float | None = None  # distance of the take-profit
    tif: TimeInForce = TimeInForce.GTC
    reason: str = ""
    qty: Decimal | None = None  # absolute position to hold, instead of a weight; not negative
    risk: float | None = None  # fraction of equity that is lost at the stop, instead of a weight
    trail: float | None = None  # distance of the trailing stop
    loosen: bool = False  # whether `trail` may replace a tighter one
    levels: tuple[tuple[float, float], ...] = ()  # take-profits: distance and share, nearest first
    stop_entry: float | None = None  # price at which the entry is triggered
    expire: int | None = None  # ms after which the entry is cancelled

    @property
    def anchor(self) -> float | None:
        """The price that distances refer to; None if it is the last price."""
        return self.stop_entry if self.limit is None else self.limit

    @property
    def protects(self) -> bool:
        """True if there is a stop, a trailing stop or a take-profit."""
        return (
            self.stop is not None
            or self.take_profit is not None
            or self.trail is not None
            or bool(self.levels)
        )


def plain_target(symbol: str, weight: float, tif: TimeInForce, reason: str, loosen: object) -> Target:
    """Return a target that is a weight, which must be finite."""
    # A NamedTuple's own constructor takes three times as long
    return tuple.__new__(
        Target,
        (symbol, weight, *_NOTHING, tif, reason, None, None, None, bool(loosen), (), None, None),
    )


_NOTHING: Final = (None, None, None)  # no limit, stop or take-profit


def checked_target(
    symbol: str,
    weight: Any,
    *,
    limit: Any = None,
    stop: Any = None,
    take_profit: Any = None,
    tif: TimeInForce = TimeInForce.GTC,
    reason: str = "",
    qty: Any = None,
    risk: Any = None,
    trail: Any = None,
    loosen: bool = False,
    stop_entry: Any = None,
    expire: Any = None,
) -> Target:
    """Return a target whose numbers are plausible; see `Strategy.target`. Raises ValueError or TypeError."""
    sizes = [name for name, value in (("weight", weight), ("qty", qty), ("risk", risk)) if value is not None]
    if not sizes:
        raise TypeError("weight=None is not a number: give one of weight, qty and risk")
    if len(sizes) > 1:
        raise TypeError(f"{' and '.join(sizes)} are given: give one of weight, qty and risk")
    exact_stop = _optional(stop, "stop")
    exact_qty = None if qty is None else _decimal(qty)
    exact_risk = _optional(risk, "risk")
    if exact_risk is not None:
        if not 0 < exact_risk < 1:
            raise ValueError(f"risk={exact_risk:g} is not a fraction of the equity between 0 and 1")
        if not exact_stop:
            raise ValueError(f"risk={exact_risk:g} needs a stop: the size follows from its distance")
        exact_weight = 1.0 if exact_stop < 0 else -1.0
    elif exact_qty is not None:
        exact_weight = float((exact_qty > 0) - (exact_qty < 0))
        exact_qty = abs(exact_qty)
    else:
        exact_weight = number_of(weight, "weight")
    levels: tuple[tuple[float, float], ...] = ()
    if isinstance(take_profit, (list, tuple)):
        levels, take_profit = _levels(take_profit), None
        if levels and len(levels) == 1 and levels[0][1] == 1:
            take_profit, levels = levels[0][0], ()
    target = Target(
        symbol,
        exact_weight,
        _price(limit, "limit"),
        exact_stop,
        _optional(take_profit, "take_profit"),
        tif,
        reason,
        exact_qty,
        exact_risk,
        _optional(trail, "trail"),
        bool(loosen),
        levels,
        _price(stop_entry, "stop_entry"),
        None if expire is None else _duration(expire),
    )
    if target.expire is not None and target.anchor is None:
        raise ValueError("expire needs a limit or a stop_entry: a market order does not wait")
    _check_distances(target)
    return target


def _check_distances(target: Target) -> None:
    """Raise ValueError if a distance is an absolute price, or on the wrong side."""
    side = "short" if target.weight < 0 else "long"
    distances = [
        ("stop", target.stop, -1),
        ("trail", target.trail, -1),
        ("take_profit", target.take_profit, 1),
    ]
    distances += [("take_profit", distance, 1) for distance, _ in target.levels]
    for name, fraction, sign in distances:
        if fraction is None:
            continue
        if abs(fraction) >= (_HIGHEST_PROFIT if name == "take_profit" and side == "long" else 1):
            where = "below" if sign < 0 else "above"
            raise ValueError(
                f"{name}={fraction:g} is not a fraction of the price: write {sign * 0.02:+g} for 2 % "
                f"{where} a long's price"
            )
        sign = -sign if side == "short" else sign
        if target.weight and fraction * sign <= 0:
            where = "above" if sign > 0 else "below"
            raise ValueError(
                f"{name}={fraction:g} is on the wrong side of a {side}: a {side}'s {name} is {where} 0"
            )


def _levels(given: Sequence[Any]) -> tuple[tuple[float, float], ...]:
    """Return take-profit levels (distance, share), nearest first."""
    levels = []
    for level in given:
        if not isinstance(level, (list, tuple)) or len(level) != 2:
            raise TypeError(f"take_profit level {level!r} is not a pair (distance, share of the position)")
        distance, share = number_of(level[0], "take_profit"), number_of(level[1], "share")
        if not 0 < share <= 1:
            raise ValueError(f"share={share:g} of a take_profit level is not between 0 and 1")
        levels.append((distance, share))
    levels.sort(key=lambda level: abs(level[0]))
    if not 0 < len(levels) <= MAX_LEVELS:
        raise ValueError(f"take_profit has {len(levels)} levels instead of 1 to {MAX_LEVELS}")
    if len({distance for distance, _ in levels}) < len(levels):
        raise ValueError("two take_profit levels have the same distance")
    if sum(Decimal(repr(share)) for _, share in levels) > 1:
        raise ValueError("the shares of the take_profit levels are more than 1 together")
    return tuple(levels)


def number_of(value: Any, name: str) -> float:
    """Convert a number to float. Raises TypeError for texts and booleans, ValueError if it is not finite."""
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"{name}={value!r} is not a number")
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"{name}={value!r} is not finite")
    return number


def _optional(value: Any, name: str) -> float | None:
    return None if value is None else number_of(value, name)


def _decimal(value: Any) -> Decimal:
    """Convert a quantity to Decimal: a float as it prints, a Decimal exactly."""
    number = number_of(value, "qty")
    return value if isinstance(value, Decimal) else Decimal(repr(number))


def _price(value: Any, name: str) -> float | None:
    if value is None:
        return None
    price = number_of(value, name)
    if price <= 0:
        raise ValueError(f"{name}={value!r} is not a price: it must be above 0")
    return price


def _duration(value: Any) -> int:
    """Return a duration such as "15m", or a number of ms, in ms."""
    duration = parse_duration(value)
    if duration <= 0:
        raise ValueError(f"expire={value!r} is not above 0")
    return duration
