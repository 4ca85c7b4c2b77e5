"""Columns of history files (parquet, CSV, JSON lines), read in batches and matched by their usual names.

Rows are numbered from 1, without the header.
"""

from __future__ import annotations

import codecs
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
_HEAD_LINES: Final = 8  # read to recognise the layout
Aliases = Mapping[str, Sequence[str]]
"""Canonical column name -> names in files, the preferred first."""

OBJECTS: Final = frozenset({"assets", "provenance"})
"""Columns whose values may be objects; they are read as their JSON."""

Batch = tuple[int, dict[str, pa.Array]]
"""Number of the batch's first row, and its columns by canonical name."""


def open_table(path: Path) -> Table:
    """Open the table in `path`, by its suffix: .parquet, .csv, .jsonl; the latter two also with .gz.

    Raises DataError if the file is missing, empty, damaged, of another format or not UTF-8.
    """
    try:
        if path.stat().st_size == 0:
            raise DataError(f"{path} is empty", hint="the download or export may have failed: repeat it")
        match path.name.lower().removesuffix(".gz").rsplit(".", 1)[-1]:
            case "parquet" | "pq":
                return ParquetTable(path)
            case "csv":
                return CsvTable(path)
            case "jsonl" | "ndjson":
                return JsonLinesTable(path)
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError) as error:  # the last: parquet metadata
        raise _damaged(path, error) from None
    accepted = "accepted are .parquet, .csv, .csv.gz, .jsonl and .jsonl.gz"
    raise DataError(f"{path}: unknown kind of file", hint=accepted)


_END: Final = re.compile("close.?time|end.?time|(?:time|ts|stamp)close|^end$|volumeto")
"""Folded names that are never suggested: the end of a bar, the volume in quote currency."""


def match_columns(table: Table, wanted: Aliases, *, required: Sequence[str]) -> dict[str, str]:
    """Return canonical name -> name in the file for the `wanted` columns that `table` has.

    Case, spaces and underscores don't matter. Raises DataError if a column of `required` is missing, with the
    closest name in the file as a hint.
    """
    found: dict[str, str] = {}
    for column, aliases in wanted.items():
        names = [name for alias in aliases for name in table.names if _fold(name) == _fold(alias)]
        if len(names) > 1 and _fold(names[0]) == _fold(names[1]):
            twins = f"{names[0]!r} and {names[1]!r}"
            raise DataError(f"{table.path}: two columns have the same name: {twins}", hint="drop one")
        if names:
            found[column] = names[0]
        elif column in required:
            others = {_fold(alias) for name, known in wanted.items() if name != column for alias in known}
            rest = [name for name in table.names if name not in found.values() and _fold(name) not in others]
            ends = [name for name in rest if _END.search(_fold(name))]
            candidates = [name for name in rest if name not in ends]
            close = difflib.get_close_matches(aliases[0], candidates, n=1, cutoff=0.5)
            if ends and not close and column == "open_time":  # if it were only renamed, bars would be late
                raise DataError(
                    f"{table.path}: no column {' or '.join(aliases)}, only {ends[0]}",
                    hint="subtract the interval from it, and name it 'open_time'",
                )
            advice = f"is it {close[0]!r}? Rename it" if close else "add or rename a column"
            present = ", ".join(table.names) or "none"
            raise DataError(
                f"{table.path}: no column {' or '.join(aliases)}; its columns are {present}",
                hint=f"{advice} to {aliases[0]!r}",
            )
    return found


def to_floats(values: pa.Array, path: Path, column: str, first_row: int) -> NDArray[np.float64]:
    """Return a column of any type as numbers, NaN if missing.

    Raises DataError that names the first bad value.
    """
    if not pa.types.is_float64(values.type):
        text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
        values = pc.utf8_trim_whitespace(values) if text else values
        try:
            values = values.cast(pa.float64(), safe=False)
        except pa.ArrowException:
            bad = first_uncastable(values, pa.float64())
            value = display(values[bad])
            hint = "write a point before decimals and nothing between thousands" if "," in value else ""
            where = location(path, first_row + bad, column)
            raise DataError(f"{where}: {value} is not a number", hint=hint) from None
    if values.null_count:
        values = pc.fill_null(values, np.nan)
    return as_numpy(values)


