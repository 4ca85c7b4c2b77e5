"""The bars of runs, folded to longer ones: a backtest's from its files, a live run's from its journal."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.analysis.report.report_data import recorded_config
from agent.analysis.run_rows import traded_symbols
from agent.api.problems import RequestProblem
from agent.api.route_table import BarsQuery
from agent.api.run_messages import PriceBars
from agent.api.run_reader import check_symbol
from agent.config import Config
from agent.core.durations import format_bar_length, parse_duration
from agent.core.events import Kline, kind_of
from agent.data.klines import KlineFile
from agent.replay.verify import check_unchanged
from agent.store.database import Database
from agent.store.journal import decode, read_journal_rows
from agent.store.runs import Run, RunKind

_SERIES: Final = 4  # symbols of runs in memory, about 25 MB for a year of minutes

Series = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Open times (UTC ms), of shape (n,); open, high, low, close and volume, of shape (5, n)."""


class RunBars:
    """Bars of the runs in a store. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._series: OrderedDict[tuple[str, str], Series] = OrderedDict()
        self._journals: OrderedDict[str, _JournalledBars] = OrderedDict()
        self._lock = Lock()

    def folded(self, run: Run, query: BarsQuery) -> PriceBars:
        """Return the latest bars of a symbol.

        Raises RequestProblem for a symbol that the run doesn't trade and an interval that its bars can't be
        folded to; UsageError or DataError if a file of a backtest is missing or has changed.
        """
        check_symbol(run, query.symbol)
        config = recorded_config(run)
        symbol, own = query.symbol or traded_symbols(run)[0], config.market.interval
        interval = own if query.interval is None else parse_duration(query.interval)
        if interval % own:
            raise RequestProblem(
                "invalid-parameter",
                f"interval: bars of {format_bar_length(own)} can't be folded to {query.interval}",
                where="interval",
                hint="choose a multiple",
            )
        with self._lock:
            starts, values = self._of(run, config, symbol)
        if query.until is not None:
            count = int(np.searchsorted(starts, query.until - own, "right"))
            starts, values = starts[:count], values[:, :count]
        return PriceBars(symbol, interval, tuple(fold(starts, values, interval, query.limit)))

    def _of(self, run: Run, config: Config, symbol: str) -> Series:
        if run.kind is RunKind.LIVE:
            journalled = self._journals.setdefault(run.id, _JournalledBars(self._database, run.id, config))
            self._journals.move_to_end(run.id)
            while len(self._journals) > _SERIES:
                self._journals.popitem(last=False)
            return journalled.of(symbol)
        key = run.id, symbol
        if key not in self._series:
            self._series[key] = _of_file(run, config, symbol)
        self._series.move_to_end(key)
        while len(self._series) > _SERIES:
            self._series.popitem(last=False)
        return self._series[key]


def fold(
    starts: NDArray[np.int64], values: NDArray[np.float64], interval: int, limit: int
) -> list[tuple[int, float, float, float, float, float]]:
    """Fold bars to longer ones that begin at multiples of `interval` (ms); return the latest `limit`."""
    if not len(starts):
        return []
    period = starts // interval
    first = np.flatnonzero(np.diff(period, prepend=period[0] - 1))[-limit:]
    last = np.append(first[1:], len(starts)) - 1
    opened, high, low, close, volume = values
    columns = (
        opened[first],
        np.maximum.reduceat(high, first),
        np.minimum.reduceat(low, first),
        close[last],
        np.add.reduceat(volume, first),
    )
    times = (period[first] * interval).tolist()
    return list(zip(times, *(column.tolist() for column in columns), strict=True))


def _of_file(run: Run, config: Config, symbol: str) -> Series:
    window = run.config.get("window") or {}
    found: Series = np.empty(0, np.int64), np.empty((5, 0))
    for file in run.inputs:
        if file.role == "klines" and file.symbol == symbol:
            check_unchanged(file)
            bars = KlineFile(
                Path(file.path),
                symbol,
                config.market.interval,
                start=window.get("start"),
                end=window.get("end"),
                around_the_clock=config.market.category != "equity",
                timezone=window.get("timezone"),
            ).bars()
            found = bars.start, np.stack(bars.values)
    return found


class _JournalledBars:
    """The closed bars in a live run's journal, read once and continued."""

    def __init__(self, database: Database, run_id: str, config: Config) -> None:
        self._database = database
        self._run_id = run_id
        self._interval = config.market.interval
        self._last = 0
        self._starts = {symbol: array("q") for symbol in config.market.symbols}
        self._values = {symbol: array("d") for symbol in config.market.symbols}

    def of(self, symbol: str) -> Series:
        for row in read_journal_rows(self._database, self._run_id, self._last + 1):
            self._last = row.seq
            if row.kind == _KLINE:
                bar = decode(row.payload)
                if isinstance(bar, Kline):
                    self._add(bar)
        starts = np.array(self._starts[symbol], np.int64)
        values = np.array(self._values[symbol]).reshape(-1, 5).T
        return starts, values

    def _add(self, bar: Kline) -> None:
        """Add a closed bar; the core ignores one that is late, or of another interval or symbol, too."""
        starts = self._starts.get(bar.symbol)
        if starts is None or not bar.confirm or bar.interval != self._interval:
            return
        if not starts or bar.start > starts[-1]:
            starts.append(bar.start)
            self._values[bar.symbol].extend((bar.open, bar.high, bar.low, bar.close, bar.volume))


_KLINE: Final = kind_of(Kline("", 1, 0, 1, 1, 1.0, 1.0, 1.0, 1.0, 0.0))
