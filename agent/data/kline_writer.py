"""Writer of a growing kline file: new bars go to part files, and the file is replaced atomically."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from agent.core.errors import DataError
from agent.system.atomic import write_parquet
from agent.system.clock import iso

KlineRow = tuple[int, float, float, float, float, float, float]
"""Open time (UTC ms), open, high, low, close, volume, turnover."""

SCHEMA: Final = pa.schema(
    [
        ("open_time", pa.timestamp("ms", tz="UTC")),
        *((name, pa.float64()) for name in ("open", "high", "low", "close", "volume", "turnover")),
    ]
)


class KlineWriter:
    """Writes bars to the parquet file `path`, whose metadata are `labels`.

    `append` makes bars durable at once, `finish` joins the parts to the file. Both replace whole files
    atomically, so if the program is killed, the next writer finds all appended bars. Only one process may use
    it at a time.

    `first` and `last` are the open times (UTC ms; 0: none) of the existing and appended bars.

    Raises DataError if `path` holds other data, StoreError if it can't be written.
    """

    def __init__(self, path: Path, labels: Mapping[str, str]) -> None:
        self.path = path
        self._labels = dict(labels)
        self._schema = SCHEMA.with_metadata(self._labels)
        self._parts = sorted(path.parent.glob(f".{path.name}.*.part"))
        spans = [self._span(file) for file in (path, *self._parts) if file.exists()]
        self.first = min((first for first, _ in spans), default=0)
        self.last = max((last for _, last in spans), default=0)

    def append(self, rows: Sequence[KlineRow]) -> None:
        """Append bars, in order, that open after `last`."""
        if not rows:
            return
        if rows[0][0] <= self.last:
            raise ValueError(f"{iso(rows[0][0])} is not after {iso(self.last)}")
        part = self.path.with_name(f".{self.path.name}.{rows[0][0]:015d}.part")
        write_parquet(part, self._schema, [self._table(rows)])
        self._parts.append(part)
        self.first, self.last = self.first or rows[0][0], rows[-1][0]

    def finish(self) -> None:
        """Join the appended parts to the file."""
        if self._parts:
            write_parquet(self.path, self._schema, self._joined())
            for part in self._parts:
                part.unlink(missing_ok=True)
            self._parts = []

    def rewrite(self, rows: Sequence[KlineRow]) -> None:
        """Replace all bars by these."""
        write_parquet(self.path, self._schema, [self._table(rows)])
        self.first, self.last = rows[0][0], rows[-1][0]

    def _table(self, rows: Sequence[KlineRow]) -> pa.Table:
        columns = zip(zip(*rows, strict=True), self._schema, strict=True)
        return pa.table([pa.array(column, field.type) for column, field in columns], schema=self._schema)

    def _joined(self) -> Iterator[pa.Table]:
        """Yield the file's row groups, then those of the parts that the file doesn't contain yet."""
        newest = 0
        for file in (self.path, *self._parts):
            if not file.exists():
                continue
            with pq.ParquetFile(file) as source:
                for number in range(source.num_row_groups):
                    table = source.read_row_group(number)
                    starts = table.column("open_time").cast(pa.int64())
                    if starts[0].as_py() > newest:
                        newest = starts[-1].as_py()
                        yield table

    def _span(self, file: Path) -> tuple[int, int]:
        try:
            with pq.ParquetFile(file) as source:
                metadata = source.schema_arrow.metadata or {}
                found = {key.decode(): value.decode() for key, value in metadata.items()}
                if not source.schema_arrow.equals(SCHEMA) or self._labels.items() - found.items():
                    holds = " ".join(found[key] for key in self._labels if key in found) or "something else"
                    wanted = " ".join(self._labels.values())
                    raise DataError(
                        f"{self.path} holds {holds}, not {wanted}", hint="name another file with --output"
                    )
                first, last = (
                    source.read_row_group(number, ["open_time"]).column(0).cast(pa.int64())
                    for number in (0, source.num_row_groups - 1)
                )
                return first[0].as_py(), last[-1].as_py()
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{file} is damaged: {error}", hint="move it away to fetch its bars again"
            ) from None
