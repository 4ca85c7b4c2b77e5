"""Columns of history files: parquet, CSV and JSON lines, read in batches, with names matched the way people write them.

Rows count from 1, without the header.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from agent.core.errors import DataError
from agent.data.csv_dialect import DATE_TIME, detect
from agent.system.untrusted import JSON_DECODE_ERRORS

BATCH_ROWS: Final = 16_384
_BLOCK_BYTES: Final = 1 << 20
_HEAD_LINES: Final = 8  # that a layout is recognised by
Aliases = Mapping[str, Sequence[str]]
"""Our name of a column -> the names that files give it, the preferred first."""

Batch = tuple[int, dict[str, pa.Array]]
"""The number of the batch's first row, and its columns under our names."""


def open_table(path: Path) -> Table:
    """The table in `path`, by its suffix: .parquet, .csv, .jsonl, the latter two also .gz.

    Raises DataError where the file is missing, empty, damaged, of another format or not UTF-8.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(
                f"{path} is empty", hint="it may have been cut off while it was written: fetch it again"
            )
        match path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]:
            case "parquet" | "pq":
                return ParquetTable(path)
            case "csv":
                return CsvTable(path)
            case "jsonl" | "ndjson":
                return JsonLinesTable(path)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (
        OSError,
        EOFError,
        pa.ArrowException,
        UnicodeDecodeError,
    ) as error:  # the last by a name in a parquet file's end
        raise _damaged(path, error) from None
    raise DataError(
        f"{path}: unknown kind of file", hint="accepted are .parquet, .csv, .csv.gz, .jsonl and .jsonl.gz"
    )


_END: Final = re.compile("close.?time|end.?time|(?:time|ts|stamp)close|^end$|volumeto")
"""Columns, folded, that are no near name of any other: the end of a bar, and the volume in quote currency."""


def pick(table: Table, wanted: Aliases, *, required: Sequence[str]) -> dict[str, str]:
    """Our names of the `wanted` columns that `table` has -> the file's names; case, spaces and underscores don't matter.

    Raises DataError naming the column of `required` that is missing, with the closest name in the file.
    """
    found: dict[str, str] = {}
    for column, aliases in wanted.items():
        names = [name for alias in aliases for name in table.names if _fold(name) == _fold(alias)]
        if len(names) > 1 and _fold(names[0]) == _fold(names[1]):
            raise DataError(
                f"{table.path}: two columns have the same name: {names[0]!r} and {names[1]!r}",
                hint="drop one",
            )
        if names:
            found[column] = names[0]
        elif column in required:
            others = {_fold(alias) for name, known in wanted.items() if name != column for alias in known}
            rest = [name for name in table.names if name not in found.values() and _fold(name) not in others]
            ends = [name for name in rest if _END.search(_fold(name))]
            close = difflib.get_close_matches(
                aliases[0], [name for name in rest if name not in ends], n=1, cutoff=0.5
            )
            if ends and not close and column == "open_time":  # renamed as it is, it would be an interval late
                raise DataError(
                    f"{table.path}: no column {' or '.join(aliases)}, only {ends[0]}",
                    hint="subtract the interval from it, and name it 'open_time'",
                )
            advice = f"is it {close[0]!r}? Rename it" if close else "add or rename a column"
            raise DataError(
                f"{table.path}: no column {' or '.join(aliases)}; its columns are {', '.join(table.names) or 'none'}",
                hint=f"{advice} to {aliases[0]!r}",
            )
    return found


def to_floats(values: pa.Array, path: Path, column: str, first_row: int) -> NDArray[np.float64]:
    """Numbers, whatever type they are stored as; missing ones are NaN. Raises DataError naming the first that is no number."""
    if not pa.types.is_float64(values.type):
        text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        values = pc.utf8_trim_whitespace(values) if text else values
        try:
            values = values.cast(pa.float64(), safe=False)
        except pa.ArrowException:
            bad = first_uncastable(values, pa.float64())
            raise DataError(
                f"{place(path, first_row + bad, column)}: {shown(values[bad])} is not a number",
                hint="write a point before decimals and nothing between thousands"
                if "," in shown(values[bad])
                else "",
            ) from None
    if values.null_count:
        values = pc.fill_null(values, np.nan)
    return as_numpy(values)


def place(path: Path, row: int, column: str) -> str:
    """Where in a file something is, as errors say it."""
    return f"{path}: row {row}, column {column}"


def shown(scalar: pa.Scalar, told: Callable[[Any], str] = repr) -> str:
    """A value as errors say it, also a time beyond the years that Python knows."""
    try:
        return told(scalar.as_py())
    except (ValueError, OverflowError):
        return f"{getattr(scalar, 'value', 'a value that cannot be shown')} ({scalar.type})"


def as_numpy(values: pa.Array) -> NDArray[Any]:
    """A view on the numbers, without nulls. Unlike `to_numpy` this doesn't import pandas (a quarter second and 45 MB)."""
    return np.from_dlpack(values)


