"""The bars of a run from its kline files or its journal, including some from before its start."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from agent.analysis.report.candles import BarColumns
from agent.analysis.report.run_evidence import past_of
from agent.config import Config
from agent.core.events import Kline
from agent.data.bar_checks import VALUES, Bars
from agent.data.columns import content_hash
from agent.data.klines import KlineFile
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.runs import InputFile, Run, RunKind

COLUMNS: Final = VALUES[:5]  # without the turnover


def bars_of(
    database: Database, run: Run, config: Config, start: int, end: int, notes: list[str]
) -> dict[str, BarColumns]:
    """Read the bars by symbol from `past_of` before `start` to `end` (UTC ms), as far as there are any.

    A live run's bars come from its journal. Files that are missing or have changed are left out, with a
    note in `notes`.
    """
    if run.kind is RunKind.LIVE:
        return _journalled(database, run, config, end)
    interval, open_always = config.market.interval, config.market.category != "equity"
    window = run.config.get("window") or {}
    return {
        file.symbol: _columns(
            KlineFile(
                file.path,
                file.symbol,
                interval,
                start=start,
                end=end,
                warmup_bars=past_of(interval) // interval,
                around_the_clock=open_always,
                timezone=window.get("timezone"),
            ).bars()
        )
        for file in run.inputs
        if file.role == "klines" and _unchanged(file, notes)
    }


def _journalled(database: Database, run: Run, config: Config, end: int) -> dict[str, BarColumns]:
    """Read the closed bars of the run's journal; some may have arrived late, so sort them by time."""
    found: dict[str, dict[int, Kline]] = {symbol: {} for symbol in config.market.symbols}
    for _, event in read_journal(database, run.id):
        if (
            isinstance(event, Kline)
            and event.confirm
            and event.interval == config.market.interval
            and event.ts <= end
        ):
            found.setdefault(event.symbol, {})[event.ts] = event
    return {symbol: _of_events([bars[ts] for ts in sorted(bars)]) for symbol, bars in found.items() if bars}


def _columns(bars: Bars) -> BarColumns:
    return BarColumns(bars.start, bars.close, np.array(bars.values[: len(COLUMNS)]))


def _of_events(bars: list[Kline]) -> BarColumns:
    start, close_ts = (np.array([getattr(bar, name) for bar in bars], np.int64) for name in ("start", "ts"))
    values = [[getattr(bar, name) for bar in bars] for name in COLUMNS]
    return BarColumns(start, close_ts, np.array(values, np.float64))


def _unchanged(file: InputFile, notes: list[str]) -> bool:
    """Return True if the file is the one that the run read; else add a note."""
    path = Path(file.path)
    if not path.exists():
        notes.append(f"{path} is missing, so the report has no price chart of {file.symbol}.")
    elif content_hash(path) != file.sha256:
        notes.append(f"{path} has changed since the run, so the report has no price chart of {file.symbol}.")
    else:
        return True
    return False
