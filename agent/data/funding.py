"""Funding rates of perpetuals as `Funding` events: from a history file, or a constant at every stamp."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from agent.core.errors import DataError
from agent.core.events import HOUR_MS, MINUTE_MS, Funding
from agent.core.symbol_names import SYMBOL_COLUMNS, normalise, symbol_of
from agent.data.columns import Aliases, place
from agent.data.rows import Rows
from agent.system.clock import iso

COLUMNS: Final[Aliases] = {
    "ts": (
        "ts",
        "timestamp",
        "fundingRateTimestamp",
        "funding_time",
        "calc_time",
        "time",
        "date",
        "datetime",
    ),
    "symbol": SYMBOL_COLUMNS,
    "rate": ("rate", "fundingRate", "last_funding_rate"),
}
# a stamp; exchanges cap it at a few percent, so beyond this the column holds percentages
_LARGEST_RATE: Final = 0.1
_USUAL_RATE: Final = 0.003  # a stamp; a file with a median above this probably holds percentages
# of stamps on the usual venues; longer ones count only if most of a file has them
_LONGEST_DISTANCE: Final = 8 * HOUR_MS
_NEIGHBOURS: Final = 2  # distances on each side of a stretch that show whether it is a hole


class FundingFile:
    """The rates of a parquet, CSV or JSON-lines file, by time; iterate it, as often as you like.

    A rate is a fraction of the position's value per stamp (0.0001 = 0.01 %), known at its stamp. Symbols are as venues write them,
    also if the file has them as ccxt does. A file without a column `symbol` is of `symbol`, or of what its name states. The
    window is [`start`, `end`) in UTC ms. Identical duplicates are dropped and counted in `duplicates`.

    Raises DataError while iterating: no time, no rate, a rate beyond ±0.1, two rates for one stamp, no symbol.
    """

    def __init__(
        self,
        path: str | Path,
        symbol: str | None = None,
        *,
        start: int | None = None,
        end: int | None = None,
        timezone: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.symbol = symbol
        self.start, self.end = start, end
        self.duplicates = 0
        self._timezone = timezone

    def __iter__(self) -> Iterator[Funding]:
        self.duplicates = 0
        rows = Rows(
            self.path,
            COLUMNS,
            required=("ts", "rate"),
            times=("ts",),
            numbers=("rate",),
            timezone=self._timezone,
        )
        stamps, rates = rows.times["ts"], rows.numbers["rate"]
        if not stamps.all():
            raise DataError(f"{place(self.path, int(stamps.argmin()) + 1, rows.names['ts'])}: missing")
        if (wrong := ~(np.abs(rates) <= _LARGEST_RATE)).any():
            where = place(self.path, int(wrong.argmax()) + 1, rows.names["rate"])
            raise DataError(
                f"{where}: {rates[wrong.argmax()]} is no funding rate",
                hint="write fractions: 0.0001 is 0.01 %",
            )
        fallback = self.symbol or symbol_of(self.path)
        if not fallback and "symbol" not in rows.names:
            raise DataError(
                f"{self.name}: neither a column nor its name states the symbol",
                hint="name the file SYMBOL-funding.csv",
            )
        known: dict[tuple[str, int], float] = {}
        order = np.argsort(stamps, kind="stable")
        for ts, rate, row in zip(
            stamps[order].tolist(), rates[order].tolist(), rows.texts(order), strict=True
        ):
            symbol = normalise(row.get("symbol") or "") or fallback
            if not symbol:
                raise DataError(
                    f"{self.name}: the rate at {iso(ts)} has no symbol", hint="mend or remove the row"
                )
            if known.setdefault((symbol, ts), rate) != rate:
                raise DataError(
                    f"{self.name}: two funding rates of {symbol} at {iso(ts)}: {known[symbol, ts]} and {rate}"
                )
        self.duplicates = len(stamps) - len(known)
        for (symbol, ts), rate in known.items():
            if (self.start is None or ts >= self.start) and (self.end is None or ts < self.end):
                yield Funding(symbol, ts, ts, rate)


def complete(
    rates: Iterable[Funding],
    symbols: Sequence[str],
    rate: float,
    interval: int,
    start: int,
    end: int,
    *,
    name: str,
) -> tuple[list[Funding], list[str]]:
    """The `rates` of `symbols` at stamps in [`start`, `end`) (UTC ms), and notes on what they lack.

    If two stamps of a symbol are more than one and a half times as far apart as the stamps around them, the constant `rate` applies
    meanwhile, at each multiple of `interval` (ms). The distance may change in the file, as a venue changes it. Raises DataError if the
    rates have no stamp of any of `symbols` in the window; `name` is the file's.
    """
    known: dict[str, list[Funding]] = {}
    for one in rates:
        known.setdefault(one.symbol, []).append(one)
    inside = {symbol: [one for one in known.get(symbol, ()) if start <= one.ts < end] for symbol in symbols}
    if not any(inside.values()):
        found = (
            "; ".join(
                f"{symbol} from {iso(own[0].ts)} to {iso(own[-1].ts)}"
                for symbol, own in sorted(known.items())
            )
            or "none"
        )
        raise DataError(
            f"{name}: no rate of {', '.join(symbols)} between {iso(start)} and {iso(end)}; it has {found}",
            hint="name a file of these symbols and this time, or none: the constant paper.funding_rate is paid then",
        )
    completed, notes = list[Funding](), list[str]()
    for symbol, own in inside.items():
        stamps = [one.ts for one in known.get(symbol, ())]
        usual = _usual_distance(stamps) or interval
        longest = max(usual, interval, _LONGEST_DISTANCE) + MINUTE_MS
        missing: list[Funding] = []
        unpaid: list[tuple[int, int]] = []
        # the window's ends count as stamps
        for before, after in pairwise([start - 1, *(one.ts for one in own), end]):
            if own and after - before <= _distance_around(stamps, before, after, usual, longest) * 3 // 2:
                continue
            # A venue may write a stamp a little late (08:00:00.007) or early: it is still the stamp of that multiple
            first = before + (1 if before < start else MINUTE_MS)
            constant = list(
                constant_funding((symbol,), rate, interval, first, after - (0 if after == end else MINUTE_MS))
            )
            missing += constant
            if not constant:
                unpaid.append((max(before, start), after))
        if missing:
            notes.append(
                f"{name}: {len(missing):,} stamps of {symbol} have no rate ({iso(missing[0].ts)} to {iso(missing[-1].ts)}): "
                f"the constant {rate:.4%} is used"
            )
        if unpaid:
            notes.append(
                f"{name}: {symbol} has no rate in {len(unpaid):,} stretches shorter than the constant's interval (the first from "
                f"{iso(unpaid[0][0])} to {iso(unpaid[0][1])}): nothing is paid there"
            )
        if (typical := median([abs(one.rate) for one in own] or [0.0])) > _USUAL_RATE:
            notes.append(
                f"{name}: half of the rates of {symbol} are {typical:.2%} or more a stamp: are they percentages? "
                "They are read as fractions (0.0001 is 0.01 %)"
            )
        completed += [*own, *missing]
    completed.sort(key=lambda one: (one.ts, one.symbol))
    return completed, notes


def _distance_around(stamps: Sequence[int], before: int, after: int, usual: int, longest: int) -> int:
    """How far apart (ms) the sorted `stamps` next to the stretch from `before` to `after` are.

    It is the largest of the two distances on each side, so that a change from 8 to 4 hours is no hole. Distances above `longest` are
    holes themselves and don't count. Without a distance on either side it is `usual`.
    """
    past, coming = bisect_right(stamps, before), bisect_left(stamps, after)
    sides = stamps[max(past - _NEIGHBOURS - 1, 0) : past], stamps[coming : coming + _NEIGHBOURS + 1]
    return max(
        (late - early for side in sides for early, late in pairwise(side) if late - early <= longest),
        default=usual,
    )


def _usual_distance(stamps: Sequence[int]) -> int:
    """The commonest distance of neighbours (ms, to the minute); 0 with fewer than two stamps."""
    steps = Counter(round((after - before) / MINUTE_MS) * MINUTE_MS for before, after in pairwise(stamps))
    return min(steps, key=lambda step: (-steps[step], step)) if steps else 0


def constant_funding(
    symbols: Sequence[str], rate: float, interval: int, start: int, end: int
) -> Iterator[Funding]:
    """The same `rate` for every symbol at every stamp in [`start`, `end`) (UTC ms); stamps are the multiples of `interval`
    (ms) since 1970, so that eight hours give 00:00, 08:00 and 16:00 UTC."""
    for ts in range(-(-start // interval) * interval, end, interval):
        for symbol in symbols:
            yield Funding(symbol, ts, ts, rate)
