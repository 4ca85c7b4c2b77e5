"""What happened in a run: changes of risk, commands, notes of the strategy, rejected orders."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from agent.api.api_messages import LEVELS, ActivityEntry, ActivityPage, Level
from agent.api.route_table import ActivityQuery
from agent.core.events import (
    CashAdjustment,
    Command,
    Decision,
    Notice,
    OrderStatus,
    OrderUpdate,
    RiskEvent,
    RiskState,
    StrategyChange,
    kind_of,
)
from agent.core.risk import KILL, NOTES, WARM_UP
from agent.data.text import one_line
from agent.live.formatting import describe
from agent.store.database import Database
from agent.store.journal import decode, read_journal_rows
from agent.store.queries import read_numbered
from agent.store.runs import Run, RunKind

MAX_KEPT: Final = 20_000
"""Activities of a run that are kept: the newest."""

_TEXT: Final = 500  # characters
_KINDS: Final = (RiskEvent, Notice, StrategyChange, CashAdjustment, OrderUpdate)
_ROUTINE: Final = ("heartbeat", "reconciling", "life", "warm-up", "warm-up-done")
_SERIOUS: Final = ("kill", "halt", "alarm", "emergency-kill", "strategy-error")


class Activities:
    """The activities of a run, newest first, and how many older ones were left out."""

    def __init__(self, entries: list[ActivityEntry], omitted: int) -> None:
        self.entries = entries
        self.omitted = omitted


def read_activities(database: Database, run: Run) -> Activities:
    """Read all activities of a run."""
    kept: deque[ActivityEntry] = deque(maxlen=MAX_KEPT)
    count = 0
    for entry in _decided(database, run):
        kept.append(entry)
        count += 1
    found = [*kept, *_commanded(database, run)]
    found.sort(key=lambda entry: (entry.event, entry.seq), reverse=True)
    omitted = count - len(kept) + max(len(found) - MAX_KEPT, 0)
    return Activities(found[:MAX_KEPT], omitted)


def _decided(database: Database, run: Run) -> Iterator[ActivityEntry]:
    for seq, event, _, decision in read_numbered(database, run.id, _KINDS):
        if not isinstance(decision, OrderUpdate) or decision.status is OrderStatus.REJECTED:
            yield _entry(decision, event, seq, _level_of(decision))


def _commanded(database: Database, run: Run) -> Iterator[ActivityEntry]:
    """Yield the commands of a live run; a backtest has none."""
    if run.kind is not RunKind.LIVE:
        return
    for row in read_journal_rows(database, run.id):
        if row.kind == _COMMAND:
            command = decode(row.payload)
            if isinstance(command, Command) and command.action not in _ROUTINE:
                yield _entry(command, row.seq, 0, "warning" if command.action in _SERIOUS else "info")


_COMMAND: Final = kind_of(Command("", 0, 0, {}, ""))


def _level_of(decision: Decision) -> Level:
    match decision:
        case Notice():
            return next((level for level in LEVELS if level == decision.level), "info")
        case RiskEvent() if decision.rule in (*NOTES, WARM_UP):
            return "info"
        case RiskEvent() if decision.rule == KILL and not decision.symbol:
            return "error" if decision.state is RiskState.HALTED else "info"
        case RiskEvent():
            return "info" if decision.state is RiskState.ACTIVE and not decision.symbol else "warning"
        case OrderUpdate():
            return "warning"
    return "info"


def _entry(message: Decision | Command, event: int, seq: int, level: Level) -> ActivityEntry:
    fields = describe(message)
    what, symbol = str(fields.pop("what")), str(fields.pop("symbol", ""))
    fields.pop("id", None)
    if isinstance(message, OrderUpdate):
        symbol = message.symbol
    if isinstance(message, Notice):
        text = message.text
    else:
        text = ", ".join(f"{name} {value}" for name, value in fields.items() if value not in ("", None))
    return ActivityEntry(message.ts, event, seq, level, what, symbol, one_line(text, _TEXT))


def activity_page(found: Activities, query: ActivityQuery) -> ActivityPage:
    """Return a page of the activities that match."""
    matching = [*matches(found.entries, query)]
    items = tuple(matching[query.offset : query.offset + query.limit])
    return ActivityPage(len(found.entries), found.omitted, len(matching), items)


def matches(entries: Iterable[ActivityEntry], query: ActivityQuery) -> Iterator[ActivityEntry]:
    """Yield the entries of the wanted level, or a more serious one, with all words."""
    least = LEVELS.index(query.level or "debug")
    words = (query.search or "").casefold().split()
    for entry in entries:
        text = f"{entry.what} {entry.symbol} {entry.text}".casefold()
        if LEVELS.index(entry.level) >= least and all(word in text for word in words):
            yield entry
