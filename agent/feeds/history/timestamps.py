"""Times as files state them, made into UTC milliseconds: nothing is guessed that can't be checked.

Integers are seconds, milliseconds, microseconds or nanoseconds, told apart by magnitude; datetimes and ISO 8601 texts must
carry their offset from UTC, or the caller must say which time zone they are in.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agent.errors import DataError
from agent.feeds.history.columns import as_numpy, first_uncastable, place, shown

_UNITS: Final = {
    "s": (1, "seconds"),
    "ms": (1_000, "milliseconds"),
    "us": (1_000_000, "microseconds"),
    "ns": (1_000_000_000, "nanoseconds"),
}
"""Unit -> how many make a second, and its name."""
_EARLIEST_S: Final = 31_536_000  # 1971: a wrong unit reads as 1970
_LATEST_S: Final = 4_102_444_800  # 2100: up to here the ranges of the four units don't overlap
_HINT: Final = 'write times with their offset, e.g. 2024-01-31T12:00:00+00:00, or state the zone, e.g. timezone="UTC"'


class TimeColumn:
    """Reads one column of times, batch by batch. `unit` states what was understood: `seconds`, …, or `datetimes`."""

    def __init__(self, path: Path, name: str, *, timezone: str | None = None) -> None:
        self.unit = ""
        self._path = path
        self._name = name
        self._timezone = timezone
        self._key = ""  # of _UNITS, fixed by the first batch

    def read(self, values: pa.Array, first_row: int) -> NDArray[np.int64]:
        """UTC milliseconds, rounded down; 0 where the time is missing.

        Raises DataError naming the first row that is naive, no time at all, or outside of 1971 to 2100.
        """
        missing = as_numpy(pc.is_null(values).cast(pa.uint8())).view(np.bool_)
        if missing.all():
            return np.zeros(len(values), np.int64)
        if pa.types.is_dictionary(values.type):
            values = values.dictionary_decode()
        kind = values.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            values = self._parse(pc.utf8_trim_whitespace(values), first_row)
        elif pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None):
            values = self._localise(values, first_row)
        elif not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise DataError(f"{self._path}: column {self._name} holds {kind}, which is no time", hint=_HINT)
        if pa.types.is_timestamp(values.type):
            self.unit = "datetimes"
            return self._instants(values, missing, first_row)
        return self._integers(values, missing, first_row)

    def _parse(self, texts: pa.Array, first_row: int) -> pa.Array:
        """Texts as numbers or aware datetimes, whatever the first of them is."""
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
        self._cast(texts.slice(index, 1), naive, first_row + index)  # raises where it is no time at all
        raise self._naive(texts, index, first_row)

    def _localise(self, values: pa.Array, first_row: int) -> pa.Array:
        if self._timezone is None:
            raise self._naive(values, values.is_valid().index(True).as_py(), first_row)
        try:
            return pc.assume_timezone(values.cast(pa.timestamp("ms"), safe=False), self._timezone)
        except pa.ArrowException as error:
            raise DataError(f"{self._path}: column {self._name} in the time zone {self._timezone}: {error}") from None

    def _naive(self, values: pa.Array, index: int, first_row: int) -> DataError:
        where = place(self._path, first_row + index, self._name)
        return DataError(f"{where}: {shown(values[index], str)} is naive: it doesn't say in which time zone", hint=_HINT)

    def _cast(self, texts: pa.Array, kind: pa.DataType, first_row: int) -> pa.Array:
        try:
            return texts.cast(kind)
        except pa.ArrowException:
            index = first_uncastable(texts, kind)
            where = place(self._path, first_row + index, self._name)
            raise DataError(f"{where}: {texts[index].as_py()!r} is no time", hint=_HINT) from None

    def _instants(self, moments: pa.Array, missing: NDArray[np.bool_], first_row: int) -> NDArray[np.int64]:
        ms = pc.cast(moments, pa.timestamp("ms", tz="UTC"), safe=False).cast(pa.int64())
        raw: NDArray[np.int64] = as_numpy(pc.fill_null(ms, 0) if ms.null_count else ms)
        bad = ((raw < _EARLIEST_S * 1_000) | (raw > _LATEST_S * 1_000)) & ~missing
        if bad.any():
            index = int(bad.argmax())
            where = place(self._path, first_row + index, self._name)
            moment = np.datetime64(int(raw[index]), "ms")
            raise DataError(f"{where}: {moment} is outside of 1971 to 2100", hint="was it made from integers of another unit?")
        return raw

    def _integers(self, values: pa.Array, missing: NDArray[np.bool_], first_row: int) -> NDArray[np.int64]:
        values = values.cast(pa.int64() if pa.types.is_integer(values.type) else pa.float64())
        raw = as_numpy(pc.fill_null(values, 0) if values.null_count else values)
        first = float(raw[missing.argmin()])
        self._key = self._key or next((unit for unit, (scale, _) in _UNITS.items() if first <= 1e10 * scale), "ns")
        scale, self.unit = _UNITS[self._key]
        bad = ~((raw >= _EARLIEST_S * scale) & (raw <= _LATEST_S * scale)) & ~missing  # NaN is bad too
        if bad.any():
            index = int(bad.argmax())
            raise self._wrong_unit(float(raw[index]), place(self._path, first_row + index, self._name))
        ms = raw // (scale // 1_000) if scale >= 1_000 else raw * 1_000
        return ms.astype(np.int64, copy=False)

    def _wrong_unit(self, value: float, where: str) -> DataError:
        for scale, name in _UNITS.values():
            if _EARLIEST_S * scale <= value <= _LATEST_S * scale:
                return DataError(f"{where}: {value:.0f} is in {name}, the rows before are in {self.unit}", hint="use one unit")
        moment = np.datetime64(int(value / _UNITS[self._key][0]), "s") if abs(value) < 1e18 else "no time"
        return DataError(
            f"{where}: {value:.0f}, read as {self.unit}, is {moment}",
            hint="times are integers since 1970 in seconds, ms, µs or ns and lie between 1971 and 2100",
        )
