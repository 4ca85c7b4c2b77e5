"""The accelerated market: tapes played against a clock, and what can be seen of each symbol at any moment."""

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
from agent.sandbox.options import SandboxOptions
from agent.sandbox.tape import Bar, Move, Tape
from agent.system.clock import ScaledClock, WallClock

_HISTORY_BARS: Final = 1_000
_RECENT_TRADES: Final = 1_000
_FEWEST_STEPS: Final = 4  # open, two extremes, close


class Trade(NamedTuple):
    """One public trade; `uptick` compares with the price before."""

    symbol: str
    time: int
    price: float
    size: float
    side: str
    uptick: bool
    number: int


class Listener(Protocol):
    """Is told what happens, in order."""

    def on_trade(self, trade: Trade) -> None:
        """The price of a symbol has moved."""
        ...

    def on_close(self, symbol: str, index: int) -> None:
        """A bar of the file is complete."""
        ...


@dataclass(slots=True)
class Quote:
    """What stands now of one symbol: `done` prices of bar `index` have been seen."""

    tape: Tape
    index: int
    done: int
    last: float
    trades: deque[Trade] = field(default_factory=lambda: deque(maxlen=_RECENT_TRADES))

    def day(self) -> Bar:
        """The last 24 hours as one bar."""
        return self.tape.window(self.index, self.done, DAY_MS)

    def hour(self) -> Bar:
        """The last hour as one bar."""
        return self.tape.window(self.index, self.done, HOUR_MS)


class Market:
    """All tapes on one clock. `clock` starts at the machine's time and runs `speed` times as fast; `time` is how far it was played.

    `shift` is what was added to the files' times (ms); `ended` is set once nothing will move any more.
    """

    def __init__(self, options: SandboxOptions) -> None:
        tapes = [
            Tape(
                file.symbol,
                file.interval,
                file,
                steps=options.steps or _steps(file.interval, options.speed),
                seed=options.seed,
            )
            for file in _files(options)
        ]
        start = _first_live(tapes[0], options)
        self.speed = options.speed
        self.time = WallClock().now()
        self.clock = ScaledClock(self.time, options.speed)
        self.ended = asyncio.Event()
        self.listeners: list[Listener] = []
        self._loop = options.loop
        self._numbers = count(1)
        widest = max(tape.interval for tape in tapes)
        self.shift = self.time // widest * widest - start // widest * widest
        self.quotes = {tape.symbol: self._open(tape) for tape in tapes}
        self._first = {symbol: quote.index for symbol, quote in self.quotes.items()}
        self._moves = heapq.merge(*(self._future(quote) for quote in self.quotes.values()))
        self._next = next(self._moves, None)

    def _open(self, tape: Tape) -> Quote:
        tape.shift(self.shift)
        index = tape.index_at(self.time)
        if index < 0:
            raise DataError(
                f"{tape.symbol}: its first bar begins after the market's start", hint="choose a later --start"
            )
        done = sum(move.time <= self.time for move in tape.moves(index))
        if done:
            return Quote(tape, index, min(done, tape.steps), tape.path(index)[min(done, tape.steps) - 1])
        return Quote(tape, index, 0, tape.bar(index - 1).close if index else tape.bar(0).open)

    def next_funding(self, interval_ms: int) -> int:
        """The next stamp on the market's clock, UTC ms."""
        return (self.time // interval_ms + 1) * interval_ms

    # -- playing -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Play until the files end, or for ever if they loop."""
        while (move := self._next) is not None:
            await asyncio.sleep(max(0.0, (move.time - self.clock.now()) / 1000 / self.speed))
            if move is self._next:
                self._play(move)
        self.ended.set()

    def catch_up(self) -> None:
        """Play what is due at once: an answer that states the time must not lack what happened before it."""
        now = self.clock.now()
        while self._next is not None and self._next.time <= now:
            self._play(self._next)

    def _play(self, move: Move) -> None:
        self._next = next(self._moves, None)
        self._apply(move)

    def _future(self, quote: Quote) -> Iterator[Move]:
        tape, begin = quote.tape, self.time
        for index in count(quote.index):
            if index == len(tape):
                if not self._loop:
                    return
                tape.repeat(self._first[tape.symbol])
            for move in tape.moves(index):
                if move.time > begin:
                    yield move

    def _apply(self, move: Move) -> None:
        self.time = max(self.time, move.time)
        quote = self.quotes[move.symbol]
        tape = quote.tape
        if move.step == tape.steps:
            for listener in self.listeners:
                listener.on_close(move.symbol, move.bar)
            return
        price = tape.path(move.bar)[move.step]
        trade = Trade(
            move.symbol,
            move.time,
            price,
            tape.bar(move.bar).volume / tape.steps,
            "Buy" if price >= quote.last else "Sell",
            price >= quote.last,
            next(self._numbers),
        )
        quote.index, quote.done, quote.last = move.bar, move.step + 1, price
        quote.trades.appendleft(trade)
        for listener in self.listeners:
            listener.on_trade(trade)


def _steps(interval: int, speed: float) -> int:
    """About one price a second of wall time."""
    return max(_FEWEST_STEPS, min(60, ceil(interval / 1000 / speed)))


def _first_live(tape: Tape, options: SandboxOptions) -> int:
    """The moment of the file that becomes now (UTC ms)."""
    if options.start is not None:
        if not tape.start[0] <= options.start <= tape.start[-1]:
            raise UsageError(
                f"--start lies outside of the bars of {tape.symbol}",
                hint="choose a moment that the file covers",
            )
        return options.start
    bars = min(len(tape) // 2, _HISTORY_BARS) if options.history_bars is None else options.history_bars
    if bars >= len(tape):
        raise UsageError(
            f"--history-bars {bars}: the file of {tape.symbol} has only {len(tape)} bars",
            hint="leave some to be played",
        )
    return int(tape.start[bars])


def _files(options: SandboxOptions) -> list[KlineFile]:
    """The kline files under the symbols that the options give them."""
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
