"""Klines into a script or a notebook: `get_klines(symbol, interval, limit)`, from Bybit or from files.

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

    from agent.data.kline_writer import Row


class DataLoader(Protocol):
    """Where bars come from."""

    def get_klines(self, symbol: str, interval: str = "1h", limit: int = 200) -> pd.DataFrame:
        """The last `limit` closed bars, oldest first, by their open time (UTC): open, high, low, close, volume, turnover.

        There are fewer where the source has fewer. `interval` is a duration such as 1m, 4h, 1d.
        """
        ...


class BybitDataLoader:
    """Bybit's public history; no key is needed. `endpoint` is mainnet, testnet or the URL of a sandbox on this machine."""

    def __init__(self, endpoint: str = "mainnet", category: Literal["linear", "spot"] = "linear") -> None:
        self.endpoint = endpoint
        self.category = category

    def get_klines(self, symbol: str, interval: str = "1h", limit: int = 200) -> pd.DataFrame:
        """See `DataLoader`. Raises UsageError for an unknown symbol, VenueError where Bybit can't be reached."""
        from agent.data.frames import klines_frame

        length = _checked(interval, limit)
        with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop of its own already
            rows = thread.submit(asyncio.run, self._latest(symbol.upper(), length, limit)).result()
        return klines_frame(rows, symbol.upper())

    async def _latest(self, symbol: str, interval: int, limit: int) -> list[Row]:
        from agent.data.download import BybitKlines, Wanted

        wanted = Wanted(symbol, interval, 0, 0, self.category)
        async with BybitKlines(wanted, self.endpoint) as source:
            return await source.latest(limit)


class FileDataLoader:
    """The same from kline files, by default the sample data. Bars may be asked longer than the file's."""

    def __init__(self, files: Sequence[str | Path] = (), *, timezone: str | None = None) -> None:
        samples = resource("sample_data")
        self.files = [Path(file) for file in files] or sorted(samples.glob("*-1m.csv"))
        self.timezone = timezone

    def get_klines(self, symbol: str, interval: str = "1h", limit: int = 200) -> pd.DataFrame:
        """See `DataLoader`. Raises UsageError where no file has the symbol or its bars don't make up the interval."""
        from agent.core.events import Kline
        from agent.data.frames import coarser, klines_frame
        from agent.data.klines import KlineFile

        length = _checked(interval, limit)
        files = {
            file.symbol: file for file in (KlineFile(path, timezone=self.timezone) for path in self.files)
        }
        file = files.get(symbol.upper())
        if file is None:
            raise UsageError(f"no file of {symbol}", hint=f"there are {', '.join(files) or 'none'}")
        if length % file.interval:
            raise UsageError(
                f"{file.path} has bars of {format_duration(file.interval)}, which don't make up {interval}",
                hint=f"ask for a multiple of {format_duration(file.interval)}",
            )
        rows = [
            (b.start, b.open, b.high, b.low, b.close, b.volume, b.turnover)
            for b in file
            if isinstance(b, Kline)
        ]
        frame = klines_frame(rows, file.symbol)
        if length > file.interval:
            frame = coarser(frame, file.interval, length)
        if frame.empty:
            raise DataError(f"{file.path} has no whole bar of {interval}")
        return frame.iloc[-limit:]


def _checked(interval: str, limit: int) -> int:
    """`interval` in ms."""
    if limit < 1:
        raise UsageError(f"limit is {limit}", hint="at least one bar")
    try:
        return parse_duration(interval)
    except ValueError as error:
        raise UsageError(f"interval: {error}") from None
