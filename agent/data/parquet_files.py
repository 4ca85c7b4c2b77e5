"""Parquet files that are complete or absent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agent.system.atomic import replaced_file


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, mode: int = 0o666) -> None:
    """Write the `tables`, one or more row groups each, to `path` in place of what is there; `mode` is that of a new file.

    Raises StoreError if that can't be done; then `path` is as it was.
    """
    with replaced_file(path, mode=mode) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.cast(schema))
