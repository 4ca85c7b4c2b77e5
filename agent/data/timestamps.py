"""Conversion of times in files to UTC milliseconds.

Integers are seconds, milliseconds, microseconds or nanoseconds since 1970, distinguished by their size.
Datetimes and ISO 8601 texts must have an offset from UTC, or the caller must state their time zone.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agent.core.errors import DataError
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.data.columns import as_arrow, as_numpy, display, first_uncastable, location

_UNITS: Final = {
    "s": (1, "seconds"),
    "ms": (1_000, "milliseconds"),
    "us": (1_000_000, "microseconds"),
    "ns": (1_000_000_000, "nanoseconds"),
}
"""Unit -> units per second, and name."""
_EARLIEST_S: Final = 31_536_000  # 1971: with a wrong unit, times are in 1970
_LATEST_S: Final = 4_102_444_800  # 2100: up to here the ranges of the four units don't overlap
_FEWEST_DATES: Final = 5  # midnights that can't be a coincidence
_OFFSET_STEP: Final = 15 * MINUTE_MS  # time zones' offsets from UTC are multiples of it
_OFFSET: Final = "write times with their offset, e.g. 2024-01-31T12:00:00"
_HINT: Final = f'{_OFFSET}+00:00, or state the zone, e.g. timezone="UTC"'
_WITH_OFFSET: Final = f'{_OFFSET}-05:00, or in UTC, and state timezone="UTC"'


class TimeColumn:
    """Reads one column of times, batch by batch. `unit` is the unit found: `seconds`, …, or `datetimes`.

    With `publications` the column states when something was published. A date without a time is then the end
    of its day, as it may have been published that late, and is counted in `dates`; a local time that occurs
    twice, as clocks are set back, is the later of the two. Otherwise a date is the beginning of its day, and
    an ambiguous time is an error.
    """

    def __init__(
        self, path: Path, name: str, *, timezone: str | None = None, publications: bool = False
    ) -> None:
        self.unit = ""
        self.dates = 0
        self._publications = publications
        self._path = path
        self._name = name
        self._timezone = timezone
        self._key = ""  # of _UNITS, found in the first batch

    def read(self, values: pa.Array, first_row: int) -> NDArray[np.int64]:
        """Return UTC milliseconds, rounded down; 0 if a time is missing.

        Raises DataError that names the first row whose time is naive, invalid, or outside 1971 to 2100.
        """
        missing = _mask(pc.is_null(values))
        if missing.all():
            return np.zeros(len(values), np.int64)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        kind = values.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            texts = _iso(pc.utf8_trim_whitespace(values))
            if self._publications and (dated := _dates_of(texts)) is not None:
                return self._ends_of_days(texts, dated, missing, first_row)
            values = self._parse(texts, first_row)
        elif self._publications and pa.types.is_date(kind):
            return self._ends_of_days(values, pc.is_valid(values), missing, first_row)
        elif pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None):
            values = self._localise(values, first_row)
        elif not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise DataError(
                f"{self._path}: column {self._name} holds {kind}, which is not a time", hint=_HINT
            )
        if pa.types.is_timestamp(values.type):
            self.unit = "datetimes"
            return self._instants(values, missing, first_row)
        return self._integers(values, missing, first_row)

    def _parse(self, texts: pa.Array, first_row: int) -> pa.Array:
        """Parse texts as numbers or as aware datetimes, depending on the first one."""
        if re.fullmatch(r"\d+(\.\d+)?", texts.drop_null()[0].as_py()):
            try:
                return texts.cast(pa.int64())
            except pa.ArrowException:
                return self._cast(texts, pa.float64(), first_row)
        aware, naive = pa.timestamp("ns", tz="UTC"), pa.timestamp("ns")
        try:
            return texts.cast(aware)
        except pa.ArrowException:
            if self._timezone is not None:
                return self._localise(self._cast(texts, naive, first_row), first_row)
        index = first_uncastable(texts, aware)
        self._cast(texts.slice(index, 1), naive, first_row + index)  # raises if it isn't a time
        raise self._naive(texts, index, first_row)

    def _localise(self, values: pa.Array, first_row: int) -> pa.Array:
        if self._timezone is None:
            raise self._naive(values, values.is_valid().index(True).as_py(), first_row)
        local = values.cast(pa.timestamp("ms"), safe=False)
        how = {"ambiguous": "latest", "nonexistent": "latest"} if self._publications else {}
        try:
            return pc.assume_timezone(local, self._timezone, **how)
        except pa.ArrowException as error:
            bad = next((n for n in range(len(local)) if not _is_local(local.slice(n, 1), self._timezone)), 0)
            where, reason = location(self._path, first_row + bad, self._name), str(error).split("\n")[0]
            for sign, what in (
                ("ambiguous", "occurs twice, as clocks are set back"),
                ("exist", "is left out, as clocks are set forward"),
            ):
                if sign in reason:
                    reason = f"{display(local[bad], str)} {what}"
            message = f"{where}: in the time zone {self._timezone}, {reason}"
            raise DataError(message, hint=_WITH_OFFSET) from None

    def _ends_of_days(
        self, values: pa.Array, dated: pa.Array, missing: NDArray[np.bool_], first_row: int
    ) -> NDArray[np.int64]:
        """Return dates as the last millisecond of their day, and other times unchanged."""
        days = pc.if_else(dated, values, pa.scalar(None, values.type))
        self.dates += pc.sum(dated.cast(pa.int64())).as_py() or 0
        dates = self._cast(days, pa.date32(), first_row)
        following = pc.add(dates.cast(pa.timestamp("ms")), pa.scalar(DAY_MS, pa.duration("ms")))
        self.unit = "datetimes"
        undated = _mask(pc.is_null(following))
        ends = self._instants(self._localise(following, first_row), undated, first_row) - 1
        others = pc.if_else(dated, pa.scalar(None, values.type), values)
        return np.where(missing, 0, np.where(undated, self.read(others, first_row), ends))

    def _naive(self, values: pa.Array, index: int, first_row: int) -> DataError:
        where = location(self._path, first_row + index, self._name)
        return DataError(f"{where}: {display(values[index], str)} is naive: it has no time zone", hint=_HINT)

    def _cast(self, texts: pa.Array, kind: pa.DataType, first_row: int) -> pa.Array:
        try:
            return texts.cast(kind)
        except pa.ArrowException:
            index = first_uncastable(texts, kind)
            where = location(self._path, first_row + index, self._name)
            raise DataError(f"{where}: {texts[index].as_py()!r} is not a time", hint=_HINT) from None

    def _instants(self, moments: pa.Array, missing: NDArray[np.bool_], first_row: int) -> NDArray[np.int64]:
        ms = pc.cast(moments, pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64())
        raw: NDArray[np.int64] = as_numpy(pc.fill_null(ms, 0) if ms.null_count else ms)
        bad = ((raw < _EARLIEST_S * 1_000) | (raw > _LATEST_S * 1_000)) & ~missing
        if bad.any():
            index = int(bad.argmax())
            where = location(self._path, first_row + index, self._name)
            time, hint = np.datetime64(int(raw[index]), "ms"), "was it made from integers of another unit?"
            raise DataError(f"{where}: {time} is outside 1971 to 2100", hint=hint)
        return raw

    def _integers(self, values: pa.Array, missing: NDArray[np.bool_], first_row: int) -> NDArray[np.int64]:
        kind = pa.int64() if pa.types.is_integer(values.type) else pa.float64()
        values = self._cast(values, kind, first_row)
        raw = as_numpy(pc.fill_null(values, 0) if values.null_count else values)
        first = float(raw[missing.argmin()])
        if not self._key and _is_calendar(f"{first:.0f}"):
            where = location(self._path, first_row + int(missing.argmin()), self._name)
            found = f"{first:.0f} is a date in digits, not a time since 1970"
            raise DataError(f"{where}: {found}", hint="write 2025-03-03T14:00")
        fitting = (unit for unit, (scale, _) in _UNITS.items() if first <= 1e10 * scale)
        self._key = self._key or next(fitting, "ns")
        scale, self.unit = _UNITS[self._key]
        bad = ~((raw >= _EARLIEST_S * scale) & (raw <= _LATEST_S * scale)) & ~missing  # NaN is bad too
        if bad.any():
            index = int(bad.argmax())
            raise self._wrong_unit(float(raw[index]), location(self._path, first_row + index, self._name))
        ms = raw // (scale // 1_000) if scale >= 1_000 else raw * 1_000
        return ms.astype(np.int64, copy=False)

    def _wrong_unit(self, value: float, where: str) -> DataError:
        for scale, name in _UNITS.values():
            if _EARLIEST_S * scale <= value <= _LATEST_S * scale:
                found = f"{value:.0f} is in {name}, the rows before are in {self.unit}"
                return DataError(f"{where}: {found}", hint="use one unit")
        time = np.datetime64(int(value / _UNITS[self._key][0]), "s") if abs(value) < 1e18 else "no time"
        return DataError(
            f"{where}: {value:.0f}, read as {self.unit}, is {time}",
            hint="times are integers since 1970 in seconds, ms, µs or ns, between 1971 and 2100",
        )


def _is_calendar(digits: str) -> bool:
    """Return whether an integer can be YYYYMMDD, YYYYMMDDHHMM or YYYYMMDDHHMMSS of 1971 to 2100."""
    form = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}.get(len(digits))
    try:
        return form is not None and 1971 <= datetime.strptime(digits, form).year <= 2100  # noqa: DTZ007
    except ValueError:
        return False


def _iso(texts: pa.Array) -> pa.Array:
    """Convert `2025-01-01 00:00 UTC`, `2025.01.01 00:00`, `20250101 000000` and `2025-1-1` to ISO 8601."""
    sample = texts.drop_null()[0].as_py()
    if sample.upper().endswith(("UTC", "GMT")):
        texts = pc.replace_substring_regex(texts, r"(?i)\s*(UTC|GMT)$", "Z")
    if re.match(r"\d{4}[./]\d{1,2}[./]\d{1,2}", sample):
        texts = pc.replace_substring_regex(texts, r"^(\d{4})[./](\d{1,2})[./](\d{1,2})", r"\1-\2-\3")
    if re.fullmatch(r"\d{8} [\d:.]+", sample):
        texts = pc.replace_substring_regex(texts, r"^(\d{4})(\d\d)(\d\d) ", r"\1-\2-\3 ")
        texts = pc.replace_substring_regex(texts, r" (\d\d)(\d\d)(\d\d)$", r" \1:\2:\3")
        texts = pc.replace_substring_regex(texts, r" (\d\d)(\d\d)$", r" \1:\2")
    if sample.isdigit():
        return texts
    if pc.any(pc.match_substring_regex(texts, r"^\d{4}-(\d-|\d\d-\d(\D|$))")).as_py():
        texts = pc.replace_substring_regex(texts, r"^(\d{4})-(\d)-", r"\1-0\2-")
        texts = pc.replace_substring_regex(texts, r"^(\d{4}-\d\d)-(\d)(\D|$)", r"\1-0\2\3")
    return texts


def _dates_of(texts: pa.Array) -> pa.Array | None:
    """Return which of `texts` are dates without a time; None without any."""
    dated = pc.match_substring_regex(texts, r"^\d{4}-\d{1,2}-\d{1,2}$")
    return dated if pc.any(dated).as_py() else None


def _mask(values: pa.Array) -> NDArray[np.bool_]:
    return as_numpy(values.cast(pa.uint8())).view(np.bool_)


def ends_of_days(moments: NDArray[np.int64], timezone: str | None) -> NDArray[np.int64]:
    """Return times (UTC ms, 0: missing); if most are midnights, these as the last millisecond of their day.

    Most times are midnights of `timezone` if a file of dates was saved as times. Fewer than five midnights,
    or less than four fifths, are left unchanged. Ends of days aren't counted, since they were dates already.
    """
    zone = timezone or "UTC"
    local = pc.local_timestamp(as_arrow(moments, pa.timestamp("ms", tz=zone)))
    time_of_day = as_numpy(local.cast(pa.int64())) % DAY_MS
    known = (moments > 0) & (time_of_day != DAY_MS - 1)
    midnights = known & (time_of_day == 0)
    if not _most(int(midnights.sum()), int(known.sum())):
        return moments
    following = pc.assume_timezone(
        pc.add(local, pa.scalar(DAY_MS, pa.duration("ms"))), zone, ambiguous="latest", nonexistent="latest"
    )
    return np.where(midnights, as_numpy(following.cast(pa.int64())) - 1, moments)


def foreign_midnights(moments: NDArray[np.int64]) -> tuple[int, str]:
    """Return the number of times (UTC ms, 0: missing) at midnight of another zone, and that time of day.

    As clocks change, that may be two times of day an hour apart (`04:00 or 05:00`). At least five times and
    four fifths of all must be at it, as for `ends_of_days`; else (0, "") is returned.
    """
    time_of_day = moments % DAY_MS
    known = moments[(moments > 0) & (time_of_day != DAY_MS - 1)]
    counts = Counter(((known % DAY_MS)[known % _OFFSET_STEP == 0]).tolist())
    best, times = 0, tuple[int, ...]()
    for time, count in sorted(counts.items()):
        later = (time + HOUR_MS) % DAY_MS
        both = count + counts[later]
        if both > best:
            best, times = both, (time, later) if counts[later] else (time,)
    if not _most(best, len(known)):
        return 0, ""
    return best, " or ".join(f"{time // HOUR_MS:02}:{time % HOUR_MS // MINUTE_MS:02}" for time in times)


def _most(count: int, total: int) -> bool:
    return count >= _FEWEST_DATES and count * 5 >= total * 4


def _is_local(moment: pa.Array, timezone: str) -> bool:
    """Return False for a local time that `timezone` skips or has twice."""
    try:
        pc.assume_timezone(moment, timezone)
    except pa.ArrowException:
        return False
    return True
