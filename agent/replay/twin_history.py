"""The backtest of a venue run's window: the run's own closed bars, and those of downloaded history.

Both replay the headlines as the run first saw them, with their recorded scores. A backtest knows a bar at
its close and nothing of the open ones, and does not know that the agent was down.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agent.analysis.twin_report import BarDifferences, day_of
from agent.config import Config
from agent.core.durations import format_bar_length
from agent.core.errors import UsageError
from agent.core.events import (
    PRIORITY,
    AccountSnapshot,
    CashAdjustment,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    FundingSettlement,
    Gap,
    Kline,
    OrderUpdate,
)
from agent.data.klines import KlineFile
from agent.replay.decides_anew import DecidesAnew
from agent.replay.fusion_model import reopen_predictor
from agent.replay.twin_events import recorded_events
from agent.store.database import Database
from agent.store.runs import Run
from strategies import load_strategy

_OPERATORS: Final = ("pause", "resume", "halt", "kill", "flatten")
_ONCE: Final = ("life", "warm-up", "warm-up-done")
_VALUES: Final = ("open", "high", "low", "close", "volume")

_Key = tuple[str, int]  # symbol and start of a bar


class _ReplayedEvent(NamedTuple):
    event: Event
    decisions: list[Decision]  # those that changed the capital
    warms_up: bool


class HistoryTwin(NamedTuple):
    """Equity at the end of each UTC day: of the run's closed bars, and of the history."""

    closed: dict[str, Decimal]
    history: dict[str, Decimal]
    bars: list[BarDifferences]
    notes: list[str]


def replay_history(
    database: Database, run: Run, config: Config, files: Sequence[tuple[Path, str | None]]
) -> HistoryTwin:
    """Replay the window of a venue run, on its closed bars and on those of `files`.

    Without files the history is the run's own bars, as corrected later in its stream. Raises UsageError if a
    file has another interval or no bar of the window.
    """
    items, corrections = _closed_bars(database, run, config)
    streamed = _bars(items)
    sources = _read(files, config, streamed) if files else {}
    notes: list[str] = []
    if files:
        replaced: dict[_Key, Kline] = {}
        differences: list[BarDifferences] = []
        for symbol in config.market.symbols:
            own = {key: bar for key, bar in streamed.items() if key[0] == symbol}
            if symbol not in sources:
                notes.append(f"no file has bars of {symbol}: the run's own are replayed")
                replaced |= own
                continue
            path, bars = sources[symbol]
            replaced |= bars
            differences.append(_compare(symbol, path.name, own, bars))
    else:
        replaced = streamed | corrections
        differences = [
            _compare(symbol, "corrections", _of(symbol, streamed), _of(symbol, replaced))
            for symbol in config.market.symbols
        ]
    closed = _equities(run, config, items)
    history = closed if replaced == streamed else _equities(run, config, _with_bars(items, replaced))
    return HistoryTwin(closed, history, differences, notes)


def _closed_bars(
    database: Database, run: Run, config: Config
) -> tuple[list[_ReplayedEvent], dict[_Key, Kline]]:
    """Return what a backtest of the run's window replays, in order, and later corrections of its bars."""
    items: list[_ReplayedEvent] = []
    corrections: dict[_Key, Kline] = {}
    first: dict[_Key, Kline] = {}
    seen: set[str] = set()
    warms_up = False
    for _, event, decisions in recorded_events(database, run, config):
        capital: list[Decision] = [
            one
            for one in decisions
            if isinstance(one, CashAdjustment) or (isinstance(one, Fill) and one.kind is FillKind.TRANSFER)
        ]
        if isinstance(event, Kline):
            if not event.confirm or event.interval != config.market.interval:
                continue
            key = event.symbol, event.start
            if key in first:
                if _differs(first[key], event):
                    corrections[key] = event
                continue
            first[key] = event
            if not warms_up:
                event = msgspec.structs.replace(event, available_at=event.ts)
        elif isinstance(event, OrderUpdate | Fill | FundingSettlement | Gap):
            continue
        elif isinstance(event, AccountSnapshot):
            if not capital and "account" in seen:
                continue
            seen.add("account")
        elif isinstance(event, Command):
            if event.action in _ONCE and event.action not in seen:
                seen.add(event.action)
                warms_up = event.action == "warm-up"
            elif event.action not in _OPERATORS:
                continue
        items.append(_ReplayedEvent(event, capital, warms_up))
    return _in_order(items), corrections


