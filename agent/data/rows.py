"""Small history files, read whole: times as UTC milliseconds, numbers as floats, texts in arrow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agent.core.errors import DataError
from agent.data.columns import OBJECTS, Aliases, as_arrow, as_json, match_columns, open_table, to_floats
from agent.data.timestamps import TimeColumn, ends_of_days, foreign_midnights

_BLOCK_ROWS: Final = 1_024
_LISTS: Final = frozenset({"currencies", "symbols"})  # columns whose values may be lists
_CODES: Final = ("code", "symbol", "ticker")  # fields with the ticker, if such a list holds objects


class Rows:
    """The `wanted` columns of the file at `path`, by canonical name.

    The columns of `times` are UTC ms (0 if missing), those of `numbers` floats (NaN if missing), all others
    texts, or lists of texts for `_LISTS`; the objects of `OBJECTS` become JSON texts. `names` maps canonical
    names to the file's. `publications` is as for `TimeColumn`.

    Raises DataError as `open_table` and `match_columns`, and for a value that isn't a time, number or UTF-8
    text.
    """

    def __init__(
        self,
        path: Path,
        wanted: Aliases,
        *,
        required: Sequence[str],
        times: Collection[str],
        numbers: Collection[str] = (),
        timezone: str | None = None,
        publications: bool = False,
    ) -> None:
        self.path = path
        self._timezone = timezone
        table = open_table(path)
        self.names = match_columns(table, wanted, required=required)
        readers = {
            column: TimeColumn(path, name, timezone=timezone, publications=publications)
            for column, name in self.names.items()
            if column in times
        }
        parts: dict[str, list[Any]] = {column: [] for column in self.names}
        for row, batch in table.batches(self.names):
            for column, values in batch.items():
                if column in readers:
                    parts[column].append(readers[column].read(values, row))
                elif column in numbers:
                    parts[column].append(to_floats(values, path, self.names[column], row))
                else:
                    parts[column].append(self._text(values, column))
        if not all(parts.values()):
            raise DataError(f"{path} holds no row, only its header", hint="fetch or export it again")
        self.dates = sum(reader.dates for reader in readers.values())
        """Number of times that are only a date (see `TimeColumn`)."""
        self.doubtful = ""
        """How many publications may be dates of another time zone; "" if none."""
        self.times: dict[str, NDArray[np.int64]]
        self.times = {c: np.concatenate(parts.pop(c)) for c in times if c in parts}
        self.numbers: dict[str, NDArray[np.float64]]
        self.numbers = {c: np.concatenate(parts.pop(c)) for c in numbers if c in parts}
        self._texts = {column: pa.chunked_array(found) for column, found in parts.items()}

    def publications(self) -> NDArray[np.int64]:
        """Return `times["published_at"]`; if most are midnights, these become the ends of their days.

        Counts them in `dates`, or sets `doubtful`.
        """
        published = self.times["published_at"]
        ends = ends_of_days(published, self._timezone)
        dated = int((ends != published).sum())
        self.dates += dated
        if not dated:
            count, time = foreign_midnights(published)
            if count:
                self.doubtful = f"{count:,} of {int((published > 0).sum()):,} headlines stand at {time} UTC"
        return ends

    def texts(self, order: NDArray[np.int64]) -> Iterator[dict[str, Any]]:
        """Yield the texts (None if missing) of the rows with these indices; they are decoded in blocks."""
        for start in range(0, len(order), _BLOCK_ROWS):
            indices = as_arrow(order[start : start + _BLOCK_ROWS], pa.int64())
            block = {column: values.take(indices).to_pylist() for column, values in self._texts.items()}
            for row in range(len(indices)):
                yield {column: values[row] for column, values in block.items()}

    def distinct(self, column: str) -> list[str]:
        """Return the different texts of a column; empty if the file lacks it."""
        if column not in self._texts:
            return []
        found: list[str] = self._texts[column].unique().drop_null().to_pylist()
        return found

    def _text(self, values: pa.Array, column: str) -> pa.Array:
        name = self.names[column]
        if column in OBJECTS and pa.types.is_nested(values.type):
            try:
                values = pa.array(as_json(_objects(values)), pa.large_string())
            except (ValueError, OverflowError, TypeError) as error:  # such as a time beyond Python's range
                raise DataError(f"{self.path}: column {name} can't be read: {error}") from None
        kind = values.type
        try:
            if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and column in _LISTS:
                if pa.types.is_struct(kind.value_type):
                    values = _codes(values)
                values = values.cast(pa.list_(pa.large_string()))
            else:
                values = values.cast(pa.large_string())
            values.validate(full=True)
        except pa.ArrowNotImplementedError:
            raise DataError(
                f"{self.path}: column {name} holds {kind}, not text", hint="write texts"
            ) from None
        except pa.ArrowException:
            raise DataError(
                f"{self.path} is not UTF-8: column {name}", hint="save its texts as UTF-8"
            ) from None
        return values


def _objects(values: pa.Array) -> list[Any]:
    """Return nested values as Python objects; maps become dictionaries."""
    found: list[Any] = values.to_pylist()
    if pa.types.is_map(values.type):
        return [None if pairs is None else dict(pairs) for pairs in found]
    return found


def _codes(lists: pa.Array) -> pa.Array:
    """Convert lists of objects to lists of their tickers; leave objects without a ticker unchanged."""
    fields = {lists.type.value_type.field(n).name for n in range(lists.type.value_type.num_fields)}
    code = next((name for name in _CODES if name in fields), None)
    if code is None:
        return lists
    rows = lists.to_pylist()
    found = [row and [None if item is None else item[code] for item in row] for row in rows]
    return pa.array(found, pa.list_(lists.type.value_type.field(code).type))
