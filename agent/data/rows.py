"""A small file held whole: times as UTC milliseconds, numbers as floats, texts left in arrow until they are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agent.core.errors import DataError
from agent.data.columns import Aliases, as_arrow, open_table, pick, to_floats
from agent.data.timestamps import TimeColumn, ends_of_days, foreign_midnights

_BLOCK_ROWS: Final = 1_024
_LISTS: Final = frozenset({"currencies", "symbols"})  # what may be several texts
_CODES: Final = ("code", "symbol", "ticker")  # of an object in such a list, as CryptoPanic has them


class Rows:
    """The `wanted` columns of the file at `path`, by our names: `times` (UTC ms, 0 where missing), `numbers` (NaN where
    missing), and all others as texts, or lists of texts if `_LISTS` names them. `names` maps our names to the file's. `publications`
    says what `times` are (see `TimeColumn`).

    Raises DataError as `open_table` and `pick` do, where a time, number or text isn't one, and where a text is not UTF-8.
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
        self.names = pick(table, wanted, required=required)
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
        """Times that state a date alone (see `TimeColumn`)."""
        self.doubtful = ""
        """How many publications may be dates of another time zone, "" if none."""
        self.times: dict[str, NDArray[np.int64]] = {
            c: np.concatenate(parts.pop(c)) for c in times if c in parts
        }
        self.numbers: dict[str, NDArray[np.float64]] = {
            c: np.concatenate(parts.pop(c)) for c in numbers if c in parts
        }
        self._texts = {column: pa.chunked_array(found) for column, found in parts.items()}

    def publications(self) -> NDArray[np.int64]:
        """`times["published_at"]`; if most of them are midnights, these are dates, and so the ends of their days.

        Adds to `dates`, and sets `doubtful`.
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
        """The texts (None where missing) of the rows with these indices, one row at a time, decoded a block at a time."""
        for start in range(0, len(order), _BLOCK_ROWS):
            indices = as_arrow(order[start : start + _BLOCK_ROWS], pa.int64())
            block = {column: values.take(indices).to_pylist() for column, values in self._texts.items()}
            for row in range(len(indices)):
                yield {column: values[row] for column, values in block.items()}

    def _text(self, values: pa.Array, column: str) -> pa.Array:
        kind, name = values.type, self.names[column]
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
                f"{self.path}: column {name} holds {kind}, which is no text", hint="write texts"
            ) from None
        except pa.ArrowException:
            raise DataError(
                f"{self.path} is not UTF-8: column {name}", hint="save its texts as UTF-8"
            ) from None
        return values


def _codes(lists: pa.Array) -> pa.Array:
    """Lists of objects as lists of their tickers. Without a field of tickers it is returned as it is, and is no text."""
    fields = {lists.type.value_type.field(n).name for n in range(lists.type.value_type.num_fields)}
    code = next((name for name in _CODES if name in fields), None)
    if code is None:
        return lists
    found = [
        None if row is None else [None if item is None else item[code] for item in row]
        for row in lists.to_pylist()
    ]
    return pa.array(found, pa.list_(lists.type.value_type.field(code).type))
