"""The closes that a run saw, from its own kline files or its journal, and some from before it began."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from agent.analysis.daily import Closes
from agent.analysis.report.evidence import past_of
from agent.config import Config
from agent.core.events import Kline
from agent.data.columns import content_hash
from agent.data.klines import KlineFile
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.runs import InputFile, Run, RunKind


def closes_of(
    database: Database, run: Run, config: Config, start: int, end: int, notes: list[str]
) -> dict[str, Closes]:
    """By symbol, up to `end` and from `past_of` before `start` (UTC ms) on, if the files reach back so far; `notes` get what is missing."""
    if run.kind is RunKind.LIVE:
        return _journalled(database, run, config, end)
    interval, open_always = config.market.interval, config.market.category != "equity"
    window = run.config.get("window") or {}
    return {
        file.symbol: Closes(
            *KlineFile(
                file.path,
                file.symbol,
                interval,
                start=start,
                end=end,
                warmup_bars=past_of(interval) // interval,
                around_the_clock=open_always,
                timezone=window.get("timezone"),
            ).closes()
        )
        for file in run.inputs
        if file.role == "klines" and _unchanged(file, notes)
    }


def _journalled(database: Database, run: Run, config: Config, end: int) -> dict[str, Closes]:
    """The closed bars of the run's journal, each once and in the order of their time; it has late ones where they came."""
    found: dict[str, dict[int, float]] = {symbol: {} for symbol in config.market.symbols}
    for _, event in read_journal(database, run.id):
        if (
            isinstance(event, Kline)
            and event.confirm
            and event.interval == config.market.interval
            and event.ts <= end
        ):
            found.setdefault(event.symbol, {})[event.ts] = event.close
    return {
        symbol: Closes(np.array(sorted(bars), np.int64), np.array([bars[ts] for ts in sorted(bars)]))
        for symbol, bars in found.items()
        if bars
    }


def _unchanged(file: InputFile, notes: list[str]) -> bool:
    """Whether the file is still what the run read; if not, a note says what the page lacks."""
    path = Path(file.path)
    if not path.exists():
        notes.append(f"{path} is gone, so the price of {file.symbol} can't be drawn.")
    elif content_hash(path) != file.sha256:
        notes.append(f"{path} has changed since the run, so the price of {file.symbol} is not drawn.")
    else:
        return True
    return False
