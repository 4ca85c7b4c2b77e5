"""Funding rates of perpetuals as `Funding` events: from a history file, or a constant at every stamp."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from agent.clock import iso
from agent.errors import DataError
from agent.events import Funding
from agent.feeds.history.columns import Aliases, place
from agent.feeds.history.klines import symbol_of
from agent.feeds.history.rows import Rows

COLUMNS: Final[Aliases] = {
    "ts": ("ts", "timestamp", "fundingRateTimestamp", "funding_time", "calc_time", "time", "date", "datetime"),
    "symbol": ("symbol",),
    "rate": ("rate", "fundingRate", "last_funding_rate"),
}
_LARGEST_RATE: Final = 0.1  # a stamp; exchanges cap it at a few percent, so beyond this the column holds percentages


class FundingFile:
    """The rates of a parquet, CSV or JSON-lines file, by time; iterate it, as often as you like.

    A rate is a fraction of the position's value per stamp (0.0001 = 0.01 %), known at its stamp. A file without a column
    `symbol` is of `symbol`, or of what its name begins with. The window is [`start`, `end`) in UTC ms. Identical duplicates
    are dropped and counted in `duplicates`.

    Raises DataError while iterating: no time, no rate, a rate beyond ±0.1, two rates for one stamp.
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
        rows = Rows(self.path, COLUMNS, required=("ts", "rate"), times=("ts",), numbers=("rate",), timezone=self._timezone)
        stamps, rates = rows.times["ts"], rows.numbers["rate"]
        if not stamps.all():
            raise DataError(f"{place(self.path, int(stamps.argmin()) + 1, rows.names['ts'])}: missing")
        if (wrong := ~(np.abs(rates) <= _LARGEST_RATE)).any():
            where = place(self.path, int(wrong.argmax()) + 1, rows.names["rate"])
            raise DataError(f"{where}: {rates[wrong.argmax()]} is no funding rate", hint="write fractions: 0.0001 is 0.01 %")
        fallback = self.symbol or symbol_of(self.path)
        known: dict[tuple[str, int], float] = {}
        order = np.argsort(stamps, kind="stable")
        for ts, rate, row in zip(stamps[order].tolist(), rates[order].tolist(), rows.texts(order), strict=True):
            symbol = row.get("symbol") or fallback
            if known.setdefault((symbol, ts), rate) != rate:
                raise DataError(f"{self.name}: two funding rates of {symbol} at {iso(ts)}: {known[symbol, ts]} and {rate}")
        self.duplicates = len(stamps) - len(known)
        for (symbol, ts), rate in known.items():
            if (self.start is None or ts >= self.start) and (self.end is None or ts < self.end):
                yield Funding(symbol, ts, ts, rate)


def constant_funding(symbols: Sequence[str], rate: float, interval: int, start: int, end: int) -> Iterator[Funding]:
    """The same `rate` for every symbol at every stamp in [`start`, `end`) (UTC ms); stamps are the multiples of `interval`
    (ms) since 1970, so that eight hours give 00:00, 08:00 and 16:00 UTC."""
    for ts in range(-(-start // interval) * interval, end, interval):
        for symbol in symbols:
            yield Funding(symbol, ts, ts, rate)
