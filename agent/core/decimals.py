"""Floats as the decimals that they print as: prices enter the ledger that way."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

_PLACES: Final = 4
_UNITS: Final = tuple(Decimal(1).scaleb(-places) for places in range(_PLACES + 1))
_LARGEST: Final = 1e10  # below it, a number of so many places has at most 15 digits


def exact(number: float) -> Decimal:
    """Return `Decimal(repr(number))`, which takes five times as long for a price of up to four places.

    At most 15 digits survive the way to a float and back, so the decimal that reads as `number` and has no
    more of them is the one that `number` prints as; its last zeros but one behind the point are not printed.
    """
    if 0.0 < number < _LARGEST:
        units = int(number * 10_000.0 + 0.5)
        if units / 10_000 == number:
            places = _PLACES
            while places > 1 and units % 10 == 0:
                units //= 10
                places -= 1
            return units * _UNITS[places]
    return Decimal(repr(number))
