"""Kline files as a stream of `Kline` and `Gap` events: checked a batch at a time, in memory that doesn't grow with the file.

Order is a contract: bars that are not sorted by open time, overlap, or say two things of one moment are errors. A bar that is
there twice, value for value, is dropped and counted. What is missing becomes a `Gap`, except in markets that close.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice, repeat
from math import inf
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agent.core.durations import format_duration
from agent.core.errors import DataError, UsageError
from agent.core.events import DAY_MS, Gap, Kline
from agent.core.symbol_names import SYMBOL_COLUMNS, is_symbol, normalise, symbol_of
from agent.core.symbols import base_of
from agent.data.bar_checks import VALUES, BarCheck, Bars
from agent.data.calendar_bars import Calendar, find_calendar
from agent.data.columns import Aliases, Batch, ParquetTable, content_hash, open_table, pick, place, to_floats
from agent.data.timestamps import TimeColumn
from agent.system.clock import iso

_TICKS: Final = ("tickvol", "tick_volume")
COLUMNS: Final[Aliases] = {
    "open_time": ("open_time", "start", "start_time", "ts", "timestamp", "unix", "time", "datetime", "date"),
    **{name: (name, f"{name}_price") for name in VALUES},
    "volume": ("volume", "vol", *_TICKS),
    "ticks": _TICKS,
    "turnover": ("turnover", "quote_volume", "quote_asset_volume"),
    "symbol": SYMBOL_COLUMNS,
    "adjusted": ("adj_close", "adjusted_close"),
}
_LOW: Final = VALUES.index("low")
_TEXTS: Final = ("symbol", "adjusted")  # columns that no bar is made of


@dataclass(slots=True)
class KlineStats:
    """What a pass over a file has given out so far; times are open times in UTC ms (0: none)."""

    rows: int = 0
    first: int = 0
    last: int = 0
    end: int = 0  # close of the last bar
    gaps: int = 0
    missing: int = 0  # bars in the gaps
    duplicates: int = 0  # identical rows dropped from all that was read
    lowest: float = inf  # price


class KlineFile:
    """The bars of one symbol in a parquet or CSV file; iterate it, as often as you like, for its events in order.

    `symbol` defaults to the file's own column of that name, else to what its name states (`BTCUSDT-1m.parquet`, see `symbol_of`);
    `interval` (ms) to the commonest distance of the first bars. What is given is checked against the file. Bars of calendar months, and
    of days or weeks in a zone that changes its clocks, have a `calendar`: they differ in length, `interval` is one of
    `agent.core.durations.MONTHS`, a day or a week, and each closes where the next one opens. The window is
    [`start`, `end`) in UTC ms of open time, and begins `warmup_bars` bars earlier if the file has them. `around_the_clock=False`: a
    market that closes, so nothing missing is a gap. `timezone` names the zone of naive times.

    Every bar is confirmed and available at its close; a `Gap` is known when the first bar after it closes.
    `stats` counts what the latest pass has given out, a batch at a time; `notes` says what of the file is not used. A file that is
    newest first is read whole and turned round.

    Raises DataError, at once for what the first rows show, else while iterating; UsageError if nothing states the symbol.
    """

    def __init__(
        self,
        path: str | Path,
        symbol: str | None = None,
        interval: int | None = None,
        *,
        around_the_clock: bool = True,
        start: int | None = None,
        end: int | None = None,
        warmup_bars: int = 0,
        timezone: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.name = str(path)
        self.notes: list[str] = []
        self.around_the_clock = around_the_clock
        self.start, self.end, self.warmup_bars = start, end, warmup_bars
        self.stats = KlineStats()
        self._timezone = timezone
        self._table = open_table(self.path)
        picked = pick(self._table, COLUMNS, required=("open_time", *VALUES[:-1]))
        if "ticks" in picked:  # MetaTrader: the column beside it is 0 for most instruments
            unused = f", column {picked['volume']} is not used" if picked["volume"] != picked["ticks"] else ""
            self.notes.append(
                f"{self.path.name}: the volume is the number of ticks (column {picked['ticks']}){unused}"
            )
            picked["volume"] = picked.pop("ticks")
        self._columns = {column: name for column, name in picked.items() if column not in _TEXTS}
        self._symbol_column = picked.get("symbol")
        if "adjusted" in picked:
            self.notes.append(
                f"{self.path.name}: column {picked['adjusted']} is not used: prices are as traded, without dividends"
            )
        self.symbol = self._find_symbol(symbol)
        self._newest_first = False
        self.calendar: Calendar | None = None
        self.interval, self.time_unit = self._infer_interval(interval)

    @staticmethod
    def parse_argument(text: str) -> tuple[Path, str | None]:
        """Path and symbol of a command line's `PATH` or `SYMBOL=PATH`. Raises UsageError if it names no path.

        The symbol may be written as in a column (`btcusdt`, `BTC/USDT:USDT`, `BRK.B`); a `/` must be part of a pair.
        """
        symbol, equals, path = text.partition("=")
        if not equals or not is_symbol(symbol):
            symbol, path = "", text
        if not path:
            raise UsageError(f"{text!r} names no kline file", hint="write PATH or SYMBOL=PATH")
        return Path(path), normalise(symbol) or None

    def __iter__(self) -> Iterator[Kline | Gap]:
        self.stats = stats = KlineStats()
        return chain.from_iterable(self._events(bars, stats) for bars in self._window(stats))

    def describe(self) -> dict[str, object]:
        """Reads and checks the whole window: what `stats` counts, symbol, interval, and the file's SHA-256."""
        self.stats = stats = KlineStats()
        for bars in self._window(stats):
            self._count(bars, stats)
        own = {
            "path": self.name,
            "symbol": self.symbol,
            "interval": self.interval,
            "time_unit": self.time_unit,
        }
        return own | asdict(stats) | {"sha256": content_hash(self.path)}

    def closes(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Close times (UTC ms) and closes of the whole window, without an event a bar, both of shape (n,)."""
        bars = list(self._window(KlineStats()))
        at = VALUES.index("close")
        return np.concatenate([part.close for part in bars]), np.concatenate(
            [part.values[at] for part in bars]
        )

    # -- events ------------------------------------------------------------------------------------------------------

    def _events(self, bars: Bars, stats: KlineStats) -> Iterable[Kline | Gap]:
        breaks = self._count(bars, stats)
        start, close = bars.start.tolist(), bars.close.tolist()
        values = (column.tolist() for column in bars.values)
        # no Python code a bar
        klines = map(Kline, repeat(self.symbol), repeat(self.interval), start, close, close, *values)
        return self._with_gaps(klines, bars, breaks) if breaks else klines

    def _with_gaps(self, klines: Iterator[Kline], bars: Bars, breaks: list[int]) -> Iterator[Kline | Gap]:
        done = 0
        for index in breaks:
            yield from islice(klines, index - done)
            done, resumed = index, int(bars.start[index])
            lost = int(bars.lost[index])
            yield Gap(
                self.symbol, self.interval, lost, resumed, available_at=int(bars.close[index]), ts=resumed
            )
        yield from klines

    def _count(self, bars: Bars, stats: KlineStats) -> list[int]:
        """Adds the bars to `stats`; the indices of those that come after a gap."""
        breaks = np.flatnonzero(bars.step > self.interval) if self.around_the_clock else np.empty(0, np.int64)
        if not stats.rows:
            stats.first = int(bars.start[0])
            breaks = breaks[breaks > 0]  # what is missing before the window's first bar is no gap in it
        stats.rows += len(bars)
        stats.last, stats.end = int(bars.start[-1]), int(bars.close[-1])
        stats.lowest = min(stats.lowest, float(bars.values[_LOW].min()))
        stats.gaps += len(breaks)
        stats.missing += int((bars.step[breaks] // self.interval - 1).sum())
        return breaks.tolist()

    # -- the window --------------------------------------------------------------------------------------------------

    def _window(self, stats: KlineStats) -> Iterator[Bars]:
        """The bars of the window and its warm-up, batch by batch, none of them empty."""
        warmup: list[Bars] = []
        empty, seen = True, 0
        for bars in self._checked(stats):
            first, past = np.searchsorted(
                bars.start, (_or(self.start, 0), _or(self.end, np.iinfo(np.int64).max))
            ).tolist()
            if empty:
                warmup = _last([*warmup, bars[:first]], self.warmup_bars)
            if first < past:
                yield from warmup if empty else ()
                yield bars[first:past]
                empty = False
            seen = int(bars.start[-1])
            if past < len(bars):
                break
        if empty:
            window = f"{'…' if self.start is None else iso(self.start)} to {'…' if self.end is None else iso(self.end)}"
            raise DataError(
                f"{self.name}: no bar opens in the window {window}", hint=f"bars were read up to {iso(seen)}"
            )

    def _checked(self, stats: KlineStats) -> Iterator[Bars]:
        name = f"{self.name} (rows counted from its end)" if self._newest_first else self.name
        calendar = self.calendar
        check = BarCheck(name, self.interval, around_the_clock=self.around_the_clock, calendar=calendar)
        times = TimeColumn(self.path, self._columns["open_time"], timezone=self._timezone)
        for row, batch in self._read():
            start = times.read(batch["open_time"], row)
            if not start.all():
                where = place(self.path, row + int(start.argmin()), self._columns["open_time"])
                raise DataError(f"{where}: missing", hint="mend or remove the row")
            if calendar is not None:
                start = calendar.opens(start)
            if "symbol" in batch:
                self._check_symbol(batch["symbol"], row)
            values = [
                to_floats(batch[name], self.path, self._columns[name], row)
                for name in VALUES
                if name in batch
            ]
            bars = check.check(start, tuple(values), row)
            stats.duplicates = check.duplicates
            if len(bars):
                yield bars

    def _read(self) -> Iterator[Batch]:
        """Batches from the first that can matter: parquet row groups before the window and its warm-up are not touched."""
        columns = self._columns | ({"symbol": self._symbol_column} if self._symbol_column else {})
        if self._newest_first or self.calendar is not None:
            return iter(_whole(self._table.batches(columns), turned_round=self._newest_first))
        if not isinstance(self._table, ParquetTable):
            return self._table.batches(columns)
        times = TimeColumn(self.path, self._columns["open_time"], timezone=self._timezone)
        first, spare = 0, 0
        groups = [] if self.start is None else self._table.latest(self._columns["open_time"])
        for number, (_, latest) in enumerate(groups):
            if times.read(latest, 1)[0] >= _or(self.start, 0):
                first = number
                break
        while first and spare < self.warmup_bars:
            first -= 1
            spare += groups[first][0]
        return self._table.batches(columns, first_group=first)

    def _find_symbol(self, stated: str | None) -> str:
        """The symbol as it was given, as the file's own column or header has it, or as its name states it, in this order."""
        own = getattr(self._table, "symbol", "")
        if self._symbol_column:
            _, batch = next(self._table.batches({"symbol": self._symbol_column}), (0, {}))
            own = next((text for text in _texts(batch["symbol"]) if text), "") if batch else ""
        if "," in own:
            raise DataError(f"{self.name} holds several symbols: {own}", hint="write a file for each symbol")
        own = normalise(own) if own else ""
        if stated and own and normalise(stated) not in (own, base_of(own)) and own != base_of(stated):
            raise DataError(
                f"{self.name} holds bars of {own}, not of {stated}", hint=f"name it {own}={self.name}"
            )
        symbol = stated or own or symbol_of(self.path)
        if not symbol:
            raise UsageError(
                f"{self.name}: neither its name nor a column states the symbol",
                hint=f"write SYMBOL={self.name}",
            )
        named = symbol_of(self.path)
        if not stated and own and named and named != own:
            self.notes.append(
                f"{self.path.name}: its column {self._symbol_column or 'header'} says {own}, which is taken"
            )
        self._own_symbol = own
        return symbol

    def _check_symbol(self, values: pa.Array, row: int) -> None:
        """Raises DataError if a row is of another symbol than the first."""
        texts = _texts(values)
        if set(texts) - {"", None} <= {self._own_symbol}:
            return
        for index, text in enumerate(texts):
            if text and normalise(text) != self._own_symbol:
                raise DataError(
                    f"{place(self.path, row + index, self._symbol_column or '')}: {text}, where the file is of {self._own_symbol}",
                    hint="write a file for each symbol",
                )

    def _infer_interval(self, stated: int | None) -> tuple[int, str]:
        """The commonest distance of the first batch's bars (ms), and how its times were understood."""
        times = TimeColumn(self.path, self._columns["open_time"], timezone=self._timezone)
        row, batch = next(self._table.batches({"open_time": self._columns["open_time"]}), (0, {}))
        if not batch:
            raise DataError(f"{self.name} holds no bar, only its header", hint="fetch it again")
        starts = times.read(batch["open_time"], row)
        steps = np.diff(starts[starts > 0])
        self._newest_first = len(steps) > 0 and bool((steps <= 0).all() and (steps < 0).any())
        zone = self._timezone
        if stated is None or stated >= DAY_MS:
            self.calendar = find_calendar(
                np.unique(starts[starts > 0]), zone, around_the_clock=self.around_the_clock
            )
        steps = np.abs(steps)  # the check refuses what is unsorted
        steps, counts = np.unique(steps[steps > 0], return_counts=True)
        if not len(steps):
            if stated is None:
                raise DataError(f"{self.name} holds bars of one moment only", hint="state their interval")
            return stated, times.unit
        commonest = int(steps[counts.argmax()])
        if self.calendar is not None:
            commonest = self.calendar.interval
            if self.calendar.dated_at_end:
                self.notes.append(
                    f"{self.path.name}: its dates are the last days of its bars, which are calendar months"
                )
        if (
            stated is not None
            and stated != commonest
            and (self.around_the_clock or self.calendar or stated > steps[0])
        ):
            raise DataError(
                f"{self.name}: its bars are {format_duration(commonest)} apart, not {format_duration(stated)}"
            )
        return stated or commonest, times.unit


def _whole(batches: Iterator[Batch], *, turned_round: bool) -> list[Batch]:
    """All rows as one batch, `turned_round` the last first; none of a table without rows."""
    parts = [batch for _, batch in batches]
    if not parts:
        return []
    columns = {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}
    return [(1, {name: _reversed(values) if turned_round else values for name, values in columns.items()})]


def _reversed(values: pa.Array) -> pa.Array:
    return values.take(pa.array(range(len(values) - 1, -1, -1), pa.int64()))


def _or(moment: int | None, default: int) -> int:
    return default if moment is None else moment


def _last(blocks: list[Bars], count: int) -> list[Bars]:
    """The last `count` bars of consecutive blocks."""
    kept: list[Bars] = []
    for bars in reversed(blocks):
        if count > 0 and len(bars):
            kept.insert(0, bars[-count:])
        count -= len(bars)
    return kept


def _texts(values: pa.Array) -> list[str | None]:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    found: list[str | None] = values.cast(pa.string()).to_pylist()
    return found
