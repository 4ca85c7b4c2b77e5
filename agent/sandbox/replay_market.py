"""The accelerated market: plays all series on one clock and keeps the current state of each symbol."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from math import ceil
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from agent.core.errors import DataError, UsageError
from agent.core.events import DAY_MS, HOUR_MS
from agent.data.klines import KlineFile
from agent.sandbox.replay_series import Candle, PriceMove, ReplaySeries
from agent.sandbox.sandbox_options import SandboxOptions
from agent.system.clock import ScaledClock, WallClock

_HISTORY_BARS: Final = 1_000
_RECENT_TRADES: Final = 1_000
_MIN_STEPS: Final = 4  # open, two extremes, close


class PublicTrade(NamedTuple):
    """One public trade. `uptick` is True if the price is not below the previous one."""

    symbol: str
    time: int
    price: float
    size: float
    side: str
    uptick: bool
    number: int


class MarketListener(Protocol):
    """Receives the events of the market in order."""

    def on_trade(self, trade: PublicTrade) -> None: ...

    def on_close(self, symbol: str, index: int) -> None:
        """Called after a bar of the file has been completed."""
        ...


@dataclass(slots=True)
class Quote:
    """Current state of one symbol: the first `done` prices of bar `index` have been played."""

    series: ReplaySeries
    index: int
    done: int
    last: float
    trades: deque[PublicTrade] = field(default_factory=lambda: deque(maxlen=_RECENT_TRADES))

    def day(self) -> Candle:
        """Return the last 24 hours as one candle."""
        return self.series.window(self.index, self.done, DAY_MS)

    def hour(self) -> Candle:
        """Return the last hour as one candle."""
        return self.series.window(self.index, self.done, HOUR_MS)


class ReplayMarket:
    """All series on one clock.

    `clock` starts at the machine's time and runs `speed` times as fast. `time` is the moment up to which the
    market has been played and `shift` the number of ms added to the times of the files. `ended` is set when
    no series has prices left.
    """

    def __init__(self, options: SandboxOptions) -> None:
        all_series = [
            ReplaySeries(
                file.symbol,
                file.interval,
                file,
                steps=options.steps or _steps(file.interval, options.speed),
                seed=options.seed,
            )
            for file in _files(options)
        ]
        start = _start_time(all_series[0], options)
        self.speed = options.speed
        self.time = WallClock().now()
        self.clock = ScaledClock(self.time, options.speed)
        self.ended = asyncio.Event()
        self.listeners: list[MarketListener] = []
        self._loop = options.loop
        self._numbers = count(1)
        widest = max(series.interval for series in all_series)
        self.shift = self.time // widest * widest - start // widest * widest
        self.quotes = {series.symbol: self._open(series) for series in all_series}
        self._first = {symbol: quote.index for symbol, quote in self.quotes.items()}
        self._moves = heapq.merge(*(self._future_moves(quote) for quote in self.quotes.values()))
        self._next = next(self._moves, None)

    def _open(self, series: ReplaySeries) -> Quote:
        series.shift(self.shift)
        index = series.index_at(self.time)
        if index < 0:
            raise DataError(
                f"{series.symbol}: its first bar begins after the market's start",
                hint="choose a later --start",
            )
        done = sum(move.time <= self.time for move in series.moves(index))
        if done:
            return Quote(
                series, index, min(done, series.steps), series.path(index)[min(done, series.steps) - 1]
            )
        return Quote(series, index, 0, series.bar(index - 1).close if index else series.bar(0).open)

    def next_funding(self, interval_ms: int) -> int:
        """Return the next funding time on the market's clock (UTC ms)."""
        return (self.time // interval_ms + 1) * interval_ms

    # -- playing --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Play until the files end, or forever if they loop."""
        while (move := self._next) is not None:
            await asyncio.sleep(max(0.0, (move.time - self.clock.now()) / 1000 / self.speed))
            if move is self._next:
                self._play(move)
        self.ended.set()

    def catch_up(self) -> None:
        """Play everything that is due, so that a response includes all events up to its stated time."""
        now = self.clock.now()
        while self._next is not None and self._next.time <= now:
            self._play(self._next)

    def _play(self, move: PriceMove) -> None:
        self._next = next(self._moves, None)
        self._apply(move)

    def _future_moves(self, quote: Quote) -> Iterator[PriceMove]:
        series, begin = quote.series, self.time
        for index in count(quote.index):
            if index == len(series):
                if not self._loop:
                    return
                series.repeat(self._first[series.symbol])
            for move in series.moves(index):
                if move.time > begin:
                    yield move

    def _apply(self, move: PriceMove) -> None:
        self.time = max(self.time, move.time)
        quote = self.quotes[move.symbol]
        series = quote.series
        if move.step == series.steps:
            for listener in self.listeners:
                listener.on_close(move.symbol, move.bar)
            return
        price = series.path(move.bar)[move.step]
        trade = PublicTrade(
            move.symbol,
            move.time,
            price,
            series.bar(move.bar).volume / series.steps,
            "Buy" if price >= quote.last else "Sell",
            price >= quote.last,
            next(self._numbers),
        )
        quote.index, quote.done, quote.last = move.bar, move.step + 1, price
        quote.trades.appendleft(trade)
        for listener in self.listeners:
            listener.on_trade(trade)


def _steps(interval: int, speed: float) -> int:
    """Return the number of prices per bar: about one price per second of wall time."""
    return max(_MIN_STEPS, min(60, ceil(interval / 1000 / speed)))


def _start_time(series: ReplaySeries, options: SandboxOptions) -> int:
    """Return the moment of the file (UTC ms) that corresponds to the present."""
    if options.start is not None:
        if not series.start[0] <= options.start <= series.start[-1]:
            raise UsageError(
                f"--start lies outside of the bars of {series.symbol}", hint="choose a time within the file"
            )
        return options.start
    bars = min(len(series) // 2, _HISTORY_BARS) if options.history_bars is None else options.history_bars
    if bars >= len(series):
        raise UsageError(
            f"--history-bars {bars}: the file of {series.symbol} has only {len(series)} bars",
            hint="use a smaller number, so that bars are left to play",
        )
    return int(series.start[bars])


def _files(options: SandboxOptions) -> list[KlineFile]:
    """Return the kline files under the symbols given by the options."""
    names: Iterable[str | None] = (
        options.symbols if len(options.symbols) == len(options.klines) else [None] * len(options.klines)
    )
    stated = [KlineFile.parse_argument(str(path)) for path in options.klines]
    files = [KlineFile(Path(path), given or name) for (path, given), name in zip(stated, names, strict=True)]
    chosen = [file for file in files if not options.symbols or file.symbol in options.symbols]
    missing = set(options.symbols) - {file.symbol for file in chosen}
    if missing or not chosen:
        given_names = ", ".join(file.symbol for file in files) or "none"
        raise UsageError(
            f"no kline file of {', '.join(sorted(missing)) or 'any symbol'}; the files are of {given_names}",
            hint="give one --symbol for each file, or name them SYMBOL=FILE",
        )
    if len({file.symbol for file in chosen}) < len(chosen):
        raise UsageError("two kline files are of the same symbol", hint="name them SYMBOL=FILE")
    return chosen
