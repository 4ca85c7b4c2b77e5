"""Which of a file's columns is the volume in coins or shares, and which the turnover in quote currency.

Exchanges write the volume of derivatives in contracts, or swap the two columns. Prices tell them apart: the
turnover of a bar, divided by its volume, is an average of its prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Pairs of (volume, turnover), the usual one first: as named; contracts beside coins; OKX's spot files without
# `volCcyQuote`; inverse contracts, whose volume is in quote currency and whose turnover is in coins
_PAIRS: Final = (("volume", "turnover"), ("coins", "turnover"), ("volume", "coins"), ("turnover", "volume"))
_ROUNDING: Final = 0.01  # of a price
_LEAST_SHARE: Final = 0.5  # of the bars with volume


def find_volume_columns(
    columns: Mapping[str, Floats], low: Floats, high: Floats
) -> tuple[str, str | None, bool]:
    """Return the keys of `columns` that hold volume and turnover, and whether the prices agree with them.

    The keys of `columns` are `volume` and any of `coins` (the volume in coins that the file states beside
    another one) and `turnover`. All arrays have the shape (bars,).
    """
    for volume, turnover in _PAIRS:
        if {volume, turnover} <= columns.keys() and _fits(columns[volume], columns[turnover], low, high):
            return volume, turnover, True
    volume, turnover = "coins" if "coins" in columns else "volume", "turnover"
    return volume, turnover if turnover in columns else None, turnover not in columns


def _fits(volume: Floats, turnover: Floats, low: Floats, high: Floats) -> bool:
    traded = (volume > 0) & (turnover > 0)
    if not traded.any():
        return True
    average = turnover[traded] / volume[traded]
    inside = (average >= low[traded] * (1 - _ROUNDING)) & (average <= high[traded] * (1 + _ROUNDING))
    return bool(inside.mean() >= _LEAST_SHARE)
