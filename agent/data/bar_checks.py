"""Checks of bars, a batch at a time with numpy: consistent prices, and one bar per interval, in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.core.durations import format_bar_length, format_duration
from agent.core.errors import DataError
from agent.data.calendar_bars import Calendar
from agent.system.clock import iso

Floats = NDArray[np.float64]

VALUES: Final = ("open", "high", "low", "close", "volume", "turnover")
"""Columns of a bar; turnover is optional in files."""

# high and low may miss open and close by this fraction: the rounding error of back-adjusted prices
_ROUNDING: Final = 1e-9
_MIXED_RUN: Final = 6  # this many equal steps in a row are another interval, not gaps


@dataclass(frozen=True, slots=True)
class Bars:
    """Consecutive bars, as columns: open and close times (UTC ms), and the values named by `VALUES`.

    `previous_close` is the close time of the bar before each, and `step` the distance (ms) between their open
    times; for calendar bars in whole intervals (`Calendar.steps`).
    """

    start: NDArray[np.int64]
    close: NDArray[np.int64]
    previous_close: NDArray[np.int64]
    step: NDArray[np.int64]
    values: tuple[Floats, ...]

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, index: slice | NDArray[np.bool_]) -> Bars:
        values = tuple(column[index] for column in self.values)
        return Bars(
            self.start[index], self.close[index], self.previous_close[index], self.step[index], values
        )


class BarCheck:
    """Checks a file's bars batch by batch.

    `name` is the file's name in errors. `duplicates` counts the dropped bars. A file with a `calendar` must
    be one batch.
    """

    def __init__(
        self, name: str, interval: int, *, around_the_clock: bool, calendar: Calendar | None = None
    ) -> None:
        self.duplicates = 0
        self._name = name
        self._interval = interval
        self._around_the_clock = around_the_clock
        self._calendar = calendar
        self._last: Bars | None = None  # the bar before the batch
        self._bars = 0
        # consecutive equal steps that differ from the interval: last bar's number, step, length, first row
        self._odd_run = (0, 0, 0, 0)

    def check(self, start: NDArray[np.int64], values: tuple[Floats, ...], first_row: int) -> Bars:
        """Return the batch as bars without duplicates. Raises DataError that names the first wrong row."""
        values = self._checked_values(values, first_row)
        before = int(self._last.start[0]) if self._last else int(start[0]) - self._interval
        calendar = self._calendar
        step = np.diff(start, prepend=before) if calendar is None else calendar.steps(start)
        bars = Bars(start, start + self._interval, start - step + self._interval, step, values)
        if not (bars.step == self._interval).all():
            bars = self._in_order(bars, first_row)
        if calendar is not None:
            close = calendar.closes(bars.start, bars.step)
            bars = replace(bars, close=close, previous_close=np.concatenate((bars.start[:1], close[:-1])))
        self._bars += len(bars)
        self._last = bars[-1:] if len(bars) else self._last
        return bars

    # -- prices ----------------------------------------------------------------------------------------------

    def _checked_values(self, values: tuple[Floats, ...], first_row: int) -> tuple[Floats, ...]:
        """Return the values with high and low corrected for rounding.

        Raises DataError for an impossible bar.
        """
        opened, high, low, close, volume, *turnover = values
        if _sane(opened, high, low, close, volume, *turnover).all():
            return values
        top, bottom = np.maximum(opened, close), np.minimum(opened, close)
        high = np.where((high < top) & (high >= top * (1 - _ROUNDING)), top, high)
        low = np.where((low > bottom) & (low <= bottom * (1 + _ROUNDING)), bottom, low)
        sane = _sane(opened, high, low, close, volume, *turnover)
        if not sane.all():
            index = int(sane.argmin())
            row = dict(zip(VALUES, (column[index].item() for column in values), strict=False))
            where = f"{self._name}: row {first_row + index}"
            raise DataError(f"{where}, {_describe_fault(row)}", hint="correct or remove the row")
        return opened, high, low, close, volume, *turnover

    # -- order -----------------------------------------------------------------------------------------------

    def _in_order(self, bars: Bars, first_row: int) -> Bars:
        step = bars.step
        if (step < 0).any():
            index = int((step < 0).argmax())
            now = int(bars.start[index])
            before = int(bars.start[index - 1]) if index else now - int(step[index])
            where = f"{self._name}: row {first_row + index}, column open_time"
            raise DataError(
                f"{where}: {iso(now)} comes after {iso(before)}", hint="sort the file by open time"
            )
        rows = np.arange(first_row, first_row + len(bars))
        if (step == 0).any():
            self._refuse_conflicts(bars, first_row)
            kept = step > 0
            bars, rows = bars[kept], rows[kept]
            self.duplicates += int(len(step) - len(bars))
        off = bars.step < self._interval
        if self._around_the_clock:
            off |= bars.step % self._interval != 0
        if off.any():
            raise self._mixed_intervals(int(rows[off.argmax()]), int(bars.step[off.argmax()]))
        for index in np.flatnonzero(bars.step != self._interval).tolist():
            self._count_odd(self._bars + index, int(bars.step[index]), int(rows[index]))
        return bars

    def _refuse_conflicts(self, bars: Bars, first_row: int) -> None:
        """Raise DataError if bars of the same time differ in a value."""
        for number, column in enumerate(bars.values):
            before = np.concatenate((self._last.values[number] if self._last else column[:1], column[:-1]))
            differs = (bars.step == 0) & (column != before) & ~(np.isnan(column) & np.isnan(before))
            if differs.any():
                index = int(differs.argmax())
                time = iso(int(bars.start[index]))
                raise DataError(
                    f"{self._name}: row {first_row + index} is a second bar of {time}, "
                    f"with {VALUES[number]} {column[index]}, and the row before has {before[index]}",
                    hint="keep one of the two",
                )

    def _count_odd(self, number: int, step: int, row: int) -> None:
        """Raise DataError once `_MIXED_RUN` consecutive bars have one other step, their real interval."""
        last, last_step, length, first = self._odd_run
        if (number, step) != (last + 1, last_step):
            length, first = 0, row
        self._odd_run = (number, step, length + 1, first)
        if length + 1 == _MIXED_RUN:
            raise self._mixed_intervals(first, step)

    def _mixed_intervals(self, row: int, step: int) -> DataError:
        found = f"row {row} comes {format_duration(step)} after the bar before it"
        expected = f"but bars are {format_bar_length(self._interval)} apart"
        hint = "keep bars of one interval in a file"
        return DataError(f"{self._name}: mixed intervals: {found}, {expected}", hint=hint)


def _sane(
    opened: Floats, high: Floats, low: Floats, close: Floats, volume: Floats, *turnover: Floats
) -> NDArray[np.bool_]:
    """Return which bars are possible; every comparison with NaN is False."""
    sane: NDArray[np.bool_] = (
        (low > 0) & (low <= opened) & (low <= close) & (high >= opened) & (high >= close) & (high < np.inf)
    )
    sane &= (volume >= 0) & (volume < np.inf)
    for column in turnover:
        sane &= ~((column < 0) | (column == np.inf))  # NaN: unknown
    return sane


def _describe_fault(row: dict[str, float]) -> str:
    for name, value in row.items():
        what = f"column {name}: {value}"
        if value != value and name != "turnover":
            return f"column {name}: missing or not a number"
        if value in (np.inf, -np.inf):
            return f"{what} is not finite"
        if name in ("volume", "turnover") and value < 0:
            return f"{what} is negative; it must be 0 or more"
        if name not in ("volume", "turnover") and value <= 0:
            return f"{what} is {'zero' if value == 0 else 'negative'}; a price must be above 0"
    if row["high"] < row["low"]:
        return f"column high: {row['high']} is below low {row['low']}"
    if row["high"] < max(row["open"], row["close"]):
        return f"column high: {row['high']} is below the bar's own open {row['open']} or close {row['close']}"
    return f"column low: {row['low']} is above the bar's own open {row['open']} or close {row['close']}"
