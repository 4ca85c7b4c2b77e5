"""Conversion between bars, pandas frames and history files, for notebooks and scripts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from agent.core.events import DAY_MS
from agent.data.kline_writer import SCHEMA, KlineRow
from agent.system.atomic import write_parquet

_WEEK_MS: Final = 7 * DAY_MS
_MONDAY: Final = pd.Timestamp("1970-01-05", tz="UTC")
_DIGITS: Final = 16  # of the content's hash in a file's name


def klines_frame(rows: Sequence[KlineRow], symbol: str) -> pd.DataFrame:
    """Return bars as a frame indexed by open time (UTC), with the symbol in `attrs["symbol"]`."""
    frame = pd.DataFrame(list(rows), columns=SCHEMA.names)
    frame["open_time"] = pd.to_datetime(frame["open_time"], unit="ms", utc=True)
    frame = frame.set_index("open_time")
    frame.attrs["symbol"] = symbol
    return frame


def resample(frame: pd.DataFrame, fine: int, coarse: int) -> pd.DataFrame:
    """Resample bars of `fine` ms to bars of `coarse` ms, a multiple of it.

    Incomplete first and last bars are dropped. Bars are aligned to UTC; weeks begin on Monday.
    """
    every = pd.Timedelta(coarse, unit="ms")
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum", "turnover": "sum"}
    bars: pd.DataFrame = (
        frame.resample(every, origin=_MONDAY if coarse % _WEEK_MS == 0 else "epoch")
        .agg({name: rule for name, rule in how.items() if name in frame})
        .dropna()
    )
    first, last = frame.index[0], frame.index[-1] + pd.Timedelta(fine, unit="ms") - every
    bars = bars[(bars.index >= first) & (bars.index <= last)]
    bars.attrs = dict(frame.attrs)
    return bars


def save_frame(frame: pd.DataFrame, name: str, time_column: str, folder: Path) -> Path:
    """Write `frame` to `NAME-HASH.parquet` in `folder` unless it exists; equal frames have the same file.

    An index of times becomes `time_column`. A run that read the file can be verified as long as the file is
    kept.
    """
    if isinstance(frame.index, pd.DatetimeIndex):
        frame = frame.rename_axis(time_column).reset_index()
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    content = pa.BufferOutputStream()
    pq.write_table(table, content)
    path = folder / f"{name}-{hashlib.sha256(content.getvalue()).hexdigest()[:_DIGITS]}.parquet"
    if not path.exists():
        write_parquet(path, table.schema, [table])
    return path
