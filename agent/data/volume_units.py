"""Which of a file's columns is the volume in coins or shares, and which the turnover in quote currency.

Exchanges write the volume of derivatives in contracts, or swap the two columns. Prices distinguish them: the
turnover of a bar, divided by its volume, is an average of its prices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.data.columns import Table, to_floats

Floats = NDArray[np.float64]

# Pairs of (volume, turnover), the usual one first: as named; contracts beside coins; OKX's spot files without
# `volCcyQuote`; inverse contracts, whose volume is in quote currency and whose turnover is in coins
_PAIRS: Final = (("volume", "turnover"), ("coins", "turnover"), ("volume", "coins"), ("turnover", "volume"))
_ROUNDING: Final = 0.01  # of a price
_LEAST_SHARE: Final = 0.5  # of the bars with volume


def pick_volume(table: Table, columns: dict[str, str]) -> list[str]:
    """Set `volume` (coins or shares) and `turnover` (quote currency) to the columns that hold them.

    `columns` maps canonical names to those in the file: `low`, `high`, `volume`, and any of `turnover` and
    `coins`, the volume in coins that some files state beside another one. The first batch decides. Returns
    notes on a volume that is another column than usual, or that the turnover contradicts.
    """
    names = {key: name for key, name in columns.items() if key in ("volume", "coins", "turnover")}
    prices = {key: columns[key] for key in ("low", "high")}
    row, batch = next(table.batches(prices | names), (1, {})) if len(names) > 1 else (1, {})
    if not batch:
        return []
    values = {key: to_floats(batch[key], table.path, columns[key], row) for key in batch}
    volume, turnover, agrees = _find(values, values.pop("low"), values.pop("high"))
    columns["volume"] = names[volume]
    if turnover is not None:
        columns["turnover"] = names[turnover]
    notes = []
    if volume != "volume":
        notes.append(f"the volume is column {names[volume]}: column {names['volume']} is not in coins")
    if not agrees:
        product = f"column {columns['turnover']} is not {columns['volume']} times the price"
        notes.append(f"{product}: one of them may be in contracts, lots or percent")
    return notes


def _find(columns: Mapping[str, Floats], low: Floats, high: Floats) -> tuple[str, str | None, bool]:
    """Return the keys of `columns` that hold volume and turnover, and whether the prices agree with them.

    All arrays have the shape (bars,).
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
