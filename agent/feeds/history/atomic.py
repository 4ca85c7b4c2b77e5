"""Parquet files that are whole or not there: written aside, forced to disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from agent.errors import StoreError


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table], *, mode: int = 0o666) -> None:
    """Write the `tables`, one or more row groups each, to `path` in place of what is there; `mode` is that of a new file.

    Raises StoreError where that can't be done; then `path` is as it was.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.unlink(missing_ok=True)
            with open(unfinished, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
                with pq.ParquetWriter(file, schema, compression="zstd") as writer:
                    for table in tables:
                        writer.write_table(table.cast(schema))
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror or error}", hint="check free space and rights") from None