def as_arrow(values: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """64-bit integers as an arrow array of a 64-bit type, without a copy and, unlike `pa.array`, without importing pandas."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def first_uncastable(values: pa.Array, target: pa.DataType) -> int:
    """Index of the first value that can't be cast; for error messages."""
    for index in range(len(values)):
        try:
            values[index].cast(target)
        except (pa.ArrowException, NotImplementedError):
            return index
    return 0


def content_hash(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal: how a run's journal names its inputs."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None


class ParquetTable:
    """A parquet file, decoded page by page: memory doesn't grow with its length."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BLOCK_BYTES)
        self.names: list[str] = list(self._file.schema_arrow.names)

    def batches(self, columns: Mapping[str, str], *, first_group: int = 0) -> Iterator[Batch]:
        """The `columns` (our name -> the file's), batch by batch, from the row group `first_group` on.

        Raises DataError where the file is damaged.
        """
        metadata = self._file.metadata
        row = 1 + sum(metadata.row_group(group).num_rows for group in range(first_group))
        groups = list(range(first_group, metadata.num_row_groups))
        try:
            for batch in self._file.iter_batches(
                BATCH_ROWS, groups, list(columns.values()), use_threads=False
            ):
                batch.validate(full=True)  # the reader takes texts that aren't UTF-8 as they are
                yield row, {ours: _without_views(batch.column(name)) for ours, name in columns.items()}
                row += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            if "UTF8" in str(error):
                raise _not_utf8(self.path, f"after row {row - 1}") from None
            raise _damaged(self.path, error, after_row=row - 1) from None

    def latest(self, column: str) -> list[tuple[int, pa.Array]]:
        """For every row group its number of rows and the largest value of a 64-bit `column` as the file's index states it.

        Empty where the file doesn't state them.
        """
        index, kind = (
            self._file.schema_arrow.get_field_index(column),
            self._file.schema_arrow.field(column).type,
        )
        found = []
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            if index >= group.num_columns or (chunk := group.column(index)).path_in_schema != column:
                return []  # nested columns shift the physical index
            if chunk.physical_type != "INT64" or chunk.statistics is None or not chunk.statistics.has_min_max:
                return []
            found.append((group.num_rows, as_arrow(np.array([chunk.statistics.max_raw], np.int64), kind)))
        return found


def _without_views(values: pa.Array) -> pa.Array:
    """Texts as most programs write them: for views, as polars does, Arrow lacks many functions."""
    if pa.types.is_string_view(values.type):
        return values.cast(pa.large_string())
    if pa.types.is_list(values.type) and pa.types.is_string_view(values.type.value_type):
        return values.cast(pa.list_(pa.large_string()))
    return values


class CsvTable:
    """A delimited file, plain or gzipped, laid out as `csv_dialect` knows; every column is read as text.

    `symbol` is the one that the header names, else "".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.input_stream(str(path), compression="detect") as stream:
            head: bytes = stream.read(1 << 16)
        lines = head.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]
        try:
            first = lines[0].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _not_utf8(
                path, f"byte {error.object[error.start]:#04x} at position {error.start}"
            ) from None
        texts = [first, *(line.decode(errors="replace") for line in lines[1:])]
        try:
            dialect = detect([line.rstrip("\r") for line in texts])
        except csv.Error as error:
            raise DataError(
                f"{path}: its first line can't be read: {error}", hint="end lines by a line feed"
            ) from None
        if dialect is None:
            raise DataError(
                f"{path} has no header: its first line is {first[:80]!r}",
                hint="name the columns in a first line",
            )
        if "," in dialect.symbol:
            raise DataError(
                f"{path} holds several symbols: {dialect.symbol.replace(',', ', ')}",
                hint="write a file for each symbol",
            )
        self._dialect = dialect
        self._header_lines = dialect.header_lines
        self.symbol = dialect.symbol
        joined = dialect.date_and_time
        self.names: Sequence[str] = (
            dialect.names if not joined else (DATE_TIME, *(n for n in dialect.names if n not in joined))
        )

    def batches(self, columns: Mapping[str, str]) -> Iterator[Batch]:
        """As `ParquetTable.batches`."""
        import pyarrow.csv as pacsv

        row = 1
        parts = self._dialect.date_and_time
        sources = [
            part for name in columns.values() for part in (parts if parts and name == DATE_TIME else (name,))
        ]
        try:
            with (
                pa.input_stream(str(self.path), compression="detect") as stream,
                pacsv.open_csv(
                    stream,
                    pacsv.ReadOptions(
                        use_threads=False,
                        block_size=_BLOCK_BYTES,
                        column_names=self._dialect.names,
                        skip_rows=self._header_lines,
                    ),
                    pacsv.ParseOptions(newlines_in_values=True, delimiter=self._dialect.delimiter),
                    pacsv.ConvertOptions(
                        include_columns=sources,
                        column_types=dict.fromkeys(sources, pa.string()),
                        null_values=[""],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=True,
                    ),
                ) as reader,
            ):
                for batch in reader:
                    yield row, {ours: self._column(batch, name) for ours, name in columns.items()}
                    row += batch.num_rows
        except (OSError, EOFError, pa.ArrowException) as error:
            raise self._explain(error, row) from None

    def _column(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        parts = self._dialect.date_and_time
        if not parts or name != DATE_TIME:
            return batch.column(name)
        return pc.binary_join_element_wise(
            *(pc.utf8_trim_whitespace(batch.column(part)) for part in parts), " "
        )

    def _explain(self, error: Exception, row: int) -> DataError:
        text = str(error)
        stated = re.search(r"Row #(\d+)", text)
        where = f"row {int(stated[1]) - self._header_lines}" if stated else f"after row {row - 1}"
        if column := re.search(r"CSV column #(\d+)", text):
            where += f", column {self._dialect.names[int(column[1])]}"
        if "UTF8" in text:
            return _not_utf8(self.path, where)
        if counts := re.search(r"Expected (\d+) columns, got (\d+)", text):
            return DataError(
                f"{self.path}: {where} has {counts[2]} values where the header names {counts[1]} columns",
                hint="the file may be cut off or its values may hold unquoted commas",
            )
        return _damaged(self.path, error, after_row=row - 1)


class JsonLinesTable:
    """One JSON object a line, plain or gzipped, held in memory: for news and funding rates, which are small."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[dict[str, Any]] = []
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    if line.strip():
                        line.decode()
                        self._rows.append(decode(line))
                except UnicodeDecodeError as error:
                    raise _not_utf8(path, f"line {number}, byte {error.object[error.start]:#04x}") from None
                except JSON_DECODE_ERRORS as error:
                    raise DataError(f"{path}: line {number} is not a JSON object: {error}") from None
        self.names: Sequence[str] = list(dict.fromkeys(name for row in self._rows for name in row))

    def batches(self, columns: Mapping[str, str]) -> Iterator[Batch]:
        """As `ParquetTable.batches`, in one batch."""
        arrays = {}
        for ours, name in columns.items():
            try:
                arrays[ours] = pa.array([row.get(name) for row in self._rows])
            except (pa.ArrowException, OverflowError) as error:
                raise DataError(f"{self.path}: column {name} mixes kinds of values: {error}") from None
        if self._rows:
            yield 1, arrays


Table = ParquetTable | CsvTable | JsonLinesTable
"""A file of rows: its `path`, the `names` of its columns, and `batches` of those that are asked for."""


def _fold(name: str) -> str:
    return name.strip("<>").lower().replace("_", "").replace(" ", "")


def _not_utf8(path: Path, where: str) -> DataError:
    return DataError(f"{path} is not UTF-8: {where}", hint="save it as UTF-8, e.g. iconv -f latin1 -t utf-8")


def _damaged(path: Path, error: Exception, *, after_row: int = 0) -> DataError:
    reason = str(error).split("\n")[0]
    where = f"{path}: damaged after row {after_row}" if after_row else f"{path} can't be read"
    return DataError(
        f"{where}: {reason}", hint="the file may be cut off or of another format: fetch or export it again"
    )
