"""The stream of events in total order, with the bars of files as columns.

The bars between two other events are one slice of a block (`agent.core.bar_block`), so that no event object
is made for a bar. The order is that of `agent.data.merge`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol, runtime_checkable

import msgspec
import numpy as np

from agent.core.bar_block import BarBlock
from agent.core.events import PRIORITY, Event, Gap, Kline
from agent.data.bar_checks import Bars, Floats
from agent.data.merge import merge

_BARS: Final = PRIORITY[Kline]
_ROWS: Final = 16_384
"""Bars of a block, about: a block ends with a period, and with a batch of a file."""

_NOTHING: Final = np.empty(0, np.int64)
_NO_BARS: Final = Bars(_NOTHING, _NOTHING, _NOTHING, _NOTHING, ())


@runtime_checkable
class BlockSource(Protocol):
    """A source of one symbol's bars that has them as columns, such as `KlineFile`."""

    symbol: str
    interval: int  # ms

    def blocks(self) -> Iterator[Bars | Gap]:
        """Yield the bars as columns in order of time, and the gaps between them."""
        ...


class BarSlice(msgspec.Struct, frozen=True, gc=False):
    """The bars `first` to `last` - 1 of a block."""

    block: BarBlock
    first: int
    last: int


def block_stream(sources: Sequence[Iterable[Event]]) -> Iterator[Event | BarSlice]:
    """Yield the events of all `sources` in total order, the bars of those that have columns in slices.

    Lazy: one block is held, and the other events of its time. Raises as `merge`, and ValueError if another
    source holds a bar.
    """
    files = [source for source in sources if isinstance(source, BlockSource)]
    others = merge([source for source in sources if not isinstance(source, BlockSource)])
    following = next(others, None)
    for block, gaps in _blocks(files):
        due: list[Event] = []
        last = int(block.end[-1])
        while following is not None:
            ts = following.available_at  # usually decides alone
            if ts >= last and (ts > last or PRIORITY[type(following)] >= _BARS):
                break
            if type(following) is Kline:
                raise ValueError(f"a bar of {following.symbol} is among sources without columns")
            due.append(following)
            following = next(others, None)
        if gaps:
            due = sorted([*due, *gaps], key=_place)
        done = 0
        for event, row in zip(due, _rows_before(block, due), strict=True):
            if row > done:
                yield BarSlice(block, done, row)
                done = row
            yield event
        if done < len(block):
            yield BarSlice(block, done, len(block))
    if following is not None:
        yield following
        yield from others


def _rows_before(block: BarBlock, events: list[Event]) -> list[int]:
    """Return the number of the block's bars that come before each event."""
    if not events:
        return []
    # those that come before a bar of their time are placed as if they came a millisecond earlier
    times = [event.available_at - (PRIORITY[type(event)] < _BARS) for event in events]
    before: list[int] = block.end.searchsorted(np.array(times), "right").tolist()
    return before


def _place(event: Event) -> tuple[int, int]:
    return event.available_at, PRIORITY[type(event)]


class _Column:
    """The bars of one source that have been read and not yet passed on; none are left at its end."""

    def __init__(self, source: BlockSource) -> None:
        self._parts = source.blocks()
        self.bars = _NO_BARS
        self._gaps: list[Gap] = []
        self._read()

    def _read(self) -> None:
        """Read on if nothing is left."""
        while not len(self.bars):
            part = next(self._parts, None)
            if part is None:
                return
            if isinstance(part, Gap):
                self._gaps.append(part)
            else:
                self.bars = part

    @property
    def horizon(self) -> int:
        """The end of the last bar that has been read, at most a block ahead; UTC ms."""
        return int(self.bars.close[min(len(self.bars), _ROWS) - 1])

    def take(self, until: int) -> tuple[Bars, list[Gap]]:
        """Return and forget the bars and gaps up to `until` (UTC ms)."""
        row = int(self.bars.close.searchsorted(until, "right"))
        taken, self.bars = self.bars[:row], self.bars[row:]
        gaps = [gap for gap in self._gaps if gap.available_at <= until]
        self._gaps = self._gaps[len(gaps) :]
        self._read()
        return taken, gaps


def _blocks(sources: Sequence[BlockSource]) -> Iterator[tuple[BarBlock, list[Gap]]]:
    """Yield the bars in blocks of whole periods, and the gaps of each block's time."""
    columns = [_Column(source) for source in sources]
    symbols = tuple(source.symbol for source in sources)
    while left := [column.horizon for column in columns if len(column.bars)]:
        until = min(left)
        taken, gaps, numbers = list[Bars](), list[Gap](), list[int]()
        for number, column in enumerate(columns):
            bars, own = column.take(until)
            gaps += own
            if len(bars):
                taken.append(bars)
                numbers.append(number)
        gaps.sort(key=lambda gap: gap.available_at)  # stable: of equal times, the first source's comes first
        yield _joined(symbols, sources[0].interval, numbers, taken), gaps


def _joined(symbols: tuple[str, ...], interval: int, numbers: list[int], taken: list[Bars]) -> BarBlock:
    if len(taken) == 1:
        (bars,) = taken
        return BarBlock((symbols[numbers[0]],), interval, None, bars.start, bars.close, bars.values)
    width = max(len(bars.values) for bars in taken)
    which = np.concatenate([np.full(len(bars), number) for number, bars in zip(numbers, taken, strict=True)])
    end = np.concatenate([bars.close for bars in taken])
    order = np.argsort(end, kind="stable")  # of equal times, the first file's bar comes first
    values = tuple(np.concatenate([_values(bars, index) for bars in taken])[order] for index in range(width))
    start = np.concatenate([bars.start for bars in taken])
    return BarBlock(symbols, interval, which[order], start[order], end[order], values)


def _values(bars: Bars, index: int) -> Floats:
    """Return a column of values; NaN if the file has none (turnover)."""
    return bars.values[index] if index < len(bars.values) else np.full(len(bars), np.nan)
