"""Kline files as streams of `Kline` and `Gap` events, checked a batch at a time in constant memory.

Bars that are unsorted, overlap or differ for one time are errors. An identical repetition is dropped and
counted. Missing bars become a `Gap`, except in markets that close.
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

from agent.core.durations import format_bar_length
from agent.core.errors import DataError, UsageError
from agent.core.events import DAY_MS, Gap, Kline
from agent.core.symbol_names import SYMBOL_COLUMNS, is_symbol, normalise, symbol_of
from agent.core.symbols import base_of
from agent.data.bar_checks import VALUES, BarCheck, Bars
from agent.data.calendar_bars import Calendar, find_calendar
from agent.data.columns import (
    Aliases,
    Batch,
    ParquetTable,
    content_hash,
    location,
    match_columns,
    open_table,
    to_floats,
)
from agent.data.timestamps import TimeColumn
from agent.data.volume_units import pick_volume
from agent.system.clock import iso

_TICKS: Final = ("tickvol", "tick_volume")
COLUMNS: Final[Aliases] = {
    "open_time": ("open_time", "start", "start_time", "ts", "timestamp", "unix", "time", "datetime", "date"),
    **{name: (name, f"{name}_price") for name in VALUES},
    "volume": ("volume", "vol", *_TICKS),
    "ticks": _TICKS,
    "coins": ("vol_ccy", "home_notional"),  # OKX and BitMEX, whose volume may be in contracts
    "turnover": (
        "vol_ccy_quote",
        "vol_quote",
        "foreign_notional",
        "turnover",
        "quote_volume",
        "quote_asset_volume",
    ),
    "symbol": SYMBOL_COLUMNS,
    "confirm": ("confirm",),
    "adjusted": ("adj_close", "adjusted_close"),
}
_UNFINISHED: Final = ("0", "0.0", "false")
"""Values of `confirm`, as in OKX's and Bybit's exports, of a bar that was still open."""

_LOW: Final = VALUES.index("low")
_NOT_IN_BARS: Final = ("symbol", "adjusted", "coins")


@dataclass(slots=True)
class KlineStats:
    """Counts of a pass over a file so far; times are open times in UTC ms (0: none)."""

    rows: int = 0
    first: int = 0
    last: int = 0
    end: int = 0  # close time of the last bar
    gaps: int = 0
    missing: int = 0  # bars in the gaps
    duplicates: int = 0  # identical rows dropped, in the window or before it
    unfinished: int = 0  # likewise, bars that the file marks as open
    lowest: float = inf  # price


class KlineFile:
    """Iterable of the bars of one symbol in a parquet or CSV file; it can be iterated repeatedly.

    `symbol` defaults to the file's symbol column, else to the symbol in its name (`BTCUSDT-1m.parquet`, see
    `symbol_of`); `interval` (ms) to the most frequent distance of the first bars. Both are checked against
    the file. The window is [`start`, `end`) in UTC ms of open time, and begins `warmup_bars` bars earlier if
    the file has them. `around_the_clock=False` is for a market that closes: missing bars are then no gaps.
    `timezone` is that of naive times.

    Bars of calendar months, and of days or weeks in a zone with daylight saving time, have a `calendar`: they
    differ in length, `interval` is one of `agent.core.durations.MONTHS`, a day or a week, and each closes
    when the next one opens.

    Every bar is confirmed and available at its close; a `Gap` is available when the first bar after it
    closes. `stats` counts the latest pass, updated per batch; `notes` lists the parts of the file that are
    not used. A file that is newest first is read whole and reversed.

    Raises DataError, at once if the first rows are wrong, else while iterating; UsageError if the symbol is
    unknown.
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
        self._notes: list[str] = []
        self.around_the_clock = around_the_clock
        self.start, self.end, self.warmup_bars = start, end, warmup_bars
        self.stats = KlineStats()
        self._timezone = timezone
        self._table = open_table(self.path)
        picked = match_columns(self._table, COLUMNS, required=("open_time", *VALUES[:-1]))
        if "ticks" in picked:  # MetaTrader: its volume column is 0 for most instruments
            unused = f", column {picked['volume']} is not used" if picked["volume"] != picked["ticks"] else ""
            picked["volume"] = picked.pop("ticks")
            self._note(f"the volume is the number of ticks (column {picked['volume']}){unused}")
        else:
            for note in pick_volume(self._table, picked):
                self._note(note)
        self._columns = {column: name for column, name in picked.items() if column not in _NOT_IN_BARS}
        self._symbol_column = picked.get("symbol")
        if "adjusted" in picked:
            self._note(f"column {picked['adjusted']} is not used: prices are as traded, without dividends")
        self.symbol = self._find_symbol(symbol)
        self._newest_first = False
        self.calendar: Calendar | None = None
        self.interval, self.time_unit = self._infer_interval(interval)

    @staticmethod
    def parse_argument(text: str) -> tuple[Path, str | None]:
        """Split a command line's `PATH` or `SYMBOL=PATH` into path and symbol.

        The symbol may have any notation (`btcusdt`, `BTC/USDT:USDT`, `BRK.B`); a `/` must be part of a pair.
        Raises UsageError if the path is empty.
        """
        symbol, equals, path = text.partition("=")
        if not equals or not is_symbol(symbol):
            symbol, path = "", text
        if not path:
            raise UsageError(f"{text!r} has no kline file", hint="write PATH or SYMBOL=PATH")
        return Path(path), normalise(symbol) or None

    def __iter__(self) -> Iterator[Kline | Gap]:
        self.stats = stats = KlineStats()
        return chain.from_iterable(self._events(bars, stats) for bars in self._window(stats))

    def blocks(self) -> Iterator[Bars | Gap]:
        """Yield the bars of the window as columns, and the gaps between them."""
        self.stats = stats = KlineStats()
        for bars in self._window(stats):
            done = 0
            for index in self._count(bars, stats):
                if index > done:
                    yield bars[done:index]
                yield self._gap(bars, index)
                done = index
            yield bars[done:]

    def describe(self) -> dict[str, object]:
        """Read and check the whole window; return its `stats`, symbol, interval, and the file's SHA-256."""
        self.stats = stats = KlineStats()
        for bars in self._window(stats):
            self._count(bars, stats)
        facts = {
            "path": self.name,
            "symbol": self.symbol,
            "interval": self.interval,
            "time_unit": self.time_unit,
        }
        return facts | asdict(stats) | {"sha256": content_hash(self.path)}

    def closes(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return close times (UTC ms) and prices of the window, both of shape (n,), without making events."""
        bars = list(self._window(KlineStats()))
        prices = [part.values[VALUES.index("close")] for part in bars]
        return np.concatenate([part.close for part in bars]), np.concatenate(prices)

    def bars(self) -> Bars:
        """Return the bars of the window as columns, without making events."""
        parts = list(self._window(KlineStats()))
        return Bars(
            np.concatenate([part.start for part in parts]),
            np.concatenate([part.close for part in parts]),
            np.concatenate([part.previous_close for part in parts]),
            np.concatenate([part.step for part in parts]),
            tuple(np.concatenate(columns) for columns in zip(*(part.values for part in parts), strict=True)),
        )

    @property
    def notes(self) -> list[str]:
        """Notes on the parts of the file that are not used, including unfinished bars of the latest pass."""
        count, column = self.stats.unfinished, self._columns.get("confirm")
        dropped = f"{self.path.name}: {count:,} unfinished bars left out: their column {column} is 0"
        return [*self._notes, dropped] if count else self._notes

    def _note(self, text: str) -> None:
        self._notes.append(f"{self.path.name}: {text}")

    # -- events ----------------------------------------------------------------------------------------------

    def _events(self, bars: Bars, stats: KlineStats) -> Iterable[Kline | Gap]:
        breaks = self._count(bars, stats)
        start, close = bars.start.tolist(), bars.close.tolist()
        values = (column.tolist() for column in bars.values)
        # `map` over columns runs no Python code per bar
        klines = map(Kline, repeat(self.symbol), repeat(self.interval), start, close, close, *values)
        return self._with_gaps(klines, bars, breaks) if breaks else klines

    def _with_gaps(self, klines: Iterator[Kline], bars: Bars, breaks: list[int]) -> Iterator[Kline | Gap]:
        done = 0
        for index in breaks:
            yield from islice(klines, index - done)
            done = index
            yield self._gap(bars, index)
        yield from klines

    def _gap(self, bars: Bars, index: int) -> Gap:
        """Return the gap before a bar."""
        start, end = int(bars.previous_close[index]), int(bars.start[index])
        return Gap(self.symbol, self.interval, start, end, available_at=int(bars.close[index]), ts=end)

    def _count(self, bars: Bars, stats: KlineStats) -> list[int]:
        """Add the bars to `stats`; return the indices of those that come after a gap."""
        breaks = np.flatnonzero(bars.step > self.interval) if self.around_the_clock else np.empty(0, np.int64)
        if not stats.rows:
            stats.first = int(bars.start[0])
            breaks = breaks[breaks > 0]  # a gap before the window's first bar is outside the window
        stats.rows += len(bars)
        stats.last, stats.end = int(bars.start[-1]), int(bars.close[-1])
        stats.lowest = min(stats.lowest, float(bars.values[_LOW].min()))
        stats.gaps += len(breaks)
        stats.missing += int((bars.step[breaks] // self.interval - 1).sum())
        return breaks.tolist()

    # -- the window ------------------------------------------------------------------------------------------

    def _window(self, stats: KlineStats) -> Iterator[Bars]:
        """Yield the bars of the window and its warm-up in batches, none of them empty."""
        warmup: list[Bars] = []
        empty, seen = True, 0
        window = _or(self.start, 0), _or(self.end, np.iinfo(np.int64).max)
        for bars in self._checked(stats):
            first, past = np.searchsorted(bars.start, window).tolist()
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
            begin, end = ("…" if time is None else iso(time) for time in (self.start, self.end))
            hint = f"bars were read up to {iso(seen)}"
            raise DataError(f"{self.name}: no bar opens in the window {begin} to {end}", hint=hint)

    def _checked(self, stats: KlineStats) -> Iterator[Bars]:
        name = f"{self.name} (rows counted from its end)" if self._newest_first else self.name
        calendar = self.calendar
        check = BarCheck(name, self.interval, around_the_clock=self.around_the_clock, calendar=calendar)
        times = self._time_column()
        for row, batch in self._read():
            start = times.read(batch["open_time"], row)
            if not start.all():
                where = location(self.path, row + int(start.argmin()), self._columns["open_time"])
                raise DataError(f"{where}: missing", hint="correct or remove the row")
            if calendar is not None:
                start = calendar.opens(start)
            if "symbol" in batch:
                self._check_symbol(batch["symbol"], row)
            names = [name for name in VALUES if name in batch]
            values = tuple(to_floats(batch[name], self.path, self._columns[name], row) for name in names)
            if "confirm" in batch:
                closed = np.array([text not in _UNFINISHED for text in _texts(batch["confirm"])])
                stats.unfinished += int((~closed).sum())
                start, values = start[closed], tuple(column[closed] for column in values)
                if not len(start):
                    continue
            bars = check.check(start, values, row)
            stats.duplicates = check.duplicates
            if len(bars):
                yield bars

    def _time_column(self) -> TimeColumn:
        return TimeColumn(self.path, self._columns["open_time"], timezone=self._timezone)

    def _read(self) -> Iterator[Batch]:
        """Yield batches; parquet row groups before the window and its warm-up are skipped."""
        columns = self._columns | ({"symbol": self._symbol_column} if self._symbol_column else {})
        if self._newest_first or self.calendar is not None:
            return iter(_whole(self._table.batches(columns), reverse=self._newest_first))
        if not isinstance(self._table, ParquetTable):
            return self._table.batches(columns)
        times = self._time_column()
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
        """Return the `stated` symbol, else that of the file's column or header, else that in its name."""
        own = getattr(self._table, "symbol", "")
        if self._symbol_column:
            _, batch = next(self._table.batches({"symbol": self._symbol_column}), (0, {}))
            own = next((text for text in _texts(batch["symbol"]) if text), "") if batch else ""
        if "," in own:
            raise DataError(f"{self.name} holds several symbols: {own}", hint="write a file for each symbol")
        own = normalise(own) if own else ""
        if stated and own and normalise(stated) not in (own, base_of(own)) and own != base_of(stated):
            raise DataError(
                f"{self.name} holds bars of {own}, not of {stated}", hint=f"write {own}={self.name}"
            )
        symbol = stated or own or symbol_of(self.path)
        if not symbol:
            missing = "neither its name nor a column states the symbol"
            raise UsageError(f"{self.name}: {missing}", hint=f"write SYMBOL={self.name}")
        named = symbol_of(self.path)
        if not stated and own and named and named != own:
            source = f"column {self._symbol_column}" if self._symbol_column else "header"
            self._note(f"the symbol is {own}, from its {source}, not {named}, from its name")
        self._own_symbol = own
        return symbol

    def _check_symbol(self, values: pa.Array, row: int) -> None:
        """Raise DataError if a row has another symbol than the first."""
        texts = _texts(values)
        if set(texts) - {"", None} <= {self._own_symbol}:
            return
        for index, text in enumerate(texts):
            if text and normalise(text) != self._own_symbol:
                where = location(self.path, row + index, self._symbol_column or "")
                found = f"{text}, but the file is of {self._own_symbol}"
                raise DataError(f"{where}: {found}", hint="write a file for each symbol")

    def _infer_interval(self, stated: int | None) -> tuple[int, str]:
        """Return the most frequent distance of the first batch's bars (ms), and the unit of its times."""
        times = self._time_column()
        row, batch = next(self._table.batches({"open_time": self._columns["open_time"]}), (0, {}))
        if not batch:
            raise DataError(f"{self.name} holds no bar, only its header", hint="fetch it again")
        starts = times.read(batch["open_time"], row)
        steps = np.diff(starts[starts > 0])
        self._newest_first = len(steps) > 0 and bool((steps <= 0).all() and (steps < 0).any())
        if stated is None or stated >= DAY_MS:
            # with the counts, since without them numpy would import its masked arrays
            known, _ = np.unique(starts[starts > 0], return_counts=True)
            self.calendar = find_calendar(known, self._timezone, around_the_clock=self.around_the_clock)
        steps = np.abs(steps)  # `BarCheck` refuses unsorted bars
        steps, counts = np.unique(steps[steps > 0], return_counts=True)
        if not len(steps):
            if stated is None:
                raise DataError(f"{self.name} holds bars of one time only", hint="state their interval")
            return stated, times.unit
        found = int(steps[counts.argmax()])
        if self.calendar is not None:
            found = self.calendar.interval
            if self.calendar.dated_at_end:
                self._note("its dates are the last days of its bars, which are calendar months")
        strict = self.around_the_clock or self.calendar is not None
        if stated is not None and stated != found and (strict or stated > steps[0]):
            distance = f"its bars are {format_bar_length(found)} apart, not {format_bar_length(stated)}"
            raise DataError(f"{self.name}: {distance}")
        return stated or found, times.unit


def _whole(batches: Iterator[Batch], *, reverse: bool) -> list[Batch]:
    """Return all rows as one batch, the last row first if `reverse`; an empty list without rows."""
    parts = [batch for _, batch in batches]
    if not parts:
        return []
    columns = {name: pa.concat_arrays([part[name] for part in parts]) for name in parts[0]}
    return [(1, {name: _reversed(values) if reverse else values for name, values in columns.items()})]


def _reversed(values: pa.Array) -> pa.Array:
    return values.take(pa.array(range(len(values) - 1, -1, -1), pa.int64()))


def _or(time: int | None, default: int) -> int:
    return default if time is None else time


def _last(blocks: list[Bars], count: int) -> list[Bars]:
    """Return the last `count` bars of consecutive blocks."""
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
