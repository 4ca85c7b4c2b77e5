"""Funding rates of perpetuals as `Funding` events, from a history file or constant.

A *stamp* is a time at which funding is paid.
"""

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
from agent.data.columns import Aliases, location
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
# per stamp; exchanges cap it at a few percent, so a larger rate is a percentage
_LARGEST_RATE: Final = 0.1
_USUAL_RATE: Final = 0.003  # per stamp; a file with a median above this probably holds percentages
# between stamps on the usual venues; longer distances count only if most of a file has them
_LONGEST_DISTANCE: Final = 8 * HOUR_MS
_NEIGHBOURS: Final = 2  # distances on each side of a stretch, by which a gap is recognised


class FundingFile:
    """Iterable of the rates in a parquet, CSV or JSON-lines file, by time; it can be iterated repeatedly.

    A rate is a fraction of the position's value per stamp (0.0001 = 0.01 %), known at its stamp. Symbols are
    converted to venue notation. A file without a symbol column is of `symbol`, else of the symbol in its
    name. The window is [`start`, `end`) in UTC ms. Identical duplicates are dropped and counted in
    `duplicates`.

    Raises DataError while iterating: a missing time, rate or symbol, a rate beyond ±0.1, two rates for one
    stamp.
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
            raise DataError(f"{location(self.path, int(stamps.argmin()) + 1, rows.names['ts'])}: missing")
        if (wrong := ~(np.abs(rates) <= _LARGEST_RATE)).any():
            where = location(self.path, int(wrong.argmax()) + 1, rows.names["rate"])
            rate = rates[wrong.argmax()]
            raise DataError(
                f"{where}: {rate} is not a funding rate", hint="write fractions: 0.0001 is 0.01 %"
            )
        fallback = self.symbol or symbol_of(self.path)
        if not fallback and "symbol" not in rows.names:
            missing = "neither a column nor its name states the symbol"
            raise DataError(f"{self.name}: {missing}", hint="name the file SYMBOL-funding.csv")
        known: dict[tuple[str, int], float] = {}
        order = np.argsort(stamps, kind="stable")
        columns = stamps[order].tolist(), rates[order].tolist()
        for ts, rate, row in zip(*columns, rows.texts(order), strict=True):
            symbol = normalise(row.get("symbol") or "") or fallback
            if not symbol:
                missing = f"the rate at {iso(ts)} has no symbol"
                raise DataError(f"{self.name}: {missing}", hint="correct or remove the row")
            if (other := known.setdefault((symbol, ts), rate)) != rate:
                raise DataError(
                    f"{self.name}: two funding rates of {symbol} at {iso(ts)}: {other} and {rate}"
                )
        self.duplicates = len(stamps) - len(known)
        for (symbol, ts), rate in known.items():
            if (self.start is None or ts >= self.start) and (self.end is None or ts < self.end):
                yield Funding(symbol, ts, ts, rate)


def fill_missing_rates(
    rates: Iterable[Funding],
    symbols: Sequence[str],
    rate: float,
    interval: int,
    start: int,
    end: int,
    *,
    name: str,
) -> tuple[list[Funding], list[str]]:
    """Return the `rates` of `symbols` in [`start`, `end`) (UTC ms) with gaps filled, and notes on the gaps.

    A gap is a stretch more than 1.5 times as long as the distances of the stamps around it; the constant
    `rate` applies in it, at each multiple of `interval` (ms). The distance may change within the file, as
    venues change it. `name` is the file's. Raises DataError if the rates have no stamp of any of `symbols` in
    the window.
    """
    known: dict[str, list[Funding]] = {}
    for one in rates:
        known.setdefault(one.symbol, []).append(one)
    inside = {symbol: [one for one in known.get(symbol, ()) if start <= one.ts < end] for symbol in symbols}
    if not any(inside.values()):
        spans = [f"{one} from {iso(own[0].ts)} to {iso(own[-1].ts)}" for one, own in sorted(known.items())]
        found = "; ".join(spans) or "none"
        raise DataError(
            f"{name}: no rate of {', '.join(symbols)} between {iso(start)} and {iso(end)}; it has {found}",
            hint="give a file of these symbols and times; else the constant paper.funding_rate is paid",
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
            # a venue may date a stamp a little late (08:00:00.007) or early: no constant belongs next to it
            first, last = (
                before + (1 if before < start else MINUTE_MS),
                after - (0 if after == end else MINUTE_MS),
            )
            constant = list(constant_funding((symbol,), rate, interval, first, last))
            missing += constant
            if not constant:
                unpaid.append((max(before, start), after))
        if missing:
            span = f"{iso(missing[0].ts)} to {iso(missing[-1].ts)}"
            lack = f"{len(missing):,} stamps of {symbol} have no rate ({span})"
            notes.append(f"{name}: {lack}: the constant {rate:.4%} is used")
        if unpaid:
            span = f"{iso(unpaid[0][0])} to {iso(unpaid[0][1])}"
            lack = f"{len(unpaid):,} stretches shorter than the constant's interval (the first from {span})"
            notes.append(f"{name}: {symbol} has no rate in {lack}: nothing is paid there")
        if (typical := median([abs(one.rate) for one in own] or [0.0])) > _USUAL_RATE:
            doubt = (
                f"half of the rates of {symbol} are {typical:.2%} or more per stamp: are they percentages?"
            )
            notes.append(f"{name}: {doubt} They are read as fractions (0.0001 is 0.01 %)")
        completed += [*own, *missing]
    completed.sort(key=lambda one: (one.ts, one.symbol))
    return completed, notes


def _distance_around(stamps: Sequence[int], before: int, after: int, usual: int, longest: int) -> int:
    """Return the distance (ms) of the sorted `stamps` next to the stretch from `before` to `after`.

    It is the largest of two distances on each side, so that a change from 8 to 4 hours isn't a gap. Distances
    above `longest` are gaps themselves and don't count. Without any distance `usual` is returned.
    """
    past, coming = bisect_right(stamps, before), bisect_left(stamps, after)
    sides = stamps[max(past - _NEIGHBOURS - 1, 0) : past], stamps[coming : coming + _NEIGHBOURS + 1]
    return max(
        (late - early for side in sides for early, late in pairwise(side) if late - early <= longest),
        default=usual,
    )


def _usual_distance(stamps: Sequence[int]) -> int:
    """Return the most frequent distance of neighbours (ms, rounded to minutes); 0 for fewer than two."""
    steps = Counter(round((after - before) / MINUTE_MS) * MINUTE_MS for before, after in pairwise(stamps))
    return min(steps, key=lambda step: (-steps[step], step)) if steps else 0


def constant_funding(
    symbols: Sequence[str], rate: float, interval: int, start: int, end: int
) -> Iterator[Funding]:
    """Yield the same `rate` for every symbol at every stamp in [`start`, `end`) (UTC ms).

    Stamps are the multiples of `interval` (ms) since 1970: for eight hours 00:00, 08:00 and 16:00 UTC.
    """
    for ts in range(-(-start // interval) * interval, end, interval):
        for symbol in symbols:
            yield Funding(symbol, ts, ts, rate)
