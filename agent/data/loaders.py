"""Klines for scripts and notebooks: `get_klines(symbol, interval, limit)`, from Bybit or from files.

>>> BybitDataLoader().get_klines("BTCUSDT", "1h", 500)["close"].pct_change().std()
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from agent.core.durations import format_duration, parse_duration
from agent.core.errors import DataError, UsageError
from agent.system.resources import resource

if TYPE_CHECKING:
    import pandas as pd

    from agent.data.kline_writer import KlineRow


class DataLoader(Protocol):
    """Source of bars."""

    def get_klines(self, symbol: str, interval: str = "1h", limit: int = 200) -> pd.DataFrame:
        """Return the last `limit` closed bars (fewer if the source has fewer), oldest first.

        The index is the open time (UTC); the columns are open, high, low, close, volume, turnover. `interval`
        is a duration such as 1m, 4h, 1d.
        """
        ...


class BybitDataLoader:
    """Bybit's public history, which needs no key.

    `endpoint` is mainnet, testnet or the URL of a sandbox on this machine.
    """

    def __init__(self, endpoint: str = "mainnet", category: Literal["linear", "spot"] = "linear") -> None:
        self.endpoint = endpoint
        self.category = category

    def get_klines(self, symbol: str, interval: str = "1h", limit: int = 200) -> pd.DataFrame:
        """See `DataLoader`. Raises UsageError for an unknown symbol, VenueError if Bybit can't be reached."""
        from agent.data.frames import klines_frame

        length = _interval_ms(interval, limit)
        with ThreadPoolExecutor(1) as thread:  # a notebook's own thread already runs an event loop
            rows = thread.submit(asyncio.run, self._latest(symbol.upper(), length, limit)).result()
        return klines_frame(rows, symbol.upper())

    async def _latest(self, symbol: str, interval: int, limit: int) -> list[KlineRow]:
        from agent.data.download import BybitKlines, KlineRequest

        wanted = KlineRequest(symbol, interval, 0, 0, self.category)
        async with BybitKlines(wanted, self.endpoint) as source:
            return await source.latest(limit)


class FileDataLoader:
    """Kline files, by default the sample data. A multiple of a file's interval is resampled."""

    def __init__(self, files: Sequence[str | Path] = (), *, timezone: str | None = None) -> None:
        samples = resource("sample_data")
        self.files = [Path(file) for file in files] or sorted(samples.glob("*-1m.csv"))
        self.timezone = timezone

    def get_klines(self, symbol: str, interval: str = "1h", limit: int = 200) -> pd.DataFrame:
        """See `DataLoader`. Raises UsageError if no file has the symbol or a suitable interval."""
        from agent.core.events import Kline
        from agent.data.frames import klines_frame, resample
        from agent.data.klines import KlineFile

        length = _interval_ms(interval, limit)
        opened = (KlineFile(path, timezone=self.timezone) for path in self.files)
        files = {file.symbol: file for file in opened}
        file = files.get(symbol.upper())
        if file is None:
            raise UsageError(f"no file of {symbol}", hint=f"there are {', '.join(files) or 'none'}")
        if length % file.interval:
            fine = format_duration(file.interval)
            hint = f"the interval must be a multiple of {fine}"
            raise UsageError(f"{file.path} has bars of {fine}, which don't make up {interval}", hint=hint)
        bars = (event for event in file if isinstance(event, Kline))
        rows = [(b.start, b.open, b.high, b.low, b.close, b.volume, b.turnover) for b in bars]
        frame = klines_frame(rows, file.symbol)
        if length > file.interval:
            frame = resample(frame, file.interval, length)
        if frame.empty:
            raise DataError(f"{file.path} has no whole bar of {interval}")
        return frame.iloc[-limit:]


def _interval_ms(interval: str, limit: int) -> int:
    """Return `interval` in ms. Raises UsageError, also if `limit` is below 1."""
    if limit < 1:
        raise UsageError(f"limit is {limit}", hint="at least one bar")
    try:
        return parse_duration(interval)
    except ValueError as error:
        raise UsageError(f"interval: {error}") from None
