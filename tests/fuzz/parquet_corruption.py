"""Corrupts the columns of a parquet file: unexpected types and extreme values."""

from __future__ import annotations

import io
from collections.abc import Callable
from decimal import Decimal
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from tests.fuzz.corruption import Corruption, corrupt_bytes

_FILLS: Final[tuple[Callable[[int], pa.Array], ...]] = (
    lambda n: pa.nulls(n),
    lambda n: pa.array([None] * n, pa.float64()),
    lambda n: pa.array([float("nan")] * n),
    lambda n: pa.array([float("inf")] * n),
    lambda n: pa.array([-1.0] * n, pa.float32()),
    lambda n: pa.array([0.5] * n, pa.float32()).cast(pa.float16()),
    lambda n: pa.array([2**63 - 1] * n, pa.int64()),
    lambda n: pa.array([2**64 - 1] * n, pa.uint64()),
    lambda n: pa.array([-(2**63)] * n, pa.int64()),
    lambda n: pa.array([i % 2 == 0 for i in range(n)]),
    lambda n: pa.array([b"\xff\xfe"] * n, pa.binary()),
    lambda n: pa.array([b"\xff\xfe\x00\x01"] * n, pa.binary(4)),
    lambda n: pa.Array.from_buffers(
        pa.string(),
        n,
        [None, pa.array(range(0, 2 * n + 2, 2), pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe" * n)],
    ),
    lambda n: pa.array([["BTC", None]] * n),
    lambda n: pa.array([[]] * n, pa.list_(pa.int64())),
    lambda n: pa.array([[1, 2]] * n, pa.list_(pa.int64(), 2)),
    lambda n: pa.array([[[["x"]]]] * n),
    lambda n: pa.array([{"a": 1, "b": "x"}] * n),
    lambda n: pa.array([[("k", 1)]] * n, pa.map_(pa.string(), pa.int64())),
    lambda n: pa.array([Decimal("1e30")] * n, pa.decimal128(38, 2)),
    lambda n: pa.array([Decimal("0.1")] * n, pa.decimal256(60, 10)),
    lambda n: pa.array([10**15] * n, pa.timestamp("s")),
    lambda n: pa.array([2**62] * n, pa.timestamp("ns", "UTC")),
    lambda n: pa.array([1] * n, pa.timestamp("ms", "Europe/Berlin")),
    lambda n: pa.array([10**14] * n, pa.timestamp("s", "UTC")),
    lambda n: pa.array([20_000] * n, pa.date32()),
    lambda n: pa.array([2**31 - 1] * n, pa.date32()),
    lambda n: pa.array([86_399] * n, pa.time32("s")),
    lambda n: pa.array([5] * n, pa.duration("ns")),
    lambda n: pa.array(["BTC"] * n).dictionary_encode(),
    lambda n: pa.array(["1.5"] * n).dictionary_encode(),
    lambda n: pa.array([1.5] * n).dictionary_encode(),
    lambda n: pa.array(["2025-03-02T12:00:00Z"] * n).dictionary_encode(),
    lambda n: pa.array(["", None] * n, pa.large_string())[:n],
    lambda n: pa.array([" 1 "] * n, pa.string_view()),
    lambda n: pa.array(["9" * 400] * n),
    lambda n: pa.array([i * 10**9 for i in range(n)], pa.int64()),
)


def corrupt_columns(document: bytes, corruption: Corruption) -> bytes:
    """Change type, values or number of columns or rows; fall back to `corrupt_bytes`."""
    try:
        table = pq.read_table(io.BytesIO(document), use_threads=False)
        if not table.num_columns:
            return corrupt_bytes(document, corruption)
        at = int(corruption.position * table.num_columns)
        match corruption.kind % 9:
            case 0:
                table = table.remove_column(at)
            case 1:
                table = table.slice(0, corruption.value % 3)
            case 2:
                table = table.append_column(table.column_names[at], table.column(at))
            case 3:
                table = pa.concat_tables([table, table])
            case 4:
                table = table.take(pa.array(list(range(table.num_rows - 1, -1, -1)), pa.int64()))
            case _:
                name, fill = table.column_names[at], _FILLS[corruption.value % len(_FILLS)]
                table = table.set_column(at, name, fill(table.num_rows))
        pq.write_table(table, out := io.BytesIO(), row_group_size=1 + corruption.value, version="2.6")
    except (pa.ArrowException, OSError, ValueError, KeyError, IndexError):
        return corrupt_bytes(document, corruption)  # no longer a table, or not storable as a file
    return out.getvalue()