def location(path: Path, row: int, column: str) -> str:
    """Format a position in a file for errors."""
    return f"{path}: row {row}, column {column}"


def display(scalar: pa.Scalar, to_text: Callable[[Any], str] = repr) -> str:
    """Format a value for errors, including times outside the range of Python's datetime."""
    try:
        return to_text(scalar.as_py())
    except (ValueError, OverflowError):
        return f"{getattr(scalar, 'value', 'a value that cannot be shown')} ({scalar.type})"


def as_numpy(values: pa.Array) -> NDArray[Any]:
    """Return a view of the numbers, which must have no nulls.

    Unlike `to_numpy` this doesn't import pandas, which takes a quarter of a second and 45 MB.
    """
    return np.from_dlpack(values)


def as_json(values: Sequence[Any]) -> list[str | None]:
    """Return objects and lists as JSON texts; texts and None stay."""
    return [
        value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()
        for value in values
    ]


def as_arrow(values: NDArray[np.int64], kind: pa.DataType) -> pa.Array:
    """Return 64-bit integers as an arrow array of a 64-bit type; like `as_numpy` without importing pandas."""
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def first_uncastable(values: pa.Array, target: pa.DataType) -> int:
    """Return the index of the first value that can't be cast, for error messages."""
    for index in range(len(values)):
        try:
            values[index].cast(target)
        except (pa.ArrowException, NotImplementedError):
            return index
    return 0


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal, by which a run identifies its inputs. Raises DataError."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None