def _in_order(items: list[_ReplayedEvent]) -> list[_ReplayedEvent]:
    """Sort by time and kind; the items of the warm-up keep their place, which is the beginning."""
    return [item for item in items if item.warms_up or _is_start(item)] + sorted(
        (item for item in items if not item.warms_up and not _is_start(item)),
        key=lambda item: (item.event.available_at, PRIORITY[type(item.event)]),
    )


def _is_start(item: _ReplayedEvent) -> bool:
    return isinstance(item.event, Command) and item.event.action in _ONCE


def _with_bars(items: list[_ReplayedEvent], bars: dict[_Key, Kline]) -> list[_ReplayedEvent]:
    """Replace the bars of `items` by `bars`."""
    result: list[_ReplayedEvent] = []
    used: set[_Key] = set()
    begins = min((item.event.ts for item in items if _trades(item)), default=0)
    for item in items:
        if not isinstance(item.event, Kline):
            result.append(item)
            continue
        bar = bars.get((item.event.symbol, item.event.start))
        if bar is None:
            continue
        used.add((bar.symbol, bar.start))
        result.append(item._replace(event=msgspec.structs.replace(bar, available_at=item.event.available_at)))
    for key, bar in bars.items():
        if key not in used and bar.ts >= begins:
            result.append(_ReplayedEvent(msgspec.structs.replace(bar, available_at=bar.ts), [], False))
    return _in_order(result)


def _trades(item: _ReplayedEvent) -> bool:
    return isinstance(item.event, Kline) and not item.warms_up


def _bars(items: list[_ReplayedEvent]) -> dict[_Key, Kline]:
    return {
        (item.event.symbol, item.event.start): item.event for item in items if isinstance(item.event, Kline)
    }


def _of(symbol: str, bars: dict[_Key, Kline]) -> dict[_Key, Kline]:
    return {key: bar for key, bar in bars.items() if key[0] == symbol}


def _read(
    files: Sequence[tuple[Path, str | None]], config: Config, streamed: dict[_Key, Kline]
) -> dict[str, tuple[Path, dict[_Key, Kline]]]:
    """Return by symbol the file and its bars within the window of the streamed ones."""
    if not streamed:
        raise UsageError("the run has no closed bars")
    start, end = min(key[1] for key in streamed), max(bar.ts for bar in streamed.values())
    found: dict[str, tuple[Path, dict[_Key, Kline]]] = {}
    always_open = config.market.category != "equity"
    for path, symbol in files:
        file = KlineFile(path, symbol, start=start, end=end, around_the_clock=always_open)
        if file.interval != config.market.interval:
            own, other = format_bar_length(config.market.interval), format_bar_length(file.interval)
            raise UsageError(f"{path} has bars of {other}, the run traded on bars of {own}")
        if file.symbol not in config.market.symbols:
            raise UsageError(
                f"{path} is of {file.symbol}, which the run did not trade",
                hint=f"its symbols are {', '.join(config.market.symbols)}",
            )
        bars = {(bar.symbol, bar.start): bar for bar in file if isinstance(bar, Kline)}
        if not bars:
            raise UsageError(f"{path} has no bar of the run's window")
        found[file.symbol] = path, bars
    return found


def _compare(
    symbol: str, source: str, streamed: dict[_Key, Kline], history: dict[_Key, Kline]
) -> BarDifferences:
    common = streamed.keys() & history.keys()
    differing = [key for key in common if _differs(streamed[key], history[key])]
    sizes = [
        abs(streamed[key].close / history[key].close - 1) * 10_000 for key in differing if history[key].close
    ]
    return BarDifferences(
        symbol,
        source,
        len(common),
        len(differing),
        sum(sizes) / len(sizes) if sizes else 0.0,
        max(sizes, default=0.0),
        len(streamed.keys() - common),
        len(history.keys() - common),
    )


def _differs(one: Kline, other: Kline) -> bool:
    return any(getattr(one, name) != getattr(other, name) for name in _VALUES)


def _equities(run: Run, config: Config, items: list[_ReplayedEvent]) -> dict[str, Decimal]:
    """Return the equity of a backtest at the end of each UTC day."""
    strategy = load_strategy(run.strategy, run.params)
    engine = DecidesAnew(config, strategy, run.id, reopen_predictor(config, run))
    equities: defaultdict[str, Decimal] = defaultdict(Decimal)
    for number, item in enumerate(items, 1):
        engine.handle(number, item.event, item.decisions)
        equities[day_of(item.event.available_at)] = engine.equity
    return dict(equities)