class ParquetTable:
    """Parquet file, decoded page by page in constant memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_BLOCK_BYTES)
        self.names: list[str] = list(self._file.schema_arrow.names)

    def batches(self, columns: Mapping[str, str], *, first_group: int = 0) -> Iterator[Batch]:
        """Yield the `columns` (canonical name -> the file's) in batches, from the row group `first_group` on.

        Raises DataError if the file is damaged.
        """
        metadata, names = self._file.metadata, list(columns.values())
        row = 1 + sum(metadata.row_group(group).num_rows for group in range(first_group))
        groups = list(range(first_group, metadata.num_row_groups))
        try:
            for batch in self._file.iter_batches(BATCH_ROWS, groups, names, use_threads=False):
                batch.validate(full=True)  # the reader doesn't check that texts are UTF-8
                yield row, {ours: _without_views(batch.column(name)) for ours, name in columns.items()}
                row += batch.num_rows
        except (OSError, pa.ArrowException) as error:
            if "UTF8" in str(error):
                raise _not_utf8(self.path, f"after row {row - 1}") from None
            raise _damaged(self.path, error, after_row=row - 1) from None

    def latest(self, column: str) -> list[tuple[int, pa.Array]]:
        """Return the number of rows and the largest value of a 64-bit `column` for every row group.

        The values come from the file's statistics. Empty if the file has none.
        """
        schema = self._file.schema_arrow
        index, kind = schema.get_field_index(column), schema.field(column).type
        found = []
        for number in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(number)
            if index >= group.num_columns or (chunk := group.column(index)).path_in_schema != column:
                return []  # nested columns shift the physical indices
            if chunk.physical_type != "INT64" or chunk.statistics is None or not chunk.statistics.has_min_max:
                return []
            found.append((group.num_rows, as_arrow(np.array([chunk.statistics.max_raw], np.int64), kind)))
        return found


def _without_views(values: pa.Array) -> pa.Array:
    """Cast string views, which polars writes, to strings: Arrow lacks many functions for views."""
    if pa.types.is_string_view(values.type):
        return values.cast(pa.large_string())
    if pa.types.is_list(values.type) and pa.types.is_string_view(values.type.value_type):
        return values.cast(pa.list_(pa.large_string()))
    return values


class CsvTable:
    """Delimited file, plain or gzipped, in a layout of `csv_dialect`. Every column is read as text.

    `symbol` is the symbol in the header, else "".
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with pa.input_stream(str(path), compression="detect") as stream:
            head: bytes = stream.read(1 << 16)
        lines = head.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]
        try:
            first = lines[0].decode("utf-8-sig")
        except UnicodeDecodeError as error:
            where = f"byte {error.object[error.start]:#04x} at position {error.start}"
            raise _not_utf8(path, where) from None
        texts = [first, *(line.decode(errors="replace") for line in lines[1:])]
        try:
            dialect = detect([line.rstrip("\r") for line in texts])
        except csv.Error as error:
            hint = "end lines with a line feed"
            raise DataError(f"{path}: its first line can't be read: {error}", hint=hint) from None
        if dialect is None:
            found = f"its first line is {first[:80]!r}"
            raise DataError(f"{path} has no header: {found}", hint="name the columns in a first line")
        if "," in dialect.symbol:
            symbols = dialect.symbol.replace(",", ", ")
            raise DataError(f"{path} holds several symbols: {symbols}", hint="write a file for each symbol")
        self._dialect = dialect
        self._header_lines = dialect.header_lines
        self.symbol = dialect.symbol
        joined = dialect.date_and_time
        others = tuple(name for name in dialect.names if name not in joined)
        self.names: Sequence[str] = (DATE_TIME, *others) if joined else others

    def batches(self, columns: Mapping[str, str]) -> Iterator[Batch]:
        """Yield batches as `ParquetTable.batches` does."""
        import pyarrow.csv as pacsv

        row = 1
        parts = self._dialect.date_and_time
        sources: list[str] = []
        for name in columns.values():
            sources += parts if parts and name == DATE_TIME else (name,)
        layout = pacsv.ReadOptions(
            use_threads=False,
            block_size=_BLOCK_BYTES,
            column_names=self._dialect.names,
            skip_rows=self._header_lines,
        )
        parsing = pacsv.ParseOptions(newlines_in_values=True, delimiter=self._dialect.delimiter)
        conversion = pacsv.ConvertOptions(
            include_columns=sources,
            column_types=dict.fromkeys(sources, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        try:
            with (
                pa.input_stream(str(self.path), compression="detect") as stream,
                pacsv.open_csv(stream, layout, parsing, conversion) as reader,
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
                f"{self.path}: {where} has {counts[2]} values, but the header names {counts[1]} columns",
                hint="the file may be cut off or its values may hold unquoted commas",
            )
        return _damaged(self.path, error, after_row=row - 1)


class JsonLinesTable:
    """One JSON object per line, plain or gzipped, held in memory: for news and funding rates."""

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
        """Yield all rows as one batch; see `ParquetTable.batches`."""
        arrays = {}
        for ours, name in columns.items():
            try:
                values = [row.get(name) for row in self._rows]
                arrays[ours] = pa.array(as_json(values) if ours in OBJECTS else values)
            except (pa.ArrowException, OverflowError) as error:
                raise DataError(f"{self.path}: column {name} mixes kinds of values: {error}") from None
        if self._rows:
            yield 1, arrays


Table = ParquetTable | CsvTable | JsonLinesTable
"""A file of rows: its `path`, the `names` of its columns, and `batches` of selected columns."""


def _fold(name: str) -> str:
    return name.strip("<>").lower().replace("_", "").replace(" ", "")


def _not_utf8(path: Path, where: str) -> DataError:
    with pa.input_stream(str(path), compression="detect") as stream:
        is_utf16 = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    advice = "it is UTF-16: save it as UTF-8" if is_utf16 else "save it as UTF-8"
    encoding = "utf-16" if is_utf16 else "latin1"
    return DataError(f"{path} is not UTF-8: {where}", hint=f"{advice}, e.g. iconv -f {encoding} -t utf-8")


def _damaged(path: Path, error: Exception, *, after_row: int = 0) -> DataError:
    reason = str(error).split("\n")[0]
    where = f"{path}: damaged after row {after_row}" if after_row else f"{path} can't be read"
    hint = "the file may be cut off or of another format: fetch or export it again"
    return DataError(f"{where}: {reason}", hint=hint)
